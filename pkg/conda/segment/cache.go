package segment

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
)

// DefaultLimit is the size that a cache is kept below if nothing else is said, in bytes.
const DefaultLimit = 20 << 30

// Cache keeps segments in a directory, which several processes may share.
type Cache struct {
	dir   string
	limit int64
	fly   singleflight.Group

	mu   sync.Mutex
	size int64          // what is believed to be there; counted anew when it reaches the limit
	once []string       // files to be removed in the end
	held map[string]int // files that open environments need, which trim leaves alone
}

// OpenCache returns the cache in a directory, which is made if need be. limit bounds its size in bytes; 0 is DefaultLimit.
func OpenCache(dir string, limit int64) (*Cache, error) {
	if limit == 0 {
		limit = DefaultLimit
	}
	c := &Cache{dir: dir, limit: limit, held: map[string]int{}}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return nil, err
	}
	c.trim()
	return c, nil
}

// Close removes what could not be kept.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.once {
		_ = os.Remove(name)
	}
	c.once = nil
}

// Get returns the segment of a part, made if it is not there.
func (c *Cache) Get(ctx context.Context, p *Part, f Form) (*Segment, error) {
	m := recipe{env: p.env, form: f, dirs: p.Dirs, write: func(t *tarWriter) (map[string]File, error) { return t.part(p, p.Entries) }}
	id := p.identity()
	if id == "" {
		return c.make(ctx, m)
	}
	m.key = sumOf(id + " " + f.codec())
	return c.get(ctx, m)
}

// recipe is how a segment is made. One without a key is not kept.
type recipe struct {
	env   *Env
	key   string
	form  Form
	dirs  Dirs
	write func(*tarWriter) (map[string]File, error)
}

// All returns the segments of all parts, in their order; workers is how many are made at a time. done, if not nil, is told
// of each part that is finished, by one goroutine at a time.
func (c *Cache) All(ctx context.Context, e *Env, f Form, workers int, done func(*Part)) ([]*Segment, error) {
	out := make([]*Segment, len(e.Parts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, workers))
	var mu sync.Mutex
	// The largest first, so that none is left over when the others are finished.
	order := make([]int, len(e.Parts))
	sizes := make([]int64, len(e.Parts))
	for i := range order {
		order[i], sizes[i] = i, e.Parts[i].Size()
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sizes[b], sizes[a]) })
	for _, i := range order {
		g.Go(func() error {
			s, err := c.Get(ctx, e.Parts[i], f)
			if err != nil {
				return err
			}
			out[i] = s
			if done != nil {
				mu.Lock()
				defer mu.Unlock()
				done(e.Parts[i])
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (c *Cache) get(ctx context.Context, m recipe) (*Segment, error) {
	for try := 0; ; try++ {
		if s := c.load(m); s != nil {
			return s, nil
		}
		if try == 2 {
			return c.make(ctx, m)
		}
		ch := c.fly.DoChan(m.form.String()+m.key, func() (any, error) { return c.make(ctx, m) })
		r := <-ch // it reads files that the caller will close, and heeds its context
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case r.Err == nil && !r.Shared:
			return r.Val.(*Segment), nil
		case r.Err != nil && !r.Shared:
			return nil, r.Err
		}
		// It was made for somebody else, or failed because that one gave up.
	}
}

// hold keeps a file from being dropped until the environment is closed.
func (c *Cache) hold(e *Env, file string) {
	c.mu.Lock()
	c.held[file]++
	c.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.releases = append(e.releases, func() {
		c.mu.Lock()
		if c.held[file]--; c.held[file] == 0 {
			delete(c.held, file)
		}
		over := c.size > c.limit
		c.mu.Unlock()
		if over {
			c.trim()
		}
	})
}

func (c *Cache) name(key string, f Form) string {
	return filepath.Join(c.dir, f.String(), key[:2], key+".tar."+f.String())
}

func metaName(file string) string { return file + ".json" }

// load returns a segment that is there.
func (c *Cache) load(m recipe) *Segment {
	file := c.name(m.key, m.form)
	c.hold(m.env, file)
	data, err := os.ReadFile(metaName(file))
	if err != nil {
		return nil
	}
	s := &Segment{file: file, c: c}
	info, err := os.Stat(file)
	if err != nil || json.Unmarshal(data, s) != nil || s.Key != m.key || info.Size() != s.Size || s.Member > s.Size {
		c.drop(file)
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(metaName(file), now, now) // when it was used: see trim
	return s
}

func (c *Cache) drop(file string) {
	_ = os.Remove(metaName(file))
	_ = os.Remove(file)
}

// make writes a segment.
func (c *Cache) make(ctx context.Context, m recipe) (_ *Segment, err error) {
	tmp, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "segment-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = tmp.Close()
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	packed := &meter{w: tmp, h: sha256.New()}
	z := m.form.compressor(packed)
	raw := &meter{w: z, h: sha256.New(), ctx: ctx}
	s := &Segment{Key: m.key, c: c, file: tmp.Name()}
	if s.Files, err = m.write(newTarWriter(raw, m.env, m.dirs)); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	s.Member = packed.n
	if _, err := packed.Write(m.form.Closing()); err != nil {
		return nil, err
	}
	raw.h.Write(closing)
	s.Size, s.SHA256 = packed.n, hexSum(packed.h.Sum(nil))
	s.DiffSize, s.DiffSHA256 = raw.n+int64(len(closing)), hexSum(raw.h.Sum(nil))
	if m.key == "" {
		c.mu.Lock()
		c.once = append(c.once, tmp.Name())
		c.mu.Unlock()
		return s, nil
	}
	return s, c.keep(s, c.name(m.key, m.form))
}

// keep puts a finished segment in its place, its description last.
func (c *Cache) keep(s *Segment, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.Rename(s.file, file); err != nil {
		return err
	}
	s.file = file
	tmp, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "meta-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), metaName(file))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	c.mu.Lock()
	c.size += s.Size + int64(len(data))
	over := c.size > c.limit
	c.mu.Unlock()
	if over {
		c.trim()
	}
	return nil
}

// trim counts what is there and, if it is too much, drops what was not used for the longest time, but nothing that an open
// environment of this process needs. What another process drops is made again: see ErrBroken.
func (c *Cache) trim() {
	type entry struct {
		file string
		size int64
		used time.Time
	}
	var list []entry
	var total int64
	_ = filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not counted
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it was removed meanwhile
		}
		total += info.Size()
		if filepath.Dir(name) == filepath.Join(c.dir, "tmp") {
			if time.Since(info.ModTime()) > 24*time.Hour {
				_ = os.Remove(name) // of a process that died
			}
			return nil
		}
		if file, ok := strings.CutSuffix(name, ".json"); ok {
			if st, err := os.Stat(file); err == nil {
				list = append(list, entry{file, info.Size() + st.Size(), info.ModTime()})
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b entry) int { return a.used.Compare(b.used) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range list {
		if total <= c.limit {
			break
		}
		if c.held[e.file] == 0 {
			c.drop(e.file)
			total -= e.size
		}
	}
	c.size = total
}
