package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// Extract writes a package below root, which should be empty: an existing file
// is never overwritten or followed. Files keep their modification time and
// permission bits, without write access for group and others (see ExactModes).
//
// On an error the tree is incomplete and unverified, and the caller removes it.
// Nothing is ever written outside of root, whatever the package holds.
func Extract(ctx context.Context, r io.ReaderAt, size int64, filename string, root *os.Root, lim Limits, opts ...Option) (*Info, error) {
	x := extractor{root: root, dirs: map[string]bool{}, mask: 0o022, floor: 0o600}
	if gather(opts).exactMode {
		x.mask, x.floor = 0, 0o400 // what cannot be read cannot be installed
	}
	defer x.leave()
	return Walk(ctx, r, size, filename, lim, x.write, opts...)
}

type extractor struct {
	root  *os.Root
	dirs  map[string]bool // known to exist
	mask  fs.FileMode     // permission bits that are taken away
	floor fs.FileMode     // and those that are always given

	// The directory of the last file, kept open: files of one directory come
	// one after the other, and a path is walked component by component.
	here *os.Root
	at   string
}

// enter returns a root for dir, which exists.
func (x *extractor) enter(dir string) (*os.Root, error) {
	if dir == "" {
		return x.root, nil
	}
	if x.here != nil && x.at == dir {
		return x.here, nil
	}
	here, err := x.root.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	x.leave()
	x.here, x.at = here, dir
	return here, nil
}

func (x *extractor) leave() {
	if x.here != nil {
		_ = x.here.Close()
		x.here = nil
	}
}

func (x *extractor) write(e *Entry, r io.Reader) error {
	if err := x.mkdir(parentOf(e.Path)); err != nil {
		return failed(e, err)
	}
	var err error
	switch e.Kind {
	case Dir:
		err = x.mkdir(e.Path)
	case File:
		err = x.file(e, r)
	case Symlink:
		err = x.root.Symlink(e.Link, e.Path)
	case HardLink:
		err = x.root.Link(e.Link, e.Path)
	}
	return failed(e, err)
}

func failed(e *Entry, err error) error {
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return &Error{Member: e.Path, Msg: "cannot extract", Err: err}
}

// mkdir makes a directory and its parents. Directories are 0755 whatever the
// archive says: one without write access could not be filled or removed.
func (x *extractor) mkdir(dir string) error {
	if dir == "" || x.dirs[dir] {
		return nil
	}
	if err := x.mkdir(parentOf(dir)); err != nil {
		return err
	}
	err := x.root.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		// Only a directory of an earlier run; never a link in its place.
		var st fs.FileInfo
		if st, err = x.root.Lstat(dir); err == nil && !st.IsDir() {
			err = fs.ErrExist
		}
	}
	if err != nil {
		return err
	}
	x.dirs[dir] = true
	return nil
}

func (x *extractor) file(e *Entry, r io.Reader) (err error) {
	dir, err := x.enter(parentOf(e.Path))
	if err != nil {
		return err
	}
	name := path.Base(e.Path)
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil && !e.ModTime.IsZero() {
			err = dir.Chtimes(name, time.Time{}, e.ModTime)
		}
	}()
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	if _, err := io.CopyBuffer(onlyWriter{f}, r, *buf); err != nil {
		return err
	}
	return f.Chmod(e.Mode.Perm()&^x.mask | x.floor)
}

// onlyWriter hides ReadFrom, which would bring its own buffer.
type onlyWriter struct{ io.Writer }
