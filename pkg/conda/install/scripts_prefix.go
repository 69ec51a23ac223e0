package install

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// usualDirs are directories at the top of an environment that scripts expect to be able to make. A script may write into
// each directory there but conda-meta, and cannot be let make others: with the right to make files in the prefix comes
// that to make them everywhere below.
var usualDirs = []string{"bin", "etc", "include", "lib", "libexec", "man", "opt", "sbin", "share", "ssl", "var"}

// beforeScripts gets the prefix ready for programs that may write anywhere in it.
func (a *actor) beforeScripts(ctx context.Context) error {
	if !a.scripts {
		return nil
	}
	for _, d := range a.p.usual {
		if err := a.t.root.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return a.breakLinks(ctx)
}

// afterScripts removes the directories that were made for them, if there is nothing in them.
func (a *actor) afterScripts() {
	a.t.dropMessages()
	for _, d := range a.p.usual {
		_ = a.t.root.Remove(d)
	}
}

// planUsual lists the directories that will be made for scripts. They are in the journal, so that a rollback removes them.
func (p *plan) planUsual(t *transaction) {
	for _, d := range usualDirs {
		if _, err := t.root.Lstat(d); errors.Is(err, fs.ErrNotExist) && !slices.Contains(p.journal.Dirs, d) {
			p.usual = append(p.usual, d)
		}
	}
	p.journal.Dirs = append(p.journal.Dirs, p.usual...)
	slices.Sort(p.journal.Dirs)
}

// writable are the paths of the prefix that a script may write to.
func (t *transaction) writable() ([]string, error) {
	list, err := fs.ReadDir(t.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	out := []string{filepath.Join(t.prefix, messagesFile)}
	for _, e := range list {
		if e.IsDir() && !strings.EqualFold(e.Name(), metaDir) {
			out = append(out, filepath.Join(t.prefix, e.Name()))
		}
	}
	return out, nil
}

// breakLinks makes files of what installed packages have as hard links into the cache: what a script writes to them, or
// which mode it gives them, must not reach other environments.
func (a *actor) breakLinks(ctx context.Context) error {
	records := a.p.leaving()
	for _, it := range a.p.order {
		if it.kept != nil {
			records = append(records, it.kept)
		}
	}
	dirs, temp := newDirs(a.t.root), newDirs(a.t.meta)
	defer dirs.close()
	defer temp.close()
	for _, r := range records {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i := range r.Paths {
			p := r.Paths[i].Path
			err := dirs.enter(parent(p))
			if err == nil {
				err = breakLink(dirs, path.Base(p), temp)
			}
			if err != nil && !isMissing(err) {
				return err
			}
		}
	}
	return a.t.step("break links")
}

// breakLinksIn does the same for all files of one directory.
func (t *transaction) breakLinksIn(dir string) error {
	dirs, temp := newDirs(t.root), newDirs(t.meta)
	defer dirs.close()
	defer temp.close()
	if err := dirs.enter(dir); err != nil {
		return err
	}
	list, err := fs.ReadDir(dirs.here.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := breakLink(dirs, e.Name(), temp); err != nil {
			return err
		}
	}
	return nil
}

// breakLink puts a copy in the place of a file that has other names, in one step.
func breakLink(dirs *dirs, name string, temp *dirs) error {
	st, err := dirs.here.Lstat(name)
	if err != nil || !st.Mode().IsRegular() || names(st) < 2 {
		return err
	}
	if err := temp.enter(path.Join(transactionDir, tempDir)); err != nil {
		return err
	}
	const as = "unlinked"
	if _, _, err := copyFile(dirs.here, name, temp.here, as, st.ModTime(), false); err != nil {
		return errors.Join(err, temp.here.Remove(as))
	}
	return moveAt(temp, as, dirs, name)
}

// openMessages makes the file for what a script has to say: the one file at the top of the prefix that it may write.
func (t *transaction) openMessages() error {
	if err := t.root.Remove(messagesFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeDurably(t.root, messagesFile, nil, false)
}

// messages takes what a script left for the user.
func (a *actor) messages() string {
	defer a.t.root.Remove(messagesFile)
	st, err := a.t.root.Lstat(messagesFile)
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	// Another process of the script may put a pipe there meanwhile, and opening that would wait for ever.
	f, err := a.t.root.OpenFile(messagesFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, maxOutput))
	return strings.TrimSpace(string(data))
}

// dropMessages removes what openMessages made and nobody wrote to.
func (t *transaction) dropMessages() {
	if st, err := t.root.Lstat(messagesFile); err == nil && st.Mode().IsRegular() && st.Size() == 0 {
		_ = t.root.Remove(messagesFile)
	}
}
