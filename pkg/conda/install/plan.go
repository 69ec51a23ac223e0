package install

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// item is a package of the prefix as it is to become.
type item struct {
	kept *Record  // it stays, or:
	pkg  *Package // it comes
	from pkgcache.Entry

	root    *os.Root      // of from
	link    *link.Package // what is there
	entries []link.Entry
	looks   []stamp  // of a package that comes: how each entry will look
	was     []string // of a kept package: where each entry lies now
	changed bool     // a kept package whose files move

	// What the installation finds out about each entry.
	results []result
	pyc     []Path
}

// result is what became of an entry.
type result struct {
	sum  string // SHA-256 of what was written; empty if it was not computed
	size int64
	done bool
}

func (it *item) name() string {
	if it.kept != nil {
		return it.kept.Name
	}
	return it.pkg.Name
}

func (it *item) record() *repodata.Record {
	if it.kept != nil {
		return &it.kept.Record
	}
	return &it.pkg.Record
}

func (it *item) stem() string {
	r := it.record()
	return r.Name + "-" + r.Version + "-" + r.Build
}

// create is a file to be made.
type create struct {
	path string
	it   *item
	n    int // entry of it
	look stamp
	from int // the file that was set aside under this number is moved here; -1 for others
}

// plan is everything that will happen, known before anything does.
type plan struct {
	journal  *journal
	target   *link.Target
	order    []*item
	creates  []create
	rmdirs   []string // empty directories in the place of files
	clobbers []link.Clobber
	change   *Change
	usual    []string // directories that are made for scripts
	fresh    bool     // there was no environment
}

// makePlan decides everything. It reads the prefix and the cache, and changes nothing.
func (t *transaction) makePlan(c *Change, entries map[string]pkgcache.Entry, o *Options) (*plan, error) {
	p := &plan{change: c, target: &link.Target{Prefix: o.Target, Platform: o.Platform}}
	var items []*item
	for _, r := range c.Keep {
		items = append(items, &item{kept: r})
	}
	for _, x := range c.Install {
		items = append(items, &item{pkg: x, from: entries[x.Name]})
	}
	for _, x := range c.Replace {
		items = append(items, &item{pkg: x.New, from: entries[x.New.Name]})
	}
	var err error
	if p.target.Python, err = pythonOf(items, o.Platform, (*item).record); err != nil {
		return p, err
	}
	p.order = link.Order(items, func(it **item) *repodata.Record { return (*it).record() })
	if err := p.open(); err != nil {
		return p, err
	}
	plans := make([]link.Plans, len(p.order))
	for i, it := range p.order {
		plans[i] = link.Plans{Name: it.name(), Entries: it.entries}
	}
	p.clobbers = link.Clobbers(plans)
	if len(p.clobbers) > 0 && o.RefuseClobbers {
		return p, &link.ClobberError{Clobbers: p.clobbers}
	}
	if err := p.checkLinks(t, o); err != nil {
		return p, err
	}
	p.journal = &journal{Version: journalVersion, Made: t.made, MadeMeta: t.madeMeta}
	p.fresh = !IsPrefix(t.prefix)
	for _, it := range p.order {
		it.changed = it.kept != nil && !it.kept.asked(o.Specs)
	}
	p.unlinks(t, o)
	if err := p.links(t, o); err != nil {
		return p, err
	}
	if o.Scripts && p.hasScripts() {
		p.planUsual(t)
	}
	return p, nil
}

func (p *plan) close() {
	for _, it := range p.order {
		if it.root != nil {
			_ = it.root.Close()
		}
	}
}

// open reads what is in the packages, in parallel.
func (p *plan) open() error {
	var g errgroup.Group
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, it := range p.order {
		if it.kept != nil {
			it.keep()
			continue
		}
		g.Go(func() (err error) {
			if it.root, err = os.OpenRoot(it.from.Dir); err != nil {
				return err
			}
			if it.link, err = link.Open(it.root); err != nil {
				return err
			}
			// The channel's word is newer than the package's.
			it.link.Noarch = archive.Noarch(it.pkg.NoArch)
			if it.entries, err = link.Plan(it.link, p.target); err != nil {
				return err
			}
			if strings.HasPrefix(p.target.Platform, "osx-") && link.Placeholders(it.entries) {
				// macOS kills programs whose signature does not fit, and there is nobody here to sign them anew.
				return &link.Error{Package: it.stem(), Msg: "it holds programs with a placeholder, and what is rewritten must be signed again on macOS; lock the environment here, and install it there"}
			}
			it.results = make([]result, len(it.entries))
			return it.stamps()
		})
	}
	return g.Wait()
}

// keep makes entries of what a package has in the prefix, as if it came anew.
func (it *item) keep() {
	it.entries = make([]link.Entry, len(it.kept.Paths))
	it.was = make([]string, len(it.kept.Paths))
	for i := range it.kept.Paths {
		x := &it.kept.Paths[i]
		it.entries[i] = link.Entry{Path: x.Wanted(), Type: link.Type(x.Type)}
		it.was[i] = x.Path
	}
}

// unlinks lists what has to go: of packages that leave, in the reverse order of linking, and what kept ones move.
func (p *plan) unlinks(t *transaction, o *Options) {
	j := p.journal
	gone := slices.Clone(p.change.Remove)
	for _, x := range p.change.Replace {
		gone = append(gone, x.Old)
	}
	gone = link.Order(gone, func(r **Record) *repodata.Record { return &(*r).Record })
	seen := map[string]bool{}
	for _, r := range slices.Backward(gone) {
		j.Remove = append(j.Remove, r.MetaName())
		noarch := map[string]bool{}
		for i := range r.Paths {
			x := &r.Paths[i]
			if r.NoArch == repodata.NoArchPython {
				for d := parent(x.Path); d != "." && !noarch[d]; d = parent(d) {
					noarch[d] = true
					j.Noarch = append(j.Noarch, d)
				}
			}
			if x.Type != Directory && !seen[x.Path] {
				seen[x.Path] = true
				j.Old = append(j.Old, x.Path)
			}
		}
	}
	for _, it := range p.order {
		for i, was := range it.was {
			e := &it.entries[i]
			if was == e.Path || e.Type == link.Directory {
				continue
			}
			it.changed = true
			if !seen[was] {
				seen[was] = true
				c := create{path: e.Path, it: it, n: i, from: len(j.Old)}
				if st, err := t.root.Lstat(was); err == nil {
					c.look = stampOf(st)
				}
				p.creates = append(p.creates, c)
				j.Old = append(j.Old, was)
			}
		}
	}
}

// links lists what has to come, and looks for what is in the way.
func (p *plan) links(t *transaction, o *Options) error {
	j := p.journal
	need := map[string]bool{} // directories
	touch := func(d string) {
		for ; d != "." && !need[d]; d = parent(d) {
			need[d] = true
		}
	}
	for _, c := range p.creates { // moves
		touch(parent(c.path))
	}
	for _, it := range p.order {
		for i := range it.entries {
			e := &it.entries[i]
			if e.Type == link.Directory {
				j.Keep = append(j.Keep, e.Path)
				if it.kept == nil {
					touch(e.Path)
				}
				continue
			}
			if it.kept == nil {
				touch(parent(e.Path))
				p.creates = append(p.creates, create{path: e.Path, it: it, n: i, from: -1, look: it.looks[i]})
			}
		}
		if it.kept == nil || it.changed {
			j.Write = append(j.Write, it.stem()+".json")
		}
	}
	p.compiled(o, touch)
	for i := range p.creates {
		j.New, j.Stamps = append(j.New, p.creates[i].path), append(j.Stamps, p.creates[i].look)
	}
	for _, it := range p.order {
		for i := range it.pyc {
			j.New, j.Stamps = append(j.New, it.pyc[i].Path), append(j.Stamps, stamp{})
		}
	}
	if _, err := t.root.Lstat(cacheTag); p.fresh && errors.Is(err, fs.ErrNotExist) {
		j.New, j.Stamps = append(j.New, cacheTag), append(j.Stamps, stamp{})
	} else {
		p.fresh = false
	}
	for d := range need {
		j.Dirs = append(j.Dirs, d)
	}
	slices.Sort(j.Dirs)
	return p.look(t, o)
}
