package install

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// generate writes an entry point.
func (w *worker) generate(it *item, e *link.Entry, res *result, name string) error {
	mtime, err := it.written()
	if err != nil {
		return err
	}
	return w.place(name, func(to *dirs, as string) error {
		f, err := to.here.OpenFile(as, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(e.Data)
		if err == nil {
			err = f.Chmod(e.Mode)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return to.here.Chtimes(as, time.Time{}, mtime)
	})
}

// written is the time of files that the installer writes for a package: a second after the package was made, so that no
// byte code of the original looks fresh. It is the same wherever and whenever the package is installed.
func (it *item) written() (time.Time, error) {
	for _, f := range []string{"info/about.json", "info/index.json"} {
		st, err := it.root.Stat(f)
		if err == nil {
			return st.ModTime().Truncate(time.Second).Add(time.Second), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return time.Time{}, err
		}
	}
	return time.Unix(0, 0), nil
}

// rewrite writes a file with the prefix in it.
func (w *worker) rewrite(it *item, e *link.Entry, res *result, to *dirs, name string) (err error) {
	src, st, err := it.link.Source(e)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := w.checkSource(it, e, src); err != nil {
		return err
	}
	mtime, err := it.rewritten(st)
	if err != nil {
		return err
	}
	f, err := to.here.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	res.sum, res.size, err = link.Rewrite(f, src, e, w.a.p.target)
	if err == nil {
		err = f.Chmod(st.Mode().Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	w.a.rewritten.Add(1)
	return to.here.Chtimes(name, time.Time{}, mtime)
}

// rewritten is the time of a file with the prefix in it.
func (it *item) rewritten(source fs.FileInfo) (time.Time, error) {
	mtime, err := it.written()
	if err == nil && !mtime.After(source.ModTime()) {
		mtime = source.ModTime().Truncate(time.Second).Add(time.Second)
	}
	return mtime, err
}
