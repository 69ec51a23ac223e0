package install

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ForeignError refuses to put packages where files lie that belong to none.
type ForeignError struct {
	Prefix string
	Paths  []string // sorted, relative to the prefix
}

// Error implements error.
func (e *ForeignError) Error() string {
	some := e.Paths
	more := ""
	if len(some) > 5 {
		some, more = some[:5], fmt.Sprintf(" and %d more", len(e.Paths)-5)
	}
	return fmt.Sprintf("in %s there are files of no package in the way: %s%s", e.Prefix, strings.Join(some, ", "), more)
}

// look finds out which directories are missing, and which files are in the way of those that come.
func (p *plan) look(t *transaction, o *Options) error {
	j := p.journal
	old := make(map[string]bool, len(j.Old))
	for _, f := range j.Old {
		old[f] = true
	}
	var foreign []string
	have := map[string]bool{".": true} // directories of those needed that are there
	var missing []string
	for _, d := range j.Dirs { // sorted: parents first
		if !have[parent(d)] {
			missing = append(missing, d)
			continue
		}
		st, err := t.root.Stat(d)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if st, err := t.root.Lstat(d); err == nil && !old[d] {
				_ = st // a link to nothing
				foreign = append(foreign, d)
			}
			missing = append(missing, d)
		case err != nil:
			return t.outside(d, err)
		case st.IsDir() && !old[d]:
			have[d] = true
		case old[d]: // a file, or a link to a directory, that goes
			missing = append(missing, d)
		default:
			foreign = append(foreign, d)
			missing = append(missing, d)
		}
	}
	j.Dirs = missing

	listed := map[string]map[string]bool{}
	for i := range p.creates {
		f := p.creates[i].path
		d := parent(f)
		if !have[d] || old[f] {
			continue
		}
		names, ok := listed[d]
		if !ok {
			list, err := fs.ReadDir(t.root.FS(), d)
			if err != nil {
				return err
			}
			names = make(map[string]bool, len(list))
			for _, e := range list {
				names[e.Name()] = true
			}
			listed[d] = names
		}
		if !names[path.Base(f)] {
			continue
		}
		free, err := t.becomesFree(f, old)
		if err != nil {
			return err
		}
		if free {
			p.rmdirs = append(p.rmdirs, f)
		} else {
			foreign = append(foreign, f)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	slices.Sort(foreign)
	return p.setForeignAside(t, foreign, o)
}

// OutsideError refuses to put files of packages into a directory of the environment that is a symbolic link to elsewhere.
type OutsideError struct{ Prefix, Path, Link string }

// Error implements error.
func (e *OutsideError) Error() string {
	return fmt.Sprintf("%s in %s is a symbolic link to %q, outside of the environment, and a package has files below it; "+
		"put a directory in its place, or remove the link", e.Path, e.Prefix, e.Link)
}

// outside says what is wrong with a directory that cannot be looked at, most likely a link on the way to it.
func (t *transaction) outside(d string, err error) error {
	for at := d; at != "."; at = parent(at) {
		if text, lerr := t.root.Readlink(at); lerr == nil {
			return &OutsideError{t.prefix, at, text}
		}
	}
	return fmt.Errorf("look at %s: %w", d, err)
}

// becomesFree reports whether a path is a directory in which nothing will be left.
func (t *transaction) becomesFree(d string, old map[string]bool) (bool, error) {
	st, err := t.root.Lstat(d)
	if err != nil || !st.IsDir() {
		return false, err
	}
	free := true
	err = fs.WalkDir(t.root.FS(), d, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && !old[name] {
			free = false
			return fs.SkipAll
		}
		return nil
	})
	return free, err
}

// setForeignAside moves files that belong to nobody out of the way, if that is what is wanted.
func (p *plan) setForeignAside(t *transaction, foreign []string, o *Options) error {
	no := &ForeignError{Prefix: t.prefix, Paths: foreign}
	if o.Foreign == Refuse {
		return no
	}
	j := p.journal
	need := map[string]bool{}
	for _, f := range foreign {
		st, err := t.root.Lstat(f)
		if err != nil {
			return err
		}
		if st.IsDir() {
			return no // what a person has in a directory is not moved as a whole
		}
		to := t.foreignName(f)
		o.warn("", fmt.Sprintf("%s belongs to no package and is in the way; it is now %s", f, to))
		look := stampOf(st)
		p.creates = append(p.creates, create{path: to, n: -1, look: look, from: len(j.Old)})
		j.Old = append(j.Old, f)
		j.New, j.Stamps = append(j.New, to), append(j.Stamps, look)
		for d := parent(to); d != "." && !need[d]; d = parent(d) {
			need[d] = true
			if _, err := t.root.Lstat(d); err != nil && !slices.Contains(j.Dirs, d) {
				j.Dirs = append(j.Dirs, d)
			}
		}
	}
	slices.Sort(j.Dirs)
	return nil
}
