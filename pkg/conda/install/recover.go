package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// Recovery says what was done about a transaction that had been interrupted.
type Recovery string

// What Recover did.
const (
	NothingToRecover Recovery = ""
	RolledBack       Recovery = "rolled back" // the prefix is as it was before
	Completed        Recovery = "completed"   // the prefix is as it was to become
)

// transaction is a prefix that is locked and being changed.
type transaction struct {
	prefix   string
	root     *os.Root
	meta     *os.Root // conda-meta: opened before any program of a package runs, and all that is done there is done by it
	unlock   func()
	made     bool // the prefix did not exist
	madeMeta bool // conda-meta did not
	sync     bool
	step     func(string) error
	warn     func(pkg, msg string)

	// files are the paths at which this process made a file; nil in a recovery, where that was another one.
	mu    sync.Mutex
	files map[string]bool
}

// noteMade notes what a worker has made.
func (t *transaction) noteMade(paths []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.files == nil {
		t.files = map[string]bool{}
	}
	for _, p := range paths {
		t.files[p] = true
	}
}

// MetaLinkError refuses an environment whose conda-meta is a symbolic link: the records of an environment lie in it, and
// what is written there must not end up elsewhere.
type MetaLinkError struct{ Prefix string }

// Error implements error.
func (e *MetaLinkError) Error() string {
	return fmt.Sprintf("in %s conda-meta is a symbolic link or a file; it must be a directory", e.Prefix)
}

// open locks a prefix, and makes it if it does not exist. It waits while another process works on it.
func open(ctx context.Context, prefix string, o *Options) (*transaction, error) {
	t := &transaction{prefix: prefix, sync: !o.NoSync, step: o.step, warn: o.warn}
	meta := filepath.Join(prefix, metaDir)
	var err error
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if _, err := os.Lstat(prefix); errors.Is(err, fs.ErrNotExist) {
			t.made = true
		}
		if err := os.MkdirAll(prefix, 0o755); err != nil {
			return nil, err
		}
		err := os.Mkdir(meta, 0o755)
		t.madeMeta = err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if st, err := os.Lstat(meta); err == nil && !st.IsDir() {
			return nil, &MetaLinkError{prefix}
		}
		if t.unlock, err = lockDir(ctx, meta); err == nil {
			break
		}
		if !errors.Is(err, errGone) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", meta, err)
		}
		// Somebody removed what was empty. Those who do are done with it then, so this does not go on.
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	if t.root, err = os.OpenRoot(prefix); err == nil {
		if t.meta, err = t.root.OpenRoot(metaDir); err != nil {
			_ = t.root.Close()
		}
	}
	if err != nil {
		t.unlock()
		return nil, err
	}
	return t, nil
}

// errGone says that a directory was removed while its lock was waited for.
var errGone = errors.New("the directory was removed")

func (t *transaction) close() {
	_ = t.meta.Close()
	// What did not come to be leaves nothing; both fail if there is anything in it.
	if (t.made || t.madeMeta) && t.root.Remove(metaDir) == nil && t.made {
		_ = os.Remove(t.prefix)
	}
	_ = t.root.Close()
	t.unlock()
}

// Recover brings a prefix into order in which an installation was interrupted, by rolling back what was not decided and
// completing what was. Install does that by itself. warn may be nil, and is told of files that were found in the way.
func Recover(ctx context.Context, prefix string, warn func(Warning)) (Recovery, error) {
	abs, err := filepath.Abs(prefix)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(abs, metaDir)); errors.Is(err, fs.ErrNotExist) {
		return NothingToRecover, nil
	}
	t, err := open(ctx, abs, &Options{Warn: warn})
	if err != nil {
		return "", err
	}
	defer t.close()
	return t.recover()
}

// Interrupted reports whether a transaction was begun in a prefix and has not ended: one is running, or was killed.
func Interrupted(prefix string) bool {
	_, err := os.Lstat(filepath.Join(prefix, metaDir, transactionDir, journalFile))
	return err == nil
}

func (t *transaction) recover() (Recovery, error) {
	_ = t.meta.RemoveAll(doneDir)
	data, err := t.meta.ReadFile(path.Join(transactionDir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		// It had not begun: at most there are files that are to be in it.
		return NothingToRecover, t.meta.RemoveAll(transactionDir)
	}
	if err != nil {
		return "", err
	}
	j, err := parseJournal(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(t.prefix, metaDir, transactionDir, journalFile), err)
	}
	t.made, t.madeMeta = t.made || j.Made, t.madeMeta || j.MadeMeta
	t.dropMessages()
	if _, err := t.meta.Lstat(path.Join(transactionDir, commitFile)); err == nil {
		t.made, t.madeMeta = false, false
		if err := t.complete(j); err != nil {
			return "", fmt.Errorf("complete an interrupted installation: %w", err)
		}
		return Completed, nil
	}
	if err := t.rollBack(j); err != nil {
		return "", fmt.Errorf("roll back an interrupted installation: %w", err)
	}
	return RolledBack, nil
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return "."
}

// complete does what is left after the commit. It may be interrupted and begun again at any point.
func (t *transaction) complete(j *journal) error {
	written := map[string]bool{}
	for _, name := range j.Write {
		written[name] = true
	}
	for _, name := range j.Remove {
		if written[name] {
			continue
		}
		if err := t.meta.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := t.step("forget " + name); err != nil {
			return err
		}
	}
	for _, name := range append(slices.Clone(j.Write), historyFile) {
		err := t.meta.Rename(path.Join(transactionDir, stagedDir, name), name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: it was moved before the crash
			return err
		}
		if err := t.step("record " + name); err != nil {
			return err
		}
	}
	if err := t.meta.RemoveAll(path.Join(transactionDir, oldDir)); err != nil {
		return err
	}
	t.sweep(j)
	if err := t.step("sweep"); err != nil {
		return err
	}
	return t.end()
}

// sweep removes directories that unlinking left empty. What fails here is not worth failing for.
func (t *transaction) sweep(j *journal) {
	keep := map[string]bool{}
	for _, d := range j.Keep {
		keep[d] = true
	}
	seen := map[string]bool{}
	var dirs []string
	for _, p := range j.Old {
		for d := parent(p); d != "." && !seen[d]; d = parent(d) {
			seen[d] = true
			dirs = append(dirs, d)
		}
	}
	noarch := map[string]bool{}
	for _, d := range j.Noarch {
		noarch[d] = true
	}
	// Longer paths first: what is below comes before what is above.
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, d := range dirs {
		if keep[d] {
			continue
		}
		if noarch[d] {
			t.sweepPycache(d)
		}
		if st, err := t.root.Lstat(d); err == nil && st.IsDir() {
			_ = t.root.Remove(d)
		}
	}
	t.sweepClobbers()
}

// sweepClobbers removes directories with nothing in them below __clobbers__, which other installers leave there.
func (t *transaction) sweepClobbers() {
	var dirs []string
	_ = fs.WalkDir(t.root.FS(), link.ClobberDir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, name)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = t.root.Remove(d)
	}
}

// sweepPycache removes d/__pycache__ if there is nothing else in d: the interpreter wrote it for modules that are gone.
func (t *transaction) sweepPycache(d string) {
	list, err := fs.ReadDir(t.root.FS(), d)
	if err != nil || len(list) != 1 || list[0].Name() != pycache || !list[0].IsDir() {
		return
	}
	cached, err := fs.ReadDir(t.root.FS(), path.Join(d, pycache))
	if err != nil {
		return
	}
	for _, e := range cached {
		if !strings.HasSuffix(e.Name(), ".pyc") {
			return
		}
	}
	_ = t.root.RemoveAll(path.Join(d, pycache))
}

const pycache = "__pycache__"
