package pack

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// zipWriter writes files in the order of their paths.
type zipWriter struct {
	*zip.Writer
	env   *segment.Env
	links bool
	files map[string]located // by path in the environment
	names []string           // sorted

	// What copies in the place of links may still add. Links that lead to directories with such links would multiply without
	// end: sixteen pairs of them make 65,536 copies of a file.
	moreFiles int
	moreBytes int64
}

// A pack may grow by copies to a few times its size: some environments have all of their libraries twice or thrice.
const (
	copyFactor = 4
	freeFiles  = 10_000
	freeBytes  = 256 << 20
)

// located is an entry and whose it is.
type located struct {
	part  int
	entry link.Entry
	extra *segment.Extra
}

func writeZip(ctx context.Context, out io.Writer, env *segment.Env, o Options, res *Result) error {
	z := &zipWriter{Writer: zip.NewWriter(out), env: env, links: o.ZipLinks, files: map[string]located{}}
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, 5) })
	segments := make([]*segment.Segment, len(env.Parts))
	hidden := make([]map[string]segment.File, len(env.Parts))
	for i, p := range env.Parts {
		// What conda-meta has to say is found out by reading the files once more.
		known, err := p.Measure(ctx, p.Entries)
		if err != nil {
			return err
		}
		segments[i] = &segment.Segment{Files: known}
		if hidden[i], err = p.Measure(ctx, p.Hidden); err != nil {
			return err
		}
		for _, list := range [][]link.Entry{p.Entries, p.Hidden} {
			for _, e := range list {
				z.files[e.Path] = located{part: i, entry: e}
			}
		}
	}
	list, err := extras(env, segments, hidden, o, res)
	if err != nil {
		return err
	}
	res.Files += len(list)
	for i := range list {
		z.files[list[i].Path] = located{extra: &list[i]}
	}
	for name := range z.files {
		z.names = append(z.names, name)
	}
	slices.Sort(z.names)
	z.moreFiles, z.moreBytes = freeFiles+copyFactor*len(z.names), freeBytes
	for _, p := range env.Parts {
		z.moreBytes += copyFactor * p.Size()
	}
	for i, name := range z.names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := z.put(name, name, 0); err != nil {
			return err
		}
		if o.Progress != nil && (i%500 == 0 || i == len(z.names)-1) {
			o.Progress((i+1)*len(env.Parts)/len(z.names), len(env.Parts))
		}
	}
	return z.Close()
}

// put writes what is at a path of the environment under a name.
func (z *zipWriter) put(name, as string, depth int) error {
	f := z.files[name]
	if depth > 0 {
		z.moreFiles--
	}
	if f.extra != nil {
		return z.write(as, f.extra.Mode, strings.NewReader(string(f.extra.Data)))
	}
	p := z.env.Parts[f.part]
	return p.Each([]link.Entry{f.entry}, func(_ *link.Entry, c *segment.Content) error {
		if depth > 0 {
			z.moreBytes -= c.Size
		}
		switch {
		case z.moreFiles < 0 || z.moreBytes < 0:
			return fmt.Errorf("copies in the place of links would make the ZIP several times as large as the environment; ask for links in the ZIP, or use a tar")
		case c.Mode.IsDir():
			_, err := z.CreateHeader(z.header(as+"/", c.Mode))
			return err
		case c.Mode&fs.ModeSymlink == 0:
			return z.write(as, c.Mode, c.Reader)
		case z.links:
			return z.write(as, c.Mode, strings.NewReader(c.Link))
		}
		return z.follow(name, as, c.Link, depth)
	})
}

// follow writes what a link points to in its place.
func (z *zipWriter) follow(name, as, text string, depth int) error {
	target := path.Join(path.Dir(name), text)
	if path.IsAbs(text) || target == ".." || strings.HasPrefix(target, "../") || depth > 16 {
		return fmt.Errorf("the link %s points to %s, of which no copy can be made; ask for links in the ZIP, or use a tar", name, text)
	}
	if target, ok := z.resolve(target, depth); ok {
		if _, ok := z.files[target]; ok {
			return z.put(target, as, depth+1)
		}
		i, _ := slices.BinarySearch(z.names, target+"/")
		found := false
		for ; i < len(z.names) && strings.HasPrefix(z.names[i], target+"/"); i++ {
			found = true
			if err := z.put(z.names[i], as+strings.TrimPrefix(z.names[i], target), depth+1); err != nil {
				return err
			}
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("the link %s points to %s, which is not in the environment; ask for links in the ZIP, or use a tar", name, text)
}

// resolve replaces directories of a path that are links themselves.
func (z *zipWriter) resolve(name string, depth int) (string, bool) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		f, ok := z.files[dir]
		if !ok || f.extra != nil || f.entry.Type != link.SoftLink {
			continue
		}
		text, err := z.env.Parts[f.part].ReadLink(&f.entry)
		if err != nil || path.IsAbs(text) || depth > 16 {
			return "", false
		}
		return z.resolve(path.Join(path.Dir(dir), text)+strings.TrimPrefix(name, dir), depth+1)
	}
	return name, name != ".." && !strings.HasPrefix(name, "../")
}

func (z *zipWriter) header(name string, mode fs.FileMode) *zip.FileHeader {
	h := &zip.FileHeader{Name: path.Join(z.env.Root, name), Method: zip.Deflate}
	if strings.HasSuffix(name, "/") {
		h.Name, h.Method = h.Name+"/", zip.Store
	}
	// The old field alone: the newer ones would be an extra record with a time in each entry.
	h.ModifiedDate = 0x21 //lint:ignore SA1019 1 January 1980; Modified would write more
	h.SetMode(mode)
	return h
}

func (z *zipWriter) write(name string, mode fs.FileMode, r io.Reader) error {
	w, err := z.CreateHeader(z.header(name, mode))
	if err == nil {
		_, err = io.Copy(w, r)
	}
	return err
}
