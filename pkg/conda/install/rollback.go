package install

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// stamp is how a file will look that an installation makes: files come with the times of their package, which lie in the
// past, so a file that anybody else puts at the same path looks different. Its text in the journal is short: there is one
// for each file.
type stamp struct {
	Time int64 `json:"t,omitzero"` // of modification, in nanoseconds since 1970; 0 if it is not known
	Size int64 `json:"s,omitzero"` // -1 if it is not known, as of files with the prefix in them
}

// slack is how far file systems may be off that keep times coarsely; FAT has two seconds.
const slack = 2 * time.Second

// stamps finds out how the entries of a package will look. Of what cannot be known the stamp is empty.
func (it *item) stamps() error {
	src := newDirs(it.root)
	defer src.close()
	written, err := it.written()
	if err != nil {
		return err
	}
	it.looks = make([]stamp, len(it.entries))
	for i := range it.entries {
		e := &it.entries[i]
		if e.Type == link.Directory {
			continue
		}
		if e.Generated() {
			it.looks[i] = stamp{written.UnixNano(), int64(len(e.Data))}
			continue
		}
		if err := src.enter(parent(e.Source)); err != nil {
			return err
		}
		st, err := src.here.Lstat(path.Base(e.Source))
		if err != nil {
			return err
		}
		it.looks[i] = stampOf(st)
		if e.Rewritten() {
			at := written
			if !at.After(st.ModTime()) {
				at = st.ModTime().Truncate(time.Second).Add(time.Second)
			}
			it.looks[i] = stamp{at.UnixNano(), -1}
		}
	}
	return nil
}

func (s stamp) fits(st fs.FileInfo) bool {
	// After a loss of power a file may have its times, and nothing in it yet.
	if s.Time == 0 || st.IsDir() || s.Size >= 0 && s.Size != st.Size() && st.Size() != 0 {
		return false
	}
	return st.ModTime().Sub(time.Unix(0, s.Time)).Abs() <= slack
}

func stampOf(st fs.FileInfo) stamp {
	s := stamp{st.ModTime().UnixNano(), st.Size()}
	if !st.Mode().IsRegular() {
		s.Size = -1
	}
	return s
}

// ours reports whether the n-th file to be made was made by the transaction. In doubt it was not: to leave a file is a
// nuisance, to delete one is a loss.
func (t *transaction) ours(j *journal, n int) bool {
	p := j.New[n]
	if t.files != nil && t.files[p] {
		return true
	}
	st, err := t.root.Lstat(p)
	if err != nil || st.IsDir() {
		return false
	}
	if strings.HasSuffix(p, ".pyc") && path.Base(parent(p)) == pycache {
		return true // byte code, which is nobody's work
	}
	if t.files != nil {
		return false // we know what we made
	}
	if p == cacheTag {
		data, err := t.root.ReadFile(p)
		return err == nil && string(data) == cacheTagText
	}
	return n < len(j.Stamps) && j.Stamps[n].fits(st)
}

// rollBack restores the prefix. It may be interrupted and begun again at any point.
func (t *transaction) rollBack(j *journal) error {
	number := make(map[string]int, len(j.Old))
	for i, p := range j.Old {
		number[p] = i
	}
	dirs := newDirs(t.root)
	defer dirs.close()
	for n, p := range slices.Backward(j.New) {
		if i, ok := number[p]; ok {
			// The old file has this path too. If it was not set aside, or is back already, it is what lies here.
			if _, err := t.meta.Lstat(path.Join(transactionDir, oldName(i))); err != nil {
				continue
			}
		}
		if !t.ours(j, n) {
			_, old := number[p]
			if st, err := t.root.Lstat(p); err == nil && !st.IsDir() && t.files == nil && !old {
				t.warn("", p+" was made or changed since the installation was interrupted, and is left where it is")
			}
			continue
		}
		if err := dirs.remove(p); err != nil {
			return err
		}
		if err := t.step("undo " + p); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(j.Dirs) {
		// Not empty: somebody else put something there meanwhile. A file: it is an old one, or foreign.
		if st, err := t.root.Lstat(d); err == nil && st.IsDir() {
			_ = t.root.Remove(d)
		}
	}
	for i, p := range j.Old {
		from := path.Join(metaDir, transactionDir, oldName(i))
		if _, err := t.root.Lstat(from); err != nil {
			continue
		}
		if err := t.restore(from, p); err != nil {
			return err
		}
		if err := t.step("restore " + p); err != nil {
			return err
		}
	}
	return t.end()
}

// restore gives a file its place back. What lies there was put there by nobody of us, and moves below ForeignDir.
func (t *transaction) restore(from, p string) error {
	if err := t.root.MkdirAll(parent(p), 0o755); err != nil {
		return err
	}
	_, err := t.root.Lstat(p)
	if err == nil {
		to := t.foreignName(p)
		if err := t.root.MkdirAll(parent(to), 0o755); err != nil {
			return err
		}
		if err := t.root.Rename(p, to); err != nil {
			return err
		}
		t.warn("", fmt.Sprintf("%s was made since the installation was interrupted and is in the way of the file that was there before; it is now %s", p, to))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.root.Rename(from, p)
}

// foreignName is where a file of nobody can go.
func (t *transaction) foreignName(p string) string {
	to := ForeignDir + "/" + p
	for n := 1; ; n++ {
		if _, err := t.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to
		}
		to = fmt.Sprintf("%s/%s.%d", ForeignDir, p, n)
	}
}
