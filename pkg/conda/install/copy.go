package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// How files without a placeholder come into the prefix.
const (
	byReflink int32 = iota
	byHardlink
	byCopy
)

// link gives a file of the cache a second name, or copies it where that cannot be.
func (w *worker) link(it *item, e *link.Entry, res *result, name string) error {
	if w.a.method.Load() != byHardlink {
		return w.copy(it, e, res, name)
	}
	if err := w.source(it, parent(e.Source)); err != nil {
		return err
	}
	src, err := w.from.open()
	if err != nil {
		return err
	}
	dst, err := w.to.open()
	if err != nil {
		return err
	}
	if e.SHA256 != "" && e.Size >= 0 { // the content would have to be read, the size costs nothing
		st, err := w.from.here.Lstat(path.Base(e.Source))
		if err != nil {
			return err
		}
		if err := w.checkSize(it, e, st.Size()); err != nil {
			return err
		}
	}
	err = linkAt(src, path.Base(e.Source), dst, name)
	w.placed = err == nil
	if err != nil && cannotLink(err) {
		return w.copy(it, e, res, name)
	}
	if err != nil {
		return err
	}
	w.a.linked.Add(1)
	if e.SHA256 == "" {
		return w.measure(path.Base(e.Source), res)
	}
	return nil
}

// measure hashes a file of which the package says nothing.
func (w *worker) measure(name string, res *result) error {
	f, err := w.from.here.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if res.size, err = io.Copy(h, f); err != nil {
		return err
	}
	res.sum = hex.EncodeToString(h.Sum(nil))
	return nil
}

// copy makes a copy, which shares its blocks with the original where the file system can do that.
func (w *worker) copy(it *item, e *link.Entry, res *result, name string) error {
	if err := w.source(it, parent(e.Source)); err != nil {
		return err
	}
	base := path.Base(e.Source)
	st, err := w.from.here.Lstat(base)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s in the cache is not a regular file", e.Source)
	}
	if err := w.checkSize(it, e, st.Size()); err != nil {
		return err
	}
	var sum string
	var size int64
	err = w.place(name, func(to *dirs, as string) (err error) {
		sum, size, err = copyFile(w.from.here, base, to.here, as, st.ModTime(), e.SHA256 == "")
		if err == nil && sum != "" {
			if err = w.checkSum(it, e, sum); err != nil {
				_ = to.here.Remove(as)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	w.a.copied.Add(1)
	res.sum, res.size = sum, size
	return nil
}

// copyFile copies a file with its mode and gives it a time. It returns the digest of what it wrote, unless the blocks were
// shared and nothing passed by here; measure has it pass by.
func copyFile(from *os.Root, base string, to *os.Root, name string, mtime time.Time, measure bool) (sum string, size int64, err error) {
	src, err := from.Open(base)
	if err != nil {
		return "", 0, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return "", 0, err
	}
	f, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, err
	}
	if !measure && reflink(f, src) == nil {
		size = st.Size()
	} else {
		h := sha256.New()
		size, err = io.Copy(io.MultiWriter(f, h), src)
		sum = hex.EncodeToString(h.Sum(nil))
	}
	if err == nil {
		err = f.Chmod(st.Mode().Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	return sum, size, to.Chtimes(name, time.Time{}, mtime)
}

// choose finds out, with one file of the cache, how files can come into the prefix.
func (a *actor) choose() error {
	if a.o.Copy {
		a.method.Store(byCopy)
		return nil
	}
	a.method.Store(byHardlink)
	for _, it := range a.p.order {
		if it.kept != nil {
			continue
		}
		probe := path.Join(transactionDir, "probe")
		src, err := it.root.Open("info/index.json")
		if err != nil {
			return err
		}
		defer src.Close()
		f, err := a.t.meta.OpenFile(probe, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		shared := reflink(f, src) == nil
		if err := errors.Join(f.Close(), a.t.meta.Remove(probe)); err != nil {
			return err
		}
		if shared {
			a.method.Store(byReflink)
			return nil
		}
		dir, err := it.root.Open("info")
		if err != nil {
			return err
		}
		defer dir.Close()
		to, err := a.t.meta.Open(transactionDir)
		if err != nil {
			return err
		}
		defer to.Close()
		if err := linkAt(dir, "index.json", to, "probe"); err != nil {
			if !cannotLink(err) {
				return err
			}
			a.method.Store(byCopy)
			return nil
		}
		return a.t.meta.Remove(probe)
	}
	return nil
}
