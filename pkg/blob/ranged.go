package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// A ranged blob asks for this much first and four times more with each further request up to the largest: a reader of a
// header costs little, a reader of everything pays few round trips.
const (
	firstWindow   = 1 << 20
	largestWindow = 64 << 20
	// readAttempts is how often a read is resumed at its offset without any progress.
	readAttempts = 4
)

// RangeFunc opens n bytes of something, from offset off on; n is at least 1 and the range lies within its size.
type RangeFunc func(off, n int64) (io.ReadCloser, error)

// NewRanged returns a Blob that reads over a network by ranges. A read that breaks off is resumed where it stopped.
func NewRanged(size int64, modTime time.Time, open RangeFunc) Blob {
	return &ranged{size: size, modTime: modTime, open: open, window: firstWindow}
}

type ranged struct {
	size    int64
	modTime time.Time
	open    RangeFunc
	closed  bool

	pos    int64
	body   io.ReadCloser // positioned at pos; nil between windows
	left   int64         // what body still holds
	window int64
}

func (b *ranged) Size() int64        { return b.size }
func (b *ranged) ModTime() time.Time { return b.modTime }

func (b *ranged) Read(p []byte) (int, error) {
	if b.closed {
		return 0, fs.ErrClosed
	}
	if b.pos >= b.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	var err error
	for range readAttempts {
		if b.body == nil {
			b.left = min(b.window, b.size-b.pos)
			if b.body, err = b.open(b.pos, b.left); err != nil {
				b.body = nil
				if !resumable(err) {
					return 0, err
				}
				continue
			}
			b.window = min(4*b.window, largestWindow)
		}
		var n int
		n, err = b.body.Read(p[:min(int64(len(p)), b.left)])
		b.pos += int64(n)
		b.left -= int64(n)
		if err != nil || b.left == 0 {
			b.drop()
		}
		if n > 0 || !resumable(err) {
			if n > 0 {
				err = nil
			}
			return n, err
		}
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// resumable reports whether asking again may help.
func resumable(err error) bool {
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !fault.Is(err, fault.NotFound)
}

func (b *ranged) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

func (b *ranged) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return b.pos, fault.New(fault.Internal, "seek before the start of a blob")
	}
	if offset != b.pos {
		b.drop()
		b.pos, b.window = offset, firstWindow
	}
	return offset, nil
}

// ReadAt uses requests of its own and shares nothing with Read but the size.
func (b *ranged) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fault.New(fault.Internal, "read before the start of a blob")
	}
	if off >= b.size {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), b.size-off))
	section := &ranged{size: off + int64(want), open: b.open, pos: off, window: max(int64(want), 1)}
	defer section.Close()
	n, err := io.ReadFull(section, p[:want])
	if err == nil && want < len(p) {
		err = io.EOF
	}
	return n, err
}

func (b *ranged) Close() error {
	b.drop()
	b.closed = true
	return nil
}
