package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// groupSize bounds what one worker takes at a time.
const groupSize = 256

// actor carries a plan out.
type actor struct {
	t *transaction
	p *plan
	o *Options

	scripts bool   // there are some, and they are run
	history []byte // as it was before

	method                    atomic.Int32
	temps                     atomic.Int64 // number of files that are written before they are put in place
	linked, copied, rewritten atomic.Int64
}

// setAside moves what has to go out of the way. Nothing is deleted before the commit.
func (a *actor) setAside(ctx context.Context) error {
	type old struct {
		path string
		n    int
	}
	list := make([]old, len(a.p.journal.Old))
	for i, f := range a.p.journal.Old {
		list[i] = old{f, i}
	}
	done := a.counter("unlink", len(list))
	return inGroups(ctx, a.o.workers(), list, func(x old) string { return parent(x.path) }, func() (func(old) error, func()) {
		from, to := newDirs(a.t.root), newDirs(a.t.root)
		return func(x old) error {
			dst := path.Join(metaDir, transactionDir, oldName(x.n))
			err := from.enter(parent(x.path))
			if err == nil {
				var st fs.FileInfo
				if st, err = from.here.Lstat(path.Base(x.path)); err == nil && st.IsDir() {
					return &ForeignError{Prefix: a.t.prefix, Paths: []string{x.path}} // a record says that it is a file
				}
			}
			if err == nil {
				err = to.enter(parent(dst))
			}
			if err == nil {
				err = moveAt(from, path.Base(x.path), to, path.Base(dst))
			}
			if err != nil && !isMissing(err) { // missing is fine: somebody deleted it
				return fmt.Errorf("unlink %s: %w", x.path, err)
			}
			done()
			return a.t.step("set aside " + x.path)
		}, func() { from.close(); to.close() }
	})
}

func moveAt(from *dirs, name string, to *dirs, as string) error {
	f, err := from.open()
	if err != nil {
		return err
	}
	g, err := to.open()
	if err != nil {
		return err
	}
	return renameAt(f, name, g, as)
}

// makeDirs makes the directories, parents first.
func (a *actor) makeDirs() error {
	for _, d := range a.p.rmdirs {
		if err := removeEmpty(a.t.root, d); err != nil {
			return fmt.Errorf("make room at %s: %w", d, err)
		}
		if err := a.t.step("rmdir " + d); err != nil {
			return err
		}
	}
	dirs := newDirs(a.t.root)
	defer dirs.close()
	for _, d := range a.p.journal.Dirs {
		err := dirs.enter(parent(d))
		if err == nil {
			err = dirs.here.Mkdir(path.Base(d), 0o755)
		}
		if errors.Is(err, fs.ErrExist) {
			st, serr := a.t.root.Lstat(d)
			if serr == nil && st.IsDir() {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("make directory %s: %w", d, err)
		}
		if err := a.t.step("mkdir " + d); err != nil {
			return err
		}
	}
	return nil
}

// removeEmpty removes a directory in which there are only directories.
func removeEmpty(root *os.Root, d string) error {
	var dirs []string
	err := fs.WalkDir(root.FS(), d, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, name)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range slices.Backward(dirs) {
		if rerr := root.Remove(name); rerr != nil {
			return rerr
		}
	}
	return err
}

// makeFiles links, copies and writes everything that comes.
func (a *actor) makeFiles(ctx context.Context) error {
	if a.o.Copy {
		a.method.Store(byCopy)
	}
	done := a.counter("link", len(a.p.creates))
	return inGroups(ctx, a.o.workers(), a.p.creates, func(c create) string { return parent(c.path) }, func() (func(create) error, func()) {
		w := &worker{a: a, to: newDirs(a.t.root), temp: newDirs(a.t.meta)}
		return func(c create) error {
			w.placed = false
			err := w.create(c)
			if w.placed { // also if something was found to be wrong with it then
				w.made = append(w.made, c.path)
			}
			if err != nil {
				return fmt.Errorf("link %s: %w", c.path, err)
			}
			done()
			return a.t.step("make " + c.path)
		}, w.close
	})
}

// counter reports progress from any goroutine, not more often than there is something to see.
func (a *actor) counter(step string, total int) func() {
	if a.o.Progress == nil {
		return func() {}
	}
	var n atomic.Int64
	every := int64(max(1, total/100))
	return func() {
		if k := n.Add(1); k%every == 0 || k == int64(total) {
			a.o.progress(step, int(k), total)
		}
	}
}

// worker makes files, in one goroutine.
type worker struct {
	a    *actor
	to   *dirs
	temp *dirs
	from *dirs
	it   *item

	placed bool     // the file at hand is at its path
	made   []string // paths of all that are
}

func (w *worker) close() {
	w.to.close()
	w.temp.close()
	if w.from != nil {
		w.from.close()
	}
	w.a.t.noteMade(w.made)
}

// place has a file made in the transaction's directory, complete with its mode and time, and then gives it its place: so
// there is never a torso at a path of the environment, which nobody could tell from a file of somebody else.
func (w *worker) place(name string, write func(to *dirs, as string) error) error {
	if err := w.temp.enter(path.Join(transactionDir, tempDir)); err != nil {
		return err
	}
	as := strconv.FormatInt(w.a.temps.Add(1), 10)
	err := write(w.temp, as)
	if err == nil {
		var from, to *os.File
		if from, err = w.temp.open(); err != nil {
			return err
		}
		if to, err = w.to.open(); err != nil {
			return err
		}
		err = placeAt(from, as, to, name)
		w.placed = err == nil
	}
	if err != nil {
		_ = w.temp.here.Remove(as)
	}
	if otherDevice(err) { // something is mounted within the environment
		err = write(w.to, name)
		w.placed = !errors.Is(err, fs.ErrExist)
	}
	return err
}

// source goes to the directory of a file in a package.
func (w *worker) source(it *item, dir string) error {
	if w.it != it {
		if w.from != nil {
			w.from.close()
		}
		w.it, w.from = it, newDirs(it.root)
	}
	return w.from.enter(dir)
}

func (w *worker) create(c create) error {
	if err := w.to.enter(parent(c.path)); err != nil {
		return err
	}
	name := path.Base(c.path)
	if c.from >= 0 {
		return w.move(c, name)
	}
	e, res := &c.it.entries[c.n], &c.it.results[c.n]
	defer func() { res.done = true }()
	switch {
	case e.Generated():
		return w.generate(c.it, e, res, name)
	case e.Rewritten(): // which a link may be, too: then it becomes a file
		return w.place(name, func(to *dirs, as string) error { return w.rewrite(c.it, e, res, to, as) })
	case e.Type == link.SoftLink:
		return w.symlink(c.it, e, res, name)
	case e.NoLink:
		return w.copy(c.it, e, res, name)
	}
	return w.link(c.it, e, res, name)
}

// move gives a file that was set aside a new place. It is linked, so that the way back stays open.
func (w *worker) move(c create, name string) error {
	src := newDirs(w.a.t.root)
	defer src.close()
	from := path.Join(metaDir, transactionDir, oldName(c.from))
	if err := src.enter(parent(from)); err != nil {
		return err
	}
	f, err := src.open()
	if err != nil {
		return err
	}
	g, err := w.to.open()
	if err != nil {
		return err
	}
	err = linkAt(f, path.Base(from), g, name)
	w.placed = err == nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // somebody deleted it long ago
	case err == nil || !cannotLink(err):
		return err
	}
	st, err := src.here.Lstat(path.Base(from))
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		text, err := src.here.Readlink(path.Base(from))
		if err != nil {
			return err
		}
		return w.place(name, func(to *dirs, as string) error { return symlinkAt(to, text, as, st.ModTime()) })
	}
	return w.place(name, func(to *dirs, as string) error {
		_, _, err := copyFile(src.here, path.Base(from), to.here, as, st.ModTime(), false)
		return err
	})
}

// symlinkAt makes a symbolic link and gives it a time.
func symlinkAt(to *dirs, text, name string, mtime time.Time) error {
	if err := to.here.Symlink(text, name); err != nil {
		return err
	}
	dir, err := to.open()
	if err != nil {
		return err
	}
	return setLinkTime(dir, name, mtime)
}

// symlink makes a symbolic link with the same text.
func (w *worker) symlink(it *item, e *link.Entry, res *result, name string) error {
	if err := w.source(it, parent(e.Source)); err != nil {
		return err
	}
	base := path.Base(e.Source)
	text, err := w.from.here.Readlink(base)
	if err != nil {
		return err
	}
	st, err := w.from.here.Lstat(base)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(text))
	res.sum, res.size = hex.EncodeToString(sum[:]), int64(len(text))
	return w.place(name, func(to *dirs, as string) error { return symlinkAt(to, text, as, st.ModTime()) })
}

// isMissing reports that a file, or a directory on the way to it, is not there.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
