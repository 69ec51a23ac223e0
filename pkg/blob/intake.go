package blob

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"
)

// smallSize is how much of a body is read before anything is written. Bodies that end within it are hashed in
// memory, so that a blob which is there already, or is not the expected one, costs no file at all.
const smallSize = 256 << 10

var (
	buffers   = sync.Pool{New: func() any { b := make([]byte, smallSize); return &b }}
	sha256ers = sync.Pool{New: func() any { return sha256.New() }}
	md5ers    = sync.Pool{New: func() any { return md5.New() }}
)

// Intake hashes a body once while it streams in and checks it against PutOptions. Stores are built on it.
type Intake struct {
	o    PutOptions
	sha  hash.Hash
	md5  hash.Hash // nil unless asked for
	size int64
}

// NewIntake starts one body. Release it when done.
func NewIntake(o PutOptions) *Intake {
	in := &Intake{o: o, sha: sha256ers.Get().(hash.Hash)}
	in.sha.Reset()
	if o.MD5 || o.ExpectMD5 != nil {
		in.md5 = md5ers.Get().(hash.Hash)
		in.md5.Reset()
	}
	return in
}

// Release gives the hashers back.
func (in *Intake) Release() {
	sha256ers.Put(in.sha)
	if in.md5 != nil {
		md5ers.Put(in.md5)
	}
	in.sha, in.md5 = nil, nil
}

// Read fills buf from r as far as the body goes and hashes what it read. It returns io.EOF, with n possibly above 0,
// at the body's end. It stops at once when the body grows past what is expected or allowed.
func (in *Intake) Read(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if err = context.Cause(ctx); err != nil {
			break
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
		if lerr := in.limit(in.size + int64(n)); lerr != nil {
			return n, lerr
		}
	}
	in.sha.Write(buf[:n])
	if in.md5 != nil {
		in.md5.Write(buf[:n])
	}
	in.size += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read the blob's body: %w", err)
	}
	if err != nil && err != io.EOF { // a reader that wraps io.EOF lost its body half-way
		return n, fmt.Errorf("read the blob's body: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

// limit says whether a body of at least n bytes can still be taken.
func (in *Intake) limit(n int64) error {
	if e := in.o.ExpectSize; e != nil && n > *e {
		return &MismatchError{Field: "size", Want: strconv.FormatInt(*e, 10), Got: ">" + strconv.FormatInt(*e, 10)}
	}
	if in.o.MaxSize > 0 && n > in.o.MaxSize {
		return tooLarge(in.o.MaxSize)
	}
	return nil
}

// Finish compares the whole body with what was expected and returns what it is, with Created left to the store.
// The size is compared first: a truncated body is reported as such and not as a wrong digest.
func (in *Intake) Finish() (Info, error) {
	info := Info{Size: in.size}
	if e := in.o.ExpectSize; e != nil && in.size != *e {
		return info, &MismatchError{Field: "size", Want: strconv.FormatInt(*e, 10), Got: strconv.FormatInt(in.size, 10)}
	}
	in.sha.Sum(info.Digest[:0])
	if e := in.o.Expect; e != nil && info.Digest != *e {
		return info, &MismatchError{Field: "sha256", Want: e.String(), Got: info.Digest.String()}
	}
	if in.md5 != nil {
		in.md5.Sum(info.MD5[:0])
		if e := in.o.ExpectMD5; e != nil && info.MD5 != *e {
			return info, &MismatchError{Field: "md5", Want: hex.EncodeToString(e[:]), Got: hex.EncodeToString(info.MD5[:])}
		}
	}
	return info, nil
}
