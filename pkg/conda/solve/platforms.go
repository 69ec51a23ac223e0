package solve

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// noarch is the subdir of what fits every platform.
const noarch = "noarch"

// Platforms are indexes for several platforms over the same channels. What they have in common is there once: the arenas of
// noarch, and every dependency and version that was parsed. They are as safe for concurrent use as an Index.
type Platforms struct {
	names   []string
	indexes map[string]*Index
}

// NewPlatforms prepares repos for platforms such as linux-64: those of a platform's own subdir, and those of noarch, in the
// order in which they are given.
func NewPlatforms(repos []Repo, platforms ...string) (*Platforms, error) {
	p := &Platforms{indexes: map[string]*Index{}}
	specs, versions := newSpecTable(nil), newVersionTable()
	for _, name := range platforms {
		if p.indexes[name] != nil {
			continue
		}
		own := slices.DeleteFunc(slices.Clone(repos), func(r Repo) bool { return r.Subdir != name && r.Subdir != noarch })
		ix, err := NewIndex(own)
		if err != nil {
			return nil, err
		}
		ix.specs, ix.versions = specs, versions
		p.names = append(p.names, name)
		p.indexes[name] = ix
	}
	slices.Sort(p.names)
	return p, nil
}

// Names returns the platforms, sorted.
func (p *Platforms) Names() []string { return slices.Clone(p.names) }

// Index returns the index of a platform, or nil.
func (p *Platforms) Index(platform string) *Index { return p.indexes[platform] }

// Answer is what a solve for one platform came to: Solution or Err, which is as that of [Index.Solve].
type Answer struct {
	Platform string
	Solution *Solution
	Err      error
}

// Solve answers one request for each platform, as many at a time as there are processors. The request of a platform is what
// ask makes for it: virtual packages differ, and often specs do. The answers are in the order of Names.
func (p *Platforms) Solve(ctx context.Context, ask func(platform string) (Request, error)) []Answer {
	out := make([]Answer, len(p.names))
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, name := range p.names {
		out[i].Platform = name
		r, err := ask(name)
		if err != nil {
			out[i].Err = err
			continue
		}
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				out[i].Err = context.Cause(ctx)
				return
			}
			out[i].Solution, out[i].Err = p.indexes[name].Solve(ctx, r)
		})
	}
	wg.Wait()
	return out
}

// versionTable parses each version once.
type versionTable struct {
	mu     sync.Mutex
	byText map[string]*version.Version
}

func newVersionTable() *versionTable {
	return &versionTable{byText: map[string]*version.Version{}}
}

func (t *versionTable) parse(text string) (*version.Version, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.byText[text]; ok {
		return v, nil
	}
	text = strings.Clone(text) // it may be an arena's
	v, err := version.Parse(text)
	if err != nil {
		return nil, err
	}
	t.byText[text] = &v
	return &v, nil
}
