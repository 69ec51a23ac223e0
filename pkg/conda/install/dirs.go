package install

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// dirs keeps the directory of the last path open: files of one directory come one after the other, and walking to each
// of them from the prefix, component by component, costs more than what is done there.
type dirs struct {
	root *os.Root
	at   string
	here *os.Root
	file *os.File // of here
}

func newDirs(root *os.Root) *dirs { return &dirs{root: root} }

func (d *dirs) close() {
	if d.here != nil && d.here != d.root {
		_ = d.here.Close()
	}
	if d.file != nil {
		_ = d.file.Close()
	}
	d.here, d.file, d.at = nil, nil, ""
}

// enter goes to a directory.
func (d *dirs) enter(dir string) error {
	if d.here != nil && d.at == dir {
		return nil
	}
	d.close()
	if dir == "." {
		d.here, d.at = d.root, dir
		return nil
	}
	here, err := d.root.OpenRoot(dir)
	if err != nil {
		// OpenRoot has an error of its own for what is no directory.
		if st, serr := d.root.Stat(dir); serr == nil && !st.IsDir() {
			err = &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
		}
		return err
	}
	d.here, d.at = here, dir
	return nil
}

// open returns the directory that was entered as a file, for system calls that take one.
func (d *dirs) open() (*os.File, error) {
	if d.file == nil {
		f, err := d.here.Open(".")
		if err != nil {
			return nil, err
		}
		d.file = f
	}
	return d.file, nil
}

// remove deletes a file or link. It is no error if it, or its directory, is not there, or if it is a directory: then the
// file has not been made yet, and what was there before has not been moved.
func (d *dirs) remove(p string) error {
	err := d.enter(parent(p))
	if err == nil {
		var st fs.FileInfo
		if st, err = d.here.Lstat(path.Base(p)); err == nil && st.IsDir() {
			return nil
		}
	}
	if err == nil {
		err = d.here.Remove(path.Base(p))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
