package blob

import (
	"context"
	"fmt"
	"io"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// NewVerifier returns a reader that yields what r yields and, in place of io.EOF, a fault of kind Internal and reason
// ReasonCorrupt if the bytes were not those of the digest. Readers must therefore not act on the bytes before the end.
func NewVerifier(r io.Reader, d Digest) io.Reader {
	return &verifier{r: r, want: d, in: NewIntake(PutOptions{})}
}

type verifier struct {
	r    io.Reader
	want Digest
	in   *Intake
	err  error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.in.sha.Write(p[:n])
	if err == io.EOF {
		var got Digest
		v.in.sha.Sum(got[:0])
		if got != v.want {
			err = fault.New(fault.Internal, "blob %s is corrupt: its bytes have the digest %s", v.want, got).WithReason(ReasonCorrupt)
		}
	}
	if err != nil {
		v.err = err
		v.in.Release()
	}
	return n, err
}

// Verify reads a stored blob in full and reports rotten bytes as a fault with reason ReasonCorrupt.
func Verify(ctx context.Context, s Store, d Digest) error {
	b, err := s.Open(ctx, d)
	if err != nil {
		return err
	}
	defer b.Close()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	r := NewVerifier(b, d)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := r.Read(*buf); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
}

// ReadAll returns the verified bytes of a blob of at most maxSize bytes; a larger one is Invalid with reason ReasonTooLarge.
func ReadAll(ctx context.Context, s Store, d Digest, maxSize int64) ([]byte, error) {
	b, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return readVerified(b, d, maxSize)
}

func readVerified(b Blob, d Digest, maxSize int64) ([]byte, error) {
	if b.Size() > maxSize {
		return nil, fmt.Errorf("read blob %s: %w", d, tooLarge(maxSize))
	}
	data := make([]byte, b.Size())
	if _, err := io.ReadFull(b, data); err != nil && err != io.EOF {
		return nil, diskError("read blob "+d.String(), err)
	}
	if got := Sum(data); got != d {
		return nil, fault.New(fault.Internal, "blob %s is corrupt: its bytes have the digest %s", d, got).WithReason(ReasonCorrupt)
	}
	return data, nil
}
