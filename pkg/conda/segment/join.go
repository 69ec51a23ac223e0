package segment

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Extras returns a segment of files that are in no package, and of the parts' hidden ones. files[i] are what is known of
// part i's hidden entries afterwards.
func (c *Cache) Extras(ctx context.Context, e *Env, f Form, extras func(hidden []map[string]File) ([]Extra, error)) (*Segment, error) {
	hidden, err := e.hidden()
	if err != nil {
		return nil, err
	}
	list, err := extras(hidden)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Extra) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	fmt.Fprintf(h, "%s extras %s %q %d%s ", layout, f.codec(), e.Root, e.Dirs, e.above(e.Dirs))
	for i := range list {
		fmt.Fprintf(h, "%q %o %d:", list[i].Path, list[i].Mode, len(list[i].Data))
		h.Write(list[i].Data)
	}
	cached := true
	for _, p := range e.Parts {
		if len(p.Hidden) > 0 {
			id := p.identity()
			fmt.Fprintf(h, "%s ", id)
			cached = cached && id != ""
		}
	}
	write := func(t *tarWriter) (map[string]File, error) {
		for _, p := range e.Parts {
			if _, err := t.part(p, p.Hidden); err != nil {
				return nil, err
			}
		}
		return nil, t.extra(list)
	}
	m := recipe{env: e, form: f, dirs: e.Dirs, write: write}
	if !cached {
		return c.make(ctx, m)
	}
	m.key = hexSum(h.Sum(nil))
	return c.get(ctx, m)
}

// hidden looks at what the hidden entries become.
func (e *Env) hidden() ([]map[string]File, error) {
	out := make([]map[string]File, len(e.Parts))
	for i, p := range e.Parts {
		if len(p.Hidden) == 0 {
			continue
		}
		files, err := newTarWriter(io.Discard, e, e.Dirs).part(p, p.Hidden)
		if err != nil {
			return nil, err
		}
		out[i] = files
	}
	return out, nil
}

// Join makes one archive of several segments of a form, in the order given, behind entries of directories; see DirsNone.
func (c *Cache) Join(ctx context.Context, e *Env, list []*Segment, directories []string, f Form) (*Segment, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q%s ", directories, e.above(DirsAll))
	once := false
	for _, s := range list {
		once = once || s.Key == ""
		fmt.Fprintf(h, "%s ", s.Key)
	}
	key := sumOf("joined " + f.codec() + " " + hexSum(h.Sum(nil)))
	if !once {
		if s := c.load(recipe{env: e, key: key, form: f}); s != nil {
			return s, nil
		}
	}
	tmp, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "joined-*")
	if err != nil {
		return nil, err
	}
	s := &Segment{Key: key, c: c, file: tmp.Name()}
	if err = c.join(ctx, e, s, tmp, list, directories, f); err == nil && !once {
		return s, c.keep(s, c.name(key, f))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.once = append(c.once, tmp.Name())
	return s, nil
}

func (c *Cache) join(ctx context.Context, e *Env, s *Segment, tmp *os.File, list []*Segment, directories []string, f Form) (err error) {
	defer func() {
		if cerr := tmp.Close(); err == nil {
			err = cerr
		}
	}()
	packed := &meter{w: tmp, h: sha256.New(), ctx: ctx}
	z := f.compressor(packed)
	t := newTarWriter(z, e, DirsAll)
	for _, dir := range directories {
		if err := t.parents(dir); err != nil {
			return err
		}
	}
	if err := errors.Join(t.w.Flush(), z.Close()); err != nil {
		return err
	}
	for _, part := range list {
		if err := part.CopyMember(packed); err != nil {
			return err
		}
	}
	s.Member = packed.n
	if _, err := packed.Write(f.Closing()); err != nil {
		return err
	}
	s.Size, s.SHA256 = packed.n, hexSum(packed.h.Sum(nil))
	// The digest of what it unpacks to cannot be put together from those of the parts.
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, err := f.reader(tmp)
	if err != nil {
		return err
	}
	defer r.Close()
	raw := sha256.New()
	if s.DiffSize, err = io.Copy(raw, r); err != nil {
		return err
	}
	s.DiffSHA256 = hexSum(raw.Sum(nil))
	return nil
}
