package pkgcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/disk"
)

// Error is what kept a package from the cache.
type Error struct {
	Package string // file name
	What    string // such as "fetch", "verify", "unpack"
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return e.What + " " + e.Package + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Ensure fetches, checks and unpacks what is missing, in parallel, and returns the entries in the order of list. The
// first failure, an *Error, stops the rest; what is complete by then stays in the cache.
func (c *Cache) Ensure(ctx context.Context, src Source, list []Package) ([]Entry, error) {
	out := make([]Entry, len(list))
	var missing []int
	for i := range list {
		if e, ok := c.Lookup(&list[i]); ok {
			out[i] = e
			c.tell(&list[i], Ready, 0)
			continue
		}
		missing = append(missing, i)
	}
	if len(missing) == 0 {
		return out, nil
	}
	// The largest first: a big one that begins last would be waited for alone.
	slices.SortStableFunc(missing, func(a, b int) int { return cmp.Compare(list[b].Size, list[a].Size) })

	b := &batch{c: c, src: src, unpack: make(chan struct{}, cmp.Or(c.opts.Unpacks, runtime.GOMAXPROCS(0)))}
	b.publisher.c = c
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(c.opts.Fetches, 8))
	for _, i := range missing {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var err error
			out[i], err = b.one(ctx, &list[i])
			return err
		})
	}
	return out, g.Wait()
}

func (c *Cache) tell(p *Package, what Step, n int64) {
	if c.opts.Progress != nil {
		c.opts.Progress(Event{Package: p, What: what, Bytes: n})
	}
}

// batch is one Ensure.
type batch struct {
	c         *Cache
	src       Source
	unpack    chan struct{} // slots
	publisher publisher
}

// one brings a single package into the cache.
func (b *batch) one(ctx context.Context, p *Package) (e Entry, err error) {
	d, err := dist.ParseFilename(p.FileName)
	if err != nil {
		return e, &Error{p.FileName, "fetch", err}
	}
	work := filepath.Join(b.c.dir, workDir)
	unlock, err := lockFile(ctx, filepath.Join(work, d.Stem()+".lock"))
	if err != nil {
		return e, &Error{p.FileName, "lock", err}
	}
	defer unlock()
	e, ok, err := b.c.lookup(d.Stem(), p)
	if err != nil {
		return e, &Error{p.FileName, "look for", err}
	}
	if ok { // another process was quicker
		b.c.tell(p, Ready, 0)
		return e, nil
	}
	b.c.sweep(d.Stem())
	tmp, err := os.MkdirTemp(work, d.Stem()+".")
	if err != nil {
		return e, &Error{p.FileName, "unpack", err}
	}
	defer os.RemoveAll(tmp)

	f, s, err := b.fetch(ctx, p, filepath.Join(tmp, "file"))
	if err != nil {
		return e, &Error{p.FileName, "fetch", err}
	}
	defer f.Close()
	sha, md5, err := s.check()
	if err != nil {
		return e, &Error{p.FileName, "verify", err}
	}
	// What is unpacked already stays where it is: others may be reading it just now.
	e, ok, err = b.c.lookup(d.Stem(), &Package{SHA256: sha, MD5: md5})
	if err != nil {
		return e, &Error{p.FileName, "look for", err}
	}
	if ok {
		e.Fetched = s.size
		b.c.tell(p, Ready, s.size)
		return e, nil
	}
	select {
	case b.unpack <- struct{}{}:
	case <-ctx.Done():
		return e, context.Cause(ctx)
	}
	b.c.tell(p, Unpacking, 0)
	tree := filepath.Join(tmp, "tree")
	err = b.c.extract(ctx, f, s.size, p, tree)
	<-b.unpack // the rest is waiting for the disk, while another one unpacks
	if err != nil {
		return e, &Error{p.FileName, "unpack", err}
	}
	record, err := stamp(p.Record, p, sha, md5)
	if err == nil {
		err = os.WriteFile(filepath.Join(tree, filepath.FromSlash(recordFile)), record, 0o644)
	}
	if err == nil {
		e.Dir, err = b.place(d.Stem(), sha, tree)
	}
	if err != nil {
		return e, &Error{p.FileName, "unpack", err}
	}
	e.SHA256, e.MD5, e.Fetched = sha, md5, s.size
	b.c.tell(p, Ready, s.size)
	return e, nil
}

func (b *batch) fetch(ctx context.Context, p *Package, name string) (*os.File, *spool, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	s := newSpool(f, p, func(n int64) { b.c.tell(p, Fetching, n) })
	b.c.tell(p, Fetching, 0)
	if err := b.src.Fetch(ctx, p.URL, p.Size, s); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, s, nil
}

// extract unpacks a file and compares what came out with the package's own list.
func (c *Cache) extract(ctx context.Context, f *os.File, size int64, p *Package, tree string) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := archive.Extract(ctx, f, size, p.FileName, root, c.opts.Limits, archive.Lenient(), archive.KeepPaths(), archive.ExactModes())
	if err != nil {
		return err
	}
	if _, err := root.Lstat(recordFile); err == nil {
		return errors.New("the archive holds " + recordFile + ", which is for clients to write")
	}
	paths, err := info.Paths(c.opts.Limits)
	if err != nil {
		return err
	}
	return checkSizes(root, paths, info.HasPaths)
}

// place moves a finished tree to where it belongs. Another package that is there already keeps its place; what is there
// and is no package is replaced.
func (b *batch) place(stem, sha, tree string) (string, error) {
	for _, name := range names(stem, sha) {
		_, ok, err := b.c.identity(name)
		if err != nil {
			return "", err
		}
		if !ok {
			dir := filepath.Join(b.c.dir, name)
			return dir, b.publisher.publish(tree, dir)
		}
	}
	return "", fmt.Errorf("%s: another package has the place of this one", stem)
}

// sweep removes what a process that died left of a package. The caller holds its lock.
func (c *Cache) sweep(stem string) {
	work := filepath.Join(c.dir, workDir)
	left, err := os.ReadDir(work)
	if err != nil {
		return
	}
	for _, e := range left {
		name, rest, ok := strings.Cut(strings.TrimPrefix(e.Name(), stem), ".")
		if !ok || !strings.HasPrefix(e.Name(), stem) || !e.IsDir() {
			continue
		}
		// Behind the stem there may be a digest, and then comes what MkdirTemp made of digits: "a-1-0" must not sweep what
		// belongs to "a-1-0.1" or "a-1-0-x".
		rest = strings.TrimPrefix(rest, "old-")
		if (name == "" || name[0] == '-' && (len(name) == 1+shortDigest || len(name) == 1+64)) && rest != "" && strings.Trim(rest, "0123456789") == "" {
			_ = os.RemoveAll(filepath.Join(work, e.Name()))
		}
	}
}

// publisher makes trees durable before it gives them their names. One flush serves all trees that wait for one: it
// costs as much for ten packages as for one.
type publisher struct {
	c  *Cache
	mu sync.Mutex // held by who flushes

	wait sync.Mutex
	done uint64 // number of the last flush that ended
	next uint64 // number of the last flush that began
}

func (s *publisher) publish(tree, dir string) error {
	if !s.c.opts.NoSync {
		if err := s.flush(); err != nil {
			return err
		}
	}
	err := os.Rename(tree, dir)
	if err != nil {
		// What lies there has no record, so it is no package: the work of another program, or of a broken disk.
		if _, serr := os.Lstat(dir); serr == nil {
			if err = s.c.discard(dir); err == nil {
				err = os.Rename(tree, dir)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("put %s in place: %w", filepath.Base(dir), err)
	}
	return nil
}

// flush returns after a flush that began after the call.
func (s *publisher) flush() error {
	s.wait.Lock()
	need := s.next + 1
	s.wait.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done >= need {
		return nil
	}
	s.wait.Lock()
	s.next++
	n := s.next
	s.wait.Unlock()
	err := flush(s.c.dir)
	if err == nil {
		s.done = n
	}
	return err
}

func flush(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return disk.Flush(f)
}
