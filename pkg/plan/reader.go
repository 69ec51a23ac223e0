package plan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// maxWindow is the largest zstd window a reader allocates. Writer's level needs 4 MiB.
const maxWindow = 8 << 20

// Reader reads a plan entry by entry. It is for one goroutine.
type Reader struct {
	dec    *zstd.Decoder
	in     *bufio.Reader
	src    io.Closer
	header *channelsv1.PlanHeader
	limits Limits
	read   int64
	last   string
	err    error
}

// NewReader reads the header. The caller must Close the reader, which leaves r to its owner.
func NewReader(r io.Reader, l Limits) (*Reader, error) {
	l = l.orDefault()
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	pr := &Reader{dec: dec, limits: l}
	pr.in = bufio.NewReaderSize(&capped{r: dec, left: l.Bytes}, 64<<10)
	pr.header = new(channelsv1.PlanHeader)
	err = pr.message(pr.header)
	if err == io.EOF {
		err = invalid("it is empty")
	}
	if err == nil {
		err = checkHeader(pr.header)
	}
	if err == nil && pr.header.GetEntries() > l.Entries {
		err = invalid("%d entries are more than the allowed %d", pr.header.GetEntries(), l.Entries)
	}
	if err != nil {
		dec.Close()
		return nil, err
	}
	return pr, nil
}

// Open reads a stored plan and verifies its digest on the way: bytes that rotted end in an error in place of io.EOF.
func Open(ctx context.Context, store blob.Store, d blob.Digest, l Limits) (*Reader, error) {
	b, err := store.Open(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	r, err := NewReader(blob.NewVerifier(b, d), l)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	r.src = b
	return r, nil
}

// Header returns what the plan says of itself and of whole subdirs. Callers must not change it.
func (r *Reader) Header() *channelsv1.PlanHeader { return r.header }

// Next returns the next entry, which is the caller's to keep. After the last one comes io.EOF; any other error is
// final too, and nothing read from the plan should be acted upon then.
func (r *Reader) Next() (*channelsv1.PlanEntry, error) {
	if r.err != nil {
		return nil, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	return e, nil
}

func (r *Reader) next() (*channelsv1.PlanEntry, error) {
	e := new(channelsv1.PlanEntry)
	err := r.message(e)
	if err == io.EOF {
		if r.read != r.header.GetEntries() {
			return nil, invalid("%d entries, but %d promised", r.read, r.header.GetEntries())
		}
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	if r.read == r.header.GetEntries() {
		return nil, invalid("more entries than the %d promised", r.read)
	}
	if err := checkEntry(e, r.last); err != nil {
		return nil, err
	}
	r.read++
	r.last = e.GetPath()
	return e, nil
}

// All yields the entries that are left. An error is yielded last, with a nil entry; io.EOF is not.
func (r *Reader) All() iter.Seq2[*channelsv1.PlanEntry, error] {
	return func(yield func(*channelsv1.PlanEntry, error) bool) {
		for {
			e, err := r.Next()
			if err == io.EOF {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Close frees what the reader holds. It may be called twice.
func (r *Reader) Close() error {
	r.dec.Close()
	if r.err == nil {
		r.err = fault.New(fault.Internal, "plan: read after close")
	}
	if r.src == nil {
		return nil
	}
	src := r.src
	r.src = nil
	return src.Close()
}

func (r *Reader) message(m proto.Message) error {
	err := protodelim.UnmarshalOptions{MaxSize: int64(r.limits.Message)}.UnmarshalFrom(r.in, m)
	var tooLarge *protodelim.SizeTooLargeError
	var f *fault.Error
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.As(err, &f): // of the blob store, or a limit
		return fmt.Errorf("plan: %w", err)
	case errors.As(err, &tooLarge):
		return invalid("a message of %d bytes is more than the allowed %d", tooLarge.Size, tooLarge.MaxSize)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("plan: %w", err)
	}
	return invalid("it cannot be read: %w", err)
}

// capped fails where io.LimitReader would pretend that the plan ends.
type capped struct {
	r    io.Reader
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, invalid("it unpacks to more bytes than allowed")
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	return n, err
}
