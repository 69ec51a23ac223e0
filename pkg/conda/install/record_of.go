package install

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// The tag that the field's other installer writes into a new environment: backup programs leave such directories out,
// since they can be made again from a lock.
const (
	cacheTag     = "CACHEDIR.TAG"
	cacheTagText = "Signature: 8a477f597d28d172789f06886806bc55\n" +
		"# This file is a cache directory tag created by entrepot.\n" +
		"# For information about cache directory tags, see:\n" +
		"#\thttps://bford.info/cachedir/\n"
)

// recordOf makes the record of a package of the new state.
func (a *actor) recordOf(it *item) *Record {
	if it.kept != nil {
		r := *it.kept
		r.Paths = slices.Clone(r.Paths)
		for i := range r.Paths {
			e := &it.entries[i]
			r.Paths[i].Path, r.Paths[i].Original = e.Path, e.Original
		}
		r.setSpecs(a.o.Specs)
		r.settle()
		return &r
	}
	r := &Record{
		Record: it.pkg.Record, FileName: it.pkg.FileName, URL: dist.WithoutSecrets(it.pkg.URL), Channel: dist.WithoutSecrets(it.pkg.Channel),
		ExtractedDir: it.from.Dir, PathsVersion: 1, Link: Link{Source: it.from.Dir, Type: LinkHard},
	}
	if a.method.Load() != byHardlink {
		r.Link.Type = LinkCopy
	}
	for i := range it.entries {
		r.Paths = append(r.Paths, pathOf(&it.entries[i], &it.results[i]))
	}
	r.Paths = append(r.Paths, it.pyc...)
	r.setSpecs(a.o.Specs)
	r.settle()
	return r
}

// pathOf says in a record what an entry became.
func pathOf(e *link.Entry, res *result) Path {
	p := Path{Path: e.Path, Original: e.Original, Type: PathType(e.Type), NoLink: e.NoLink, SHA256: e.SHA256}
	if e.Placeholder != "" {
		p.Placeholder, p.Mode = e.Placeholder, string(e.FileMode)
	}
	if res.sum != "" && res.sum != e.SHA256 {
		p.InPrefix = res.sum
	}
	size := e.Size
	if size < 0 || e.Rewritten() {
		size = res.size
	}
	if e.Type != link.Directory {
		p.Size = &size
	}
	return p
}

// settle sorts the paths as path components sort, and lists the files.
func (r *Record) settle() {
	slices.SortStableFunc(r.Paths, func(a, b Path) int { return comparePaths(a.Path, b.Path) })
	r.Files = make([]string, 0, len(r.Paths))
	for i := range r.Paths {
		if r.Paths[i].Type != Directory {
			r.Files = append(r.Files, r.Paths[i].Path)
		}
	}
}

// comparePaths compares component by component: a/b comes before a-b.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x == '/' {
			return -1
		}
		if y == '/' {
			return 1
		}
		return int(x) - int(y)
	}
	return len(a) - len(b)
}

// asked reports whether a record says already what was asked for.
func (r *Record) asked(specs map[string][]string) bool {
	want, ok := specs[r.Name]
	return !ok || slices.Equal(want, r.RequestedSpecs)
}

func (r *Record) setSpecs(specs map[string][]string) {
	if want, ok := specs[r.Name]; ok {
		r.RequestedSpecs = want
	}
}

// respec writes down new specs where nothing else changes.
func (t *transaction) respec(list []*Record, o *Options) error {
	for _, r := range list {
		if r.asked(o.Specs) {
			continue
		}
		r.setSpecs(o.Specs)
		data, err := r.Bytes()
		if err != nil {
			return err
		}
		tmp := "." + r.MetaName() + ".new"
		if err := t.meta.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died here
			return err
		}
		if err := writeDurably(t.meta, tmp, data, t.sync); err != nil {
			return err
		}
		if err := t.meta.Rename(tmp, r.MetaName()); err != nil {
			return err
		}
	}
	return nil
}
