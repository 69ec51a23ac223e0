package gateway

import (
	"context"
	"fmt"
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
	// Names to begin with; what their packages depend on is read too. nil reads everything. Of a channel without shards
	// everything is read in any case, as one file.
	Names []string
	// Direct reads Names only, not what their packages depend on: for a search.
	Direct bool

	// Relations says how channels that name others (CEP 42) are followed; nil follows none.
	Relations *Relations

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
	// Complete is false if there are names that were not read.
	Complete bool
	// Channels are those that were read, in order of priority: the given ones, and those that they are related to.
	Channels []Resolved
	// Bytes came from sources; what the cache had does not count.
	Bytes int64
}

// Load reads channels, given in order of priority.
func Load(ctx context.Context, channels []Channel, opts Options) (*Result, error) {
	opts = opts.withDefaults()
	l := &loader{opts: opts}
	resolved, subdirs, err := l.resolve(ctx, channels)
	if err != nil {
		return nil, err
	}
	if opts.Names == nil {
		err = l.everything(ctx, subdirs)
	} else {
		err = l.closure(ctx, subdirs, opts.Names)
	}
	if err != nil {
		return nil, err
	}
	res := &Result{Complete: true, Bytes: l.bytes, Channels: resolved}
	for _, s := range subdirs {
		repo, err := s.repo()
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", s.channel.URL, s.subdir, err)
		}
		res.Complete = res.Complete && !repo.Partial
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

// open finds the indexes of channels: of each channel its subdirs.
func (l *loader) open(ctx context.Context, channels []*Channel) ([][]*subdir, error) {
	lists := make([][]*subdir, len(channels))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.opts.Parallel)
	for i, ch := range channels {
		for _, name := range l.opts.Subdirs {
			s := &subdir{loader: l, channel: ch, subdir: name, have: map[string]bool{}}
			lists[i] = append(lists[i], s)
			g.Go(func() error { return s.open(ctx) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, list := range lists {
		if !slices.ContainsFunc(list, func(s *subdir) bool { return s.found }) {
			return nil, fmt.Errorf("%s is no channel: it has no index for %s", channels[i].URL, strings.Join(l.opts.Subdirs, " or "))
		}
	}
	return lists, nil
}

// everything reads all names of all subdirs.
func (l *loader) everything(ctx context.Context, subdirs []*subdir) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.opts.Parallel)
	for _, s := range subdirs {
		if s.names == nil {
			continue
		}
		for name := range s.names.Shards {
			g.Go(func() error { return s.read(ctx, name) })
		}
	}
	return g.Wait()
}

// closure reads names and all that their packages lead to, in waves: one wave's files are asked for together.
func (l *loader) closure(ctx context.Context, subdirs []*subdir, names []string) error {
	if !slices.ContainsFunc(subdirs, func(s *subdir) bool { return s.names != nil }) {
		return nil // everything is there
	}
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
	specs := map[string]bool{}
	for len(wave) > 0 {
		now := wave
		wave = nil
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(l.opts.Parallel)
		for _, s := range subdirs {
			for _, name := range now {
				g.Go(func() error { return s.read(gctx, name) })
			}
		}
		if err := g.Wait(); err != nil || l.opts.Direct {
			return err
		}
		for _, s := range subdirs {
			for _, name := range now {
				s.leads(name, func(spec string) {
					if !specs[spec] {
						specs[strings.Clone(spec)] = true
						namesOf(strings.Clone(spec), add)
					}
				})
			}
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
