package backup

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// sink takes the files of a backup that is being written. Nothing has the final name before commit.
type sink interface {
	put(name string, r io.Reader, size int64) error
	commit() error
	// abort removes what was written; after commit it does nothing.
	abort()
}

// newSink makes a tar for a path that ends in .tar, else a directory. The path must be free.
func newSink(path string) (sink, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fault.New(fault.Conflict, "%s is there already; a backup overwrites nothing", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	part := path + ".partial"
	if err := os.RemoveAll(part); err != nil {
		return nil, err
	}
	if !strings.HasSuffix(path, ".tar") {
		if err := os.Mkdir(part, 0o700); err != nil {
			return nil, err
		}
		return &dirSink{part, path}, nil
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &tarSink{f: f, w: tar.NewWriter(f), part: part, path: path}, nil
}

type dirSink struct{ part, path string }

func (s *dirSink) put(name string, r io.Reader, size int64) (err error) {
	path := filepath.Join(s.part, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	return err
}

func (s *dirSink) commit() error {
	syscall.Sync() // one flush for all files: a hundred thousand single ones would take an hour
	return os.Rename(s.part, s.path)
}

func (s *dirSink) abort() { _ = os.RemoveAll(s.part) }

type tarSink struct {
	f          *os.File
	w          *tar.Writer
	part, path string
}

func (s *tarSink) put(name string, r io.Reader, size int64) error {
	if err := s.w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(s.w, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	return err
}

func (s *tarSink) commit() error {
	if err := errors.Join(s.w.Close(), s.f.Sync(), s.f.Close()); err != nil {
		return err
	}
	return os.Rename(s.part, s.path)
}

func (s *tarSink) abort() {
	_ = s.f.Close()
	_ = os.Remove(s.part) // after commit it is not there
}

// source gives the files of a backup. A name that is not there is fs.ErrNotExist.
type source interface {
	open(name string) (io.ReadCloser, error)
	close() error
}

func openSource(path string) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "open the backup: %w", err)
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, fmt.Errorf("open the backup: %w", err)
		}
		return dirSource{root}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	s := &tarSource{f: f, at: map[string]section{}}
	if err := s.index(); err != nil {
		f.Close()
		return nil, fault.New(fault.Invalid, "%s is no backup that can be read: %w", path, err)
	}
	return s, nil
}

type dirSource struct{ root *os.Root }

func (s dirSource) open(name string) (io.ReadCloser, error) { return s.root.Open(name) }
func (s dirSource) close() error                            { return s.root.Close() }

type section struct{ offset, size int64 }

// tarSource reads a tar in any order.
type tarSource struct {
	f  *os.File
	at map[string]section
}

// index notes where the files are. tar.Reader reads no further than the header, and seeks over the contents.
func (s *tarSource) index() error {
	r := tar.NewReader(s.f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		offset, err := s.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			s.at[h.Name] = section{offset, h.Size}
		}
	}
}

func (s *tarSource) open(name string) (io.ReadCloser, error) {
	at, ok := s.at[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(s.f, at.offset, at.size)), nil
}

func (s *tarSource) close() error { return s.f.Close() }

// hashing counts and hashes what passes.
type hashing struct {
	r    io.Reader
	h    interface{ Write([]byte) (int, error) }
	size int64
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	_, _ = h.h.Write(p[:n]) // a hash never fails
	h.size += int64(n)
	return n, err
}

// putFile puts and describes.
func putFile(s sink, name string, r io.Reader, size int64) (File, error) {
	h := sha256.New()
	hr := &hashing{r: r, h: h}
	if err := s.put(name, hr, size); err != nil {
		return File{}, fmt.Errorf("write %s: %w", name, err)
	}
	f := File{Size: hr.size}
	h.Sum(f.SHA256[:0])
	return f, nil
}
