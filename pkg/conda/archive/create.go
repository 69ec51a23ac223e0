package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Meta is the metadata of a package to be made. Only Index is required, with
// name, version, build and subdir.
type Meta struct {
	Index      Index
	About      *About
	RunExports *RunExports
	Link       *Link
	// Extra holds more files for info/ by path, such as
	// "info/licenses/LICENSE". It must not hold a file that Create writes.
	Extra map[string][]byte
}

// Input is one entry of a package to be made.
type Input struct {
	Path string
	Kind Kind        // File if zero; HardLink is not allowed
	Mode fs.FileMode // permission bits; 0644 if zero
	Link string      // text of a Symlink

	// Content of a File: Data, or Open if that is set. Open is called up to
	// twice and must give the same bytes each time.
	Data []byte
	Open func() (io.ReadCloser, error)

	// Placeholder is the prefix that the installer replaces in this file.
	Placeholder string
	FileMode    FileMode // how; text if empty
	NoLink      bool
}

func (in *Input) open() (io.ReadCloser, error) {
	if in.Open != nil {
		return in.Open()
	}
	return io.NopCloser(bytes.NewReader(in.Data)), nil
}

// Create writes a package and returns its identity. It makes paths.json and
// the legacy lists files, has_prefix and no_link from the entries, which may
// come in any order.
//
// Equal input makes equal bytes: entries are sorted, owners are dropped, every
// time is that of the index's timestamp (or 1970), and compression runs on one
// thread. The result passes this package's own readers; in a .conda the info
// member is the last.
func Create(ctx context.Context, w io.Writer, format dist.Format, meta Meta, entries []Input, opts ...WriteOption) (dist.Dist, error) {
	x := meta.Index
	d, err := dist.New(x.Name, x.Version, x.Build, format)
	if err != nil {
		return d, err
	}
	if err := dist.CheckSubdir(x.Subdir); err != nil {
		return d, &Error{Member: indexFile, Field: "subdir", Msg: "it is not valid", Err: err}
	}
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Input) int { return cmp.Compare(a.Path, b.Path) })
	mtime := time.UnixMilli(int64(x.Timestamp)).Truncate(time.Second)

	m := maker{ctx: ctx, tree: newTree(Limits{}.withDefaults()), sums: map[string]sum{}}
	paths, err := m.measure(entries)
	if err != nil {
		return d, err
	}
	info, err := infoFiles(meta, paths)
	if err != nil {
		return d, err
	}
	for _, f := range info {
		if err := m.place(f.path, File, "", both); err != nil {
			return d, err
		}
	}
	if err := m.tree.finish(x.Subdir); err != nil {
		return d, err
	}

	p, err := newPacker(w, d, gatherWrite(opts))
	if err != nil {
		return d, err
	}
	defer p.abort()
	for _, f := range info {
		e := &Entry{Path: f.path, Kind: File, Mode: 0o644, Size: int64(len(f.data)), ModTime: mtime}
		if err := p.entry(e, bytes.NewReader(f.data)); err != nil {
			return d, err
		}
	}
	for i := range entries {
		if err := m.pack(p, &entries[i], mtime); err != nil {
			return d, err
		}
	}
	return d, p.finish(ctx)
}

// maker holds what is known about the entries of a new package.
type maker struct {
	ctx  context.Context
	tree *tree
	sums map[string]sum
}

type sum struct {
	sha256 string
	size   int64
}

// place applies the readers' rules to a new entry.
func (m *maker) place(path string, kind Kind, link string, part section) error {
	clean, reason := cleanPath(path)
	if reason == "" && clean != path {
		reason = "it is not clean"
	}
	if reason != "" {
		return refuse(path, "path", "%s", reason)
	}
	if err := checkPlace(path, kind, part); err != nil {
		return err
	}
	e := &Entry{Path: path, Kind: kind, Link: link}
	if err := (&scanner{lim: m.tree.lim, tree: m.tree}).checkLink(e); err != nil {
		return err
	}
	return m.tree.add(path, kind, link)
}

// measure checks the entries, hashes the files and makes the path list.
func (m *maker) measure(entries []Input) ([]PathEntry, error) {
	for i := range entries {
		in := &entries[i]
		in.Kind = cmp.Or(in.Kind, File)
		if in.Kind == HardLink {
			return nil, refuse(in.Path, "type", "hard links are not written; repeat the file")
		}
		if in.Kind != Symlink && in.Link != "" {
			return nil, refuse(in.Path, "link", "only a symbolic link has a target")
		}
		if err := m.place(in.Path, in.Kind, in.Link, pkgOnly); err != nil {
			return nil, err
		}
		if in.Kind == File {
			if err := m.hash(in); err != nil {
				return nil, err
			}
		}
	}
	var paths []PathEntry
	for i := range entries {
		in := &entries[i]
		e := PathEntry{Path: in.Path, NoLink: in.NoLink, Type: PathHardLink}
		switch in.Kind {
		case Dir:
			e.Type = PathDirectory
		case Symlink:
			e.Type = PathSoftLink
			s, ok := m.sums[m.target(in)]
			if !ok { // dangling, or a directory: what rattler records
				h := sha256.Sum256([]byte(in.Link))
				s = sum{hex.EncodeToString(h[:]), int64(len(in.Link))}
			}
			e.SHA256, e.Size = s.sha256, &s.size
		case File:
			s := m.sums[in.Path]
			e.SHA256, e.Size = s.sha256, &s.size
			if in.Placeholder != "" {
				e.Placeholder, e.Mode = in.Placeholder, cmp.Or(in.FileMode, ModeText)
			}
		}
		paths = append(paths, e)
	}
	return paths, nil
}

func (m *maker) hash(in *Input) error {
	r, err := in.open()
	if err != nil {
		return &Error{Member: in.Path, Msg: "cannot open", Err: err}
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, ctxReader{m.ctx, r})
	if err != nil {
		return &Error{Member: in.Path, Msg: "cannot read", Err: err}
	}
	m.sums[in.Path] = sum{hex.EncodeToString(h.Sum(nil)), n}
	return nil
}

// target follows a chain of links to a file's path, lexically.
func (m *maker) target(in *Input) string {
	at, link := in.Path, in.Link
	for range maxLinkHops {
		stack := splitPath(parentOf(at))
		for _, c := range splitPath(link) {
			switch {
			case c == "" || c == ".":
			case c == ".." && len(stack) > 0:
				stack = stack[:len(stack)-1]
			default:
				stack = append(stack, c)
			}
		}
		at = strings.Join(stack, "/")
		var ok bool
		if link, ok = m.tree.links[at]; !ok {
			return at
		}
	}
	return ""
}

func (m *maker) pack(p *packer, in *Input, mtime time.Time) error {
	e := &Entry{Path: in.Path, Kind: in.Kind, Mode: cmp.Or(in.Mode.Perm(), 0o644), Link: in.Link, ModTime: mtime}
	switch in.Kind {
	case Dir:
		e.Mode = 0o755
	case Symlink:
		e.Mode = 0o777
	}
	if in.Kind != File {
		return p.entry(e, nil)
	}
	e.Size = m.sums[in.Path].size
	r, err := in.open()
	if err != nil {
		return &Error{Member: in.Path, Msg: "cannot open", Err: err}
	}
	defer r.Close()
	h := sha256.New()
	if err := p.entry(e, io.TeeReader(ctxReader{m.ctx, r}, h)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != m.sums[in.Path].sha256 {
		return refuse(in.Path, "", "the file changed while the package was made")
	}
	return nil
}

type infoFile struct {
	path string
	data []byte
}

// infoFiles makes the content of info/, index.json first.
func infoFiles(meta Meta, paths []PathEntry) ([]infoFile, error) {
	var out []infoFile
	add := func(path string, v any) error {
		data, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			return &Error{Member: path, Msg: "cannot be written", Err: err}
		}
		out = append(out, infoFile{path, append(data, '\n')})
		return nil
	}
	if err := add(indexFile, meta.Index); err != nil {
		return nil, err
	}
	rest := []struct {
		path string
		v    any
		skip bool
	}{
		{aboutFile, meta.About, meta.About == nil},
		{linkFile, meta.Link, meta.Link == nil},
		{pathsFile, Paths{Version: 1, Paths: paths}, false},
		{runExportsFile, meta.RunExports, meta.RunExports == nil},
	}
	for _, f := range rest {
		if f.skip {
			continue
		}
		if err := add(f.path, f.v); err != nil {
			return nil, err
		}
	}
	if meta.Link != nil {
		for _, s := range meta.Link.Noarch.EntryPoints {
			if _, err := ParseEntryPoint(s); err != nil {
				return nil, err
			}
		}
	}
	var files, prefix, noLink strings.Builder
	for _, e := range paths {
		if e.Type == PathDirectory {
			continue
		}
		files.WriteString(e.Path + "\n")
		if e.Placeholder != "" {
			if strings.ContainsAny(e.Placeholder+e.Path, "\"\n\r") {
				return nil, refuse(e.Path, "prefix_placeholder", "a quote or line break cannot be written to has_prefix")
			}
			prefix.WriteString(`"` + e.Placeholder + `" ` + string(e.Mode) + ` "` + e.Path + "\"\n")
		}
		if e.NoLink {
			noLink.WriteString(e.Path + "\n")
		}
	}
	out = append(out, infoFile{filesFile, []byte(files.String())})
	if prefix.Len() > 0 {
		out = append(out, infoFile{hasPrefixFile, []byte(prefix.String())})
	}
	if noLink.Len() > 0 {
		out = append(out, infoFile{noLinkFile, []byte(noLink.String())})
	}
	for path, data := range meta.Extra {
		if !strings.HasPrefix(path, "info/") {
			return nil, refuse(path, "path", "an extra metadata file belongs below info/")
		}
		out = append(out, infoFile{path, data})
	}
	slices.SortFunc(out[1:], func(a, b infoFile) int { return cmp.Compare(a.path, b.path) })
	return out, nil
}

// ctxReader ends a copy when its context is done.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
