package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
)

// Channel is a channel and where its files are.
type Channel struct {
	// URL is the channel's address without subdir and trailing slash; packages are located below it.
	URL    string
	Source Source
}

// Options say what to read and how.
type Options struct {
	// Subdirs to read of each channel, the platform's before noarch: candidates that are alike are tried in this order.
	Subdirs []string
	// Names to begin with; what their packages depend on is read too. nil reads everything.
	Names []string
	// Direct reads Names only, not what their packages depend on: for a search.
	Direct bool

	Cache   *Cache // nil keeps nothing
	Offline bool   // take what the cache has, however old, and ask nobody

	// Problem is told of records that are left out because they are broken, and of a cache that cannot be written. It may
	// be nil, and is called by one goroutine at a time.
	Problem func(error)
	// MaxFile bounds one file as it comes, MaxIndex one that was decompressed, in bytes. 0 means 1 GiB and 4 GiB.
	MaxFile, MaxIndex int64
	// Parallel is how many files are asked for at a time; 0 means 24.
	Parallel int
}

// Result is what was read.
type Result struct {
	// Repos are in order of priority, ready for solve.NewIndex.
	Repos []solve.Repo
	// Complete is false if only some names were read.
	Complete bool
	// Bytes came from sources; what the cache had does not count.
	Bytes int64
}

// Load reads channels, given in order of priority.
func Load(ctx context.Context, channels []Channel, opts Options) (*Result, error) {
	opts = opts.withDefaults()
	l := &loader{opts: opts}
	subdirs, err := l.open(ctx, channels)
	if err != nil {
		return nil, err
	}
	complete := opts.Names == nil
	if complete {
		err = l.everything(ctx, subdirs)
	} else {
		err = l.closure(ctx, subdirs, opts.Names)
	}
	if err != nil {
		return nil, err
	}
	res := &Result{Complete: complete, Bytes: l.bytes}
	for _, s := range subdirs {
		repo := solve.Repo{Channel: s.channel.URL, Subdir: s.subdir}
		for _, name := range slices.Sorted(maps.Keys(s.have)) {
			repo.Packages = append(repo.Packages, s.have[name]...)
		}
		res.Repos = append(res.Repos, repo)
	}
	return res, nil
}

func (o Options) withDefaults() Options {
	if o.MaxFile == 0 {
		o.MaxFile = 1 << 30
	}
	if o.MaxIndex == 0 {
		o.MaxIndex = 4 << 30
	}
	if o.Parallel == 0 {
		o.Parallel = 24
	}
	return o
}

// loader is one call of Load.
type loader struct {
	opts Options

	mu    sync.Mutex
	bytes int64
}

func (l *loader) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes += int64(n)
}

func (l *loader) warn(err error) {
	if err == nil || l.opts.Problem == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opts.Problem(err)
}

// open finds the index of each subdir of each channel.
func (l *loader) open(ctx context.Context, channels []Channel) ([]*subdir, error) {
	var list []*subdir
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.opts.Parallel)
	for i := range channels {
		for _, name := range l.opts.Subdirs {
			s := &subdir{loader: l, channel: &channels[i], subdir: name, have: map[string][]*solve.Package{}}
			list = append(list, s)
			g.Go(func() error { return s.open(ctx) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range channels {
		found := slices.ContainsFunc(list, func(s *subdir) bool { return s.channel == &channels[i] && s.index != nil })
		if !found {
			return nil, fmt.Errorf("%s is no channel: it has no index for %s", channels[i].URL, strings.Join(l.opts.Subdirs, " or "))
		}
	}
	return list, nil
}

// everything reads all names of all subdirs.
func (l *loader) everything(ctx context.Context, subdirs []*subdir) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.opts.Parallel)
	for _, s := range subdirs {
		if s.index == nil {
			continue
		}
		for name := range s.index.names {
			g.Go(func() error { return s.read(ctx, name) })
		}
	}
	return g.Wait()
}

// closure reads names and all that their packages lead to, in waves: one wave's files are asked for together.
func (l *loader) closure(ctx context.Context, subdirs []*subdir, names []string) error {
	seen := map[string]bool{}
	wave := make([]string, 0, len(names))
	add := func(name string) {
		if !seen[name] && !strings.HasPrefix(name, "__") { // virtual packages are the machine's
			seen[name] = true
			wave = append(wave, name)
		}
	}
	for _, name := range names {
		add(name)
	}
	for len(wave) > 0 {
		now := wave
		wave = nil
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(l.opts.Parallel)
		for _, s := range subdirs {
			if s.index == nil {
				continue
			}
			for _, name := range now {
				g.Go(func() error { return s.read(gctx, name) })
			}
		}
		if err := g.Wait(); err != nil || l.opts.Direct {
			return err
		}
		specs := map[string]bool{}
		for _, s := range subdirs {
			for _, name := range now {
				for _, p := range s.have[name] {
					for _, spec := range p.Depends {
						specs[spec] = true
					}
					for _, group := range p.ExtraDepends {
						for _, spec := range group {
							specs[spec] = true
						}
					}
				}
			}
		}
		for spec := range specs {
			namesOf(spec, add)
		}
	}
	return nil
}

// namesOf calls add for each package name in a dependency, those in its conditions included.
func namesOf(text string, add func(string)) {
	text = strings.TrimSpace(text)
	if !strings.ContainsAny(text, "[:(*^") { // nearly all: a name, and perhaps a version behind a space or an operator
		if i := strings.IndexAny(text, " \t=<>!~"); i >= 0 {
			text = text[:i]
		}
		add(strings.ToLower(text))
		return
	}
	spec, err := matchspec.Parse(text, matchspec.Options{})
	if err != nil {
		return // the solver leaves out the record
	}
	if name, ok := spec.ExactName(); ok {
		add(name)
	}
	conditionNames(spec.When, add)
}

func conditionNames(c *matchspec.Condition, add func(string)) {
	if c == nil {
		return
	}
	if c.Op == matchspec.Holds {
		if name, ok := c.Spec.ExactName(); ok {
			add(name)
		}
	}
	for _, term := range c.Terms {
		conditionNames(term, add)
	}
}
