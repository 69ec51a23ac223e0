package plane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// tail is how much of a file is withheld from its readers until it is known to be right (design D9). Whoever lacks it
// cannot take a wrong file for complete.
const tail = 64 << 10

// errRewritten: upstream sent other bytes the second time than those that the reader has had.
var errRewritten = errors.New("the file changed upstream while it was read")

// spool is a file that grows while readers follow it. The file has no name, so it is gone with the process.
type spool struct {
	mu       sync.Mutex
	file     *os.File
	users    int
	at       int64   // where the next byte goes: below high while bytes come a second time
	high     int64   // bytes that there are
	released int64   // bytes that readers may have
	cuts     []int64 // offsets from which on bytes were replaced, one after the other
	ended    bool
	err      error
	news     chan struct{} // closed and replaced when any of this changes
	buf      []byte
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "fetch-")
	if err != nil {
		return nil, fault.New(fault.Unavailable, "spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fault.New(fault.Unavailable, "spool: %w", err)
	}
	return &spool{file: f, users: 1, news: make(chan struct{})}, nil
}

// announce is called with the lock held.
func (s *spool) announce() {
	close(s.news)
	s.news = make(chan struct{})
}

// Write appends bytes, or compares those that come a second time.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := len(p)
	if again := min(int64(len(p)), s.high-s.at); again > 0 {
		same, err := s.compare(p[:again])
		if err != nil {
			return 0, err
		}
		s.at += int64(same)
		p = p[same:]
		if int64(same) < again {
			s.cuts = append(s.cuts, s.at)
			s.high, s.released = s.at, min(s.released, s.at)
		}
	}
	if len(p) > 0 {
		n, err := s.file.WriteAt(p, s.at)
		s.at += int64(n)
		if err != nil {
			return total - len(p) + n, fault.New(fault.Unavailable, "spool: %w", err)
		}
	}
	s.high = max(s.high, s.at)
	s.released = max(s.released, s.high-tail)
	s.announce()
	return total, nil
}

// compare returns how many bytes are those that are there.
func (s *spool) compare(p []byte) (int, error) {
	if len(s.buf) < len(p) {
		s.buf = make([]byte, max(len(p), 64<<10))
	}
	have := s.buf[:len(p)]
	if n, err := s.file.ReadAt(have, s.at); n < len(have) {
		return 0, fault.New(fault.Unavailable, "spool: %w", err)
	}
	if bytes.Equal(have, p) {
		return len(p), nil
	}
	for i := range p {
		if p[i] != have[i] {
			return i, nil
		}
	}
	return len(p), nil
}

// restart says that the bytes come from the beginning again.
func (s *spool) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = 0
}

// end releases all, or fails the readers.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	if err == nil && s.at < s.high { // a second time it was shorter, and that is the truth
		s.cuts = append(s.cuts, s.at)
		s.high = s.at
	}
	if err == nil {
		s.released = s.high
	}
	s.announce()
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		_ = s.file.Close() // nothing is left to be lost
	}
}

// reader returns a reader from the beginning of a file of size bytes. It is for one goroutine. ok is false when the spool
// is closed already.
func (s *spool) reader(ctx context.Context, size int64) (_ *spoolReader, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return nil, false
	}
	s.users++
	return &spoolReader{s: s, ctx: ctx, size: size}, true
}

// started waits until there are bytes to be had, or the end.
func (s *spool) started(ctx context.Context) error {
	for {
		s.mu.Lock()
		ready, err, news := s.released > 0 || s.ended, s.err, s.news
		s.mu.Unlock()
		if ready {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flowing reports whether there are bytes to be had, and more to come. Behind the end the file is in storage.
func (s *spool) flowing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released > 0 && !s.ended
}

// spoolReader follows a spool. It waits for bytes that are not there yet. It is an io.ReadSeeker, so that net/http can
// serve ranges from it.
type spoolReader struct {
	s    *spool
	ctx  context.Context
	size int64
	off  int64
	seen int64 // the end of the furthest byte that was read
	cuts int   // of the spool, that were taken note of
	err  error // sticky, but for io.EOF
}

func (r *spoolReader) Close() error {
	r.s.close()
	return nil
}

func (r *spoolReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("spool: seek before the beginning")
	}
	r.off = offset
	return offset, nil
}

func (r *spoolReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.off >= r.size {
		return 0, io.EOF
	}
	n, err := r.read(p)
	if err != nil {
		r.err = err
		return 0, err
	}
	r.off += int64(n)
	r.seen = max(r.seen, r.off)
	return n, nil
}

func (r *spoolReader) read(p []byte) (int, error) {
	for {
		r.s.mu.Lock()
		err := r.check(r.seen)
		have, ended, failed, news := r.s.released-r.off, r.s.ended, r.s.err, r.s.news
		r.s.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case failed != nil:
			return 0, failed
		case have > 0:
			n, err := r.s.file.ReadAt(p[:min(int64(len(p)), have, r.size-r.off)], r.off)
			if n == 0 {
				return 0, fault.New(fault.Unavailable, "spool: %w", err)
			}
			// The bytes may have been replaced while they were read.
			r.s.mu.Lock()
			err = r.check(r.off + int64(n))
			r.s.mu.Unlock()
			return n, err
		case ended:
			return 0, io.ErrUnexpectedEOF // shorter than the reader was told
		}
		select {
		case <-news:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

// check fails if bytes below end were replaced since the last look. The lock is held.
func (r *spoolReader) check(end int64) error {
	for ; r.cuts < len(r.s.cuts); r.cuts++ {
		if r.s.cuts[r.cuts] < end {
			return errRewritten
		}
	}
	return nil
}
