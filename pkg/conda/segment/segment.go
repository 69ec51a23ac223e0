package segment

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// Segment is a finished segment. Its file holds the segment and then the closing member, so that it is an archive, and a
// layer of an image, by itself.
type Segment struct {
	Key    string `json:"key"`
	Member int64  `json:"member"` // bytes of the segment without the closing member
	Size   int64  `json:"size"`   // bytes of the file
	SHA256 string `json:"sha256"` // of the file
	// DiffSHA256 and DiffSize are of the tar that the file unpacks to.
	DiffSHA256 string `json:"diff_sha256"`
	DiffSize   int64  `json:"diff_size"`
	// Files has the paths of which the package does not know digest and size in the environment.
	Files map[string]File `json:"files,omitempty"`

	file string
	c    *Cache
}

// ErrBroken says that a file of the cache was not what it should be. It has been removed; the next try makes it again.
var ErrBroken = errors.New("a cached segment is broken")

// CopyFile writes the whole file, closing member included, and checks it.
func (s *Segment) CopyFile(w io.Writer) error { return s.copy(w, s.Size) }

// CopyMember writes the segment without the closing member, and checks it.
func (s *Segment) CopyMember(w io.Writer) error { return s.copy(w, s.Member) }

func (s *Segment) copy(w io.Writer, n int64) error {
	f, err := os.Open(s.file)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	defer f.Close()
	h := sha256.New()
	got, err := io.Copy(w, io.TeeReader(io.LimitReader(f, n), h))
	if err != nil {
		return err
	}
	rest, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got != n || got+rest != s.Size || hexSum(h.Sum(nil)) != s.SHA256 {
		s.c.drop(s.file)
		return fmt.Errorf("%w: %s", ErrBroken, s.file)
	}
	return nil
}

// Open reads the whole file without checking it, for who checks digests itself, such as a registry.
func (s *Segment) Open() (io.ReadCloser, error) { return os.Open(s.file) }

// Drop removes a segment whose file turned out not to be what it should be.
func (s *Segment) Drop() { s.c.drop(s.file) }

// Plain reads what the segment's file unpacks to.
func (s *Segment) Plain(f Form) (io.ReadCloser, error) {
	file, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	r, err := f.reader(file)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return plain{r, file}, nil
}

type plain struct {
	io.ReadCloser
	file *os.File
}

// Close implements io.Closer.
func (p plain) Close() error { return errors.Join(p.ReadCloser.Close(), p.file.Close()) }

// meter hashes and counts what goes by, and stops it when the context is done.
type meter struct {
	w   io.Writer
	h   hash.Hash
	n   int64
	ctx context.Context //nolint:containedctx // of the one call that made it
}

// Write implements io.Writer.
func (m *meter) Write(p []byte) (int, error) {
	if m.ctx != nil && m.ctx.Err() != nil {
		return 0, context.Cause(m.ctx)
	}
	n, err := m.w.Write(p)
	m.n += int64(n)
	m.h.Write(p[:n])
	return n, err
}
