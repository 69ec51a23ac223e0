// Package index makes the index files of a channel from the package files in a directory.
//
// A channel's directory has a subdir per platform, and noarch. Build reads the packages in them and writes beside them
//
//	repodata.json, repodata.json.zst       all records
//	repodata_shards.msgpack.zst, shards/   the same by package name (CEP 16)
//	current_repodata.json                  the newest builds and what they need
//	run_exports.json(.zst)                 what packages demand of what is built with them (CEP 12)
//
// and channeldata.json above them. Repodata patches are applied if given.
//
// A package is read once: what was learnt of it is kept in .cache of the channel and used as long as the file's size and
// time of modification stay the same, so that one more package costs one read. A file that cannot be read is reported and
// not listed; it never spoils the index of its neighbours.
//
// Every index file is written beside its place and renamed, and only if its bytes are new: whoever serves the directory
// never shows half of one, and an unchanged file keeps its time. Shards are there before the index that names them.
package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Options say what to build.
type Options struct {
	// Subdirs to index; none means all that the directory has. noarch is made if it is missing.
	Subdirs []string
	// Force reads every package again.
	Force bool
	// Bzip2 writes repodata.json.bz2 too, which only old clients ask for; it is slow.
	Bzip2 bool
	// NoShards leaves out the sharded index, and removes one that is there.
	NoShards bool
	// Patches are applied to the records; see ReadPatches.
	Patches map[string]*repodata.PatchInstructions
	// Limits bound what one package may cost.
	Limits archive.Limits
	// Parallel is how many packages are read at a time; 0 means one per processor.
	Parallel int
	// Progress is told of the files that were read, by one goroutine at a time. It may be nil.
	Progress func(Progress)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Progress counts package files of all subdirs.
type Progress struct{ Done, Total int }

// Report says what Build did.
type Report struct {
	Subdirs []SubdirReport
}

// SubdirReport says what became of a subdir.
type SubdirReport struct {
	Subdir   string
	Packages int // listed
	Read     int // package files that were opened; the others were known
	Failed   []Failure
}

// Failure is a package file that could not be listed.
type Failure struct {
	File string
	Err  error
}

// ErrNoChannel says that a directory has no subdir and no package.
var ErrNoChannel = errors.New("the directory has no subdirs such as noarch or linux-64, so it is no channel")

// Build indexes the channel in a directory. The error is about the whole; what is wrong with one package is in the report.
func Build(ctx context.Context, dir string, opts Options) (*Report, error) {
	if opts.Parallel == 0 {
		opts.Parallel = runtime.GOMAXPROCS(0)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	subdirs, err := findSubdirs(root, opts.Subdirs)
	if err != nil {
		return nil, err
	}
	b := &builder{root: root, opts: opts, data: repodata.ChannelData{}}
	for _, name := range subdirs {
		s, err := b.scan(name)
		if err != nil {
			return nil, err
		}
		b.subdirs = append(b.subdirs, s)
		b.progress.Total += len(s.unread)
	}
	if err := b.read(ctx); err != nil {
		return nil, err
	}
	report := &Report{}
	for _, s := range b.subdirs {
		if err := b.write(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		slices.SortFunc(s.failed, func(a, b Failure) int { return strings.Compare(a.File, b.File) })
		report.Subdirs = append(report.Subdirs, SubdirReport{Subdir: s.name, Packages: s.listed, Read: s.opened, Failed: s.failed})
	}
	return report, b.writeChannelData()
}

// builder is one call of Build.
type builder struct {
	root    *os.Root
	opts    Options
	subdirs []*subdir
	data    repodata.ChannelData

	mu       sync.Mutex
	progress Progress
}

// subdir is one subdir while it is indexed.
type subdir struct {
	name   string
	known  map[string]*entry // by file name: what the cache says of files that are still the same
	unread []string          // files to open

	mu     sync.Mutex
	failed []Failure
	opened int
	listed int
	stale  bool // the cache on disk says something else
}

func findSubdirs(root *os.Root, want []string) ([]string, error) {
	if len(want) == 0 {
		list, err := fs.ReadDir(root.FS(), ".")
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.IsDir() && dist.ValidSubdir(e.Name()) {
				want = append(want, e.Name())
			}
		}
		if len(want) == 0 {
			return nil, ErrNoChannel
		}
	}
	for _, name := range want {
		if err := dist.CheckSubdir(name); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(want, dist.Noarch) {
		want = append(want, dist.Noarch) // conda takes a directory without it for no channel
	}
	slices.Sort(want)
	for _, name := range slices.Compact(want) {
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return slices.Compact(want), nil
}

// scan lists a subdir's packages and finds those of which the cache knows nothing.
func (b *builder) scan(name string) (*subdir, error) {
	s := &subdir{name: name, known: map[string]*entry{}}
	var cached map[string]*entry
	if !b.opts.Force {
		cached = b.readCache(name)
	}
	dir, err := b.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	list, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if _, _, ok := dist.SplitExtension(e.Name()); !ok || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := b.root.Stat(name + "/" + e.Name()) // a link within the channel counts as what it leads to
		if err != nil || !info.Mode().IsRegular() {
			s.failed = append(s.failed, Failure{e.Name(), cmpErr(err, errors.New("is no file"))})
			continue
		}
		if c := cached[e.Name()]; c != nil && c.Size == info.Size() && c.Modified == info.ModTime().UnixNano() {
			s.known[e.Name()] = c
			continue
		}
		s.unread = append(s.unread, e.Name())
	}
	slices.Sort(s.unread)
	s.stale = len(s.unread) > 0 || len(cached) != len(s.known)
	return s, nil
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// read opens the packages that are not known, of all subdirs together.
func (b *builder) read(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.opts.Parallel)
	for _, s := range b.subdirs {
		for _, file := range s.unread {
			g.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				e, err := b.readPackage(ctx, s.name, file)
				if err != nil && ctx.Err() != nil {
					return err
				}
				s.mu.Lock()
				s.opened++
				if err != nil {
					s.failed = append(s.failed, Failure{file, err})
				} else {
					s.known[file] = e
				}
				s.mu.Unlock()
				b.mu.Lock()
				defer b.mu.Unlock()
				b.progress.Done++
				if b.opts.Progress != nil {
					b.opts.Progress(b.progress)
				}
				return nil
			})
		}
	}
	return g.Wait()
}
