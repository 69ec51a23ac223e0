package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"hash/crc32"
	"io"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Inspect reads the metadata of a package of size bytes. The format, and what
// the metadata must agree with, comes from filename (a plain name, not
// percent-encoded).
//
// Without [Full] a .conda is read up to its info member: the ZIP is checked
// strictly, the files of the package are not touched. A .tar.bz2 is read until
// info/ is over if it begins with it, else to its end; what comes behind, even
// a second info/index.json, goes unseen. Use Full before you list a package.
func Inspect(ctx context.Context, r io.ReaderAt, size int64, filename string, lim Limits, opts ...Option) (*Info, error) {
	p, err := open(ctx, r, size, filename, lim, gather(opts))
	if err != nil {
		return nil, err
	}
	return p.run(nil)
}

// Walk checks a whole package and calls fn for each of its entries, those of
// info/ included (first in a .conda, anywhere in a .tar.bz2). The reader yields
// the content of a File and is valid until fn returns; what fn leaves unread is
// skipped. An error of fn ends the walk and is returned as it is.
//
// Some checks need the whole package. Treat what fn was given as unverified
// until Walk has returned without an error.
func Walk(ctx context.Context, r io.ReaderAt, size int64, filename string, lim Limits, fn func(*Entry, io.Reader) error, opts ...Option) (*Info, error) {
	o := gather(opts)
	o.full = true
	p, err := open(ctx, r, size, filename, lim, o)
	if err != nil {
		return nil, err
	}
	return p.run(fn)
}

// pkg is one package while it is read.
type pkg struct {
	ctx   context.Context
	src   *source
	lim   Limits
	opt   options
	info  *Info
	scan  *scanner
	fn    func(*Entry, io.Reader) error
	first bool // the next entry is the archive's first
	early bool // a .tar.bz2 that began with info/ and may be left early
}

func open(ctx context.Context, r io.ReaderAt, size int64, filename string, lim Limits, o options) (*pkg, error) {
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return nil, &Error{Field: "filename", Msg: "not the name of a package", Err: err}
	}
	src, err := newSource(r, size)
	if err != nil {
		return nil, err
	}
	lim = lim.withDefaults()
	p := &pkg{ctx: ctx, src: src, lim: lim, opt: o, info: &Info{Dist: d}, first: true}
	p.scan = &scanner{ctx: ctx, lim: lim, tree: newTree(lim), visit: p.visit}
	return p, nil
}

func (p *pkg) run(fn func(*Entry, io.Reader) error) (*Info, error) {
	p.fn = fn
	var err error
	if p.info.Dist.Format == dist.Conda {
		err = p.conda()
	} else {
		err = p.tarBz2()
	}
	if err != nil {
		return nil, err
	}
	if err := p.scan.tree.finish(p.target()); err != nil {
		return nil, err
	}
	p.info.Entries, p.info.UnpackedSize = p.scan.entries, p.scan.bytes
	return p.info, nil
}

// target is the subdir the package is for, as well as it is known: packages
// from before subdirs only name a platform.
func (p *pkg) target() string {
	x := &p.info.Index
	switch {
	case x.Subdir != "":
		return x.Subdir
	case p.opt.subdir != "":
		return p.opt.subdir
	case x.Platform != nil:
		return *x.Platform + "-"
	}
	return ""
}

func (p *pkg) conda() error {
	c, err := openConda(p.src, p.info.Dist.Stem())
	if err != nil {
		return err
	}
	if c.meta != nil {
		if err := p.formatVersion(c.meta); err != nil {
			return err
		}
	} else if !p.opt.lenient {
		return refuse(metadataJSON, "", "the member is missing")
	}
	if err := p.zstdTar(c.info, infoOnly, min(p.lim.MaxInfo, p.lim.budget(c.info.size))); err != nil {
		return err
	}
	if err := p.info.parse(p.lim, p.opt.subdir); err != nil {
		return err
	}
	if c.pkg != nil {
		if !p.opt.full {
			_, err := checkFrame(p.ctx, p.src, c.pkg, p.lim, false)
			return err
		}
		if err := p.zstdTar(c.pkg, pkgOnly, p.lim.budget(c.pkg.size)); err != nil {
			return err
		}
	}
	p.info.Complete = p.opt.full
	return nil
}

func (p *pkg) formatVersion(m *member) error {
	const most = 4096 // the real ones have about 30 bytes
	if m.size > most {
		return refuse(m.name, "", "the member is longer than %d bytes", most)
	}
	data, err := p.src.bytes(m.data, m.size)
	if err != nil {
		return err
	}
	if crc32.ChecksumIEEE(data) != m.crc {
		return refuse(m.name, "", "the ZIP's checksum does not fit the member")
	}
	var meta struct {
		Version int `json:"conda_pkg_format_version"`
	}
	if err := decodeJSON(m.name, data, p.lim, &meta); err != nil {
		return err
	}
	if meta.Version != 2 {
		return refuse(m.name, "conda_pkg_format_version", "it is %d; a .conda has 2", meta.Version)
	}
	return nil
}

func (p *pkg) zstdTar(m *member, part section, most int64) error {
	z, err := openZstd(p.ctx, p.src, m, p.lim, true)
	if err != nil {
		return err
	}
	defer z.close()
	return p.scan.tar(m.name, z, part, most)
}

func (p *pkg) tarBz2() error {
	small := smallBuffers.Get().(*bytes.Buffer)
	defer smallBuffers.Put(small)
	if decodeSmallBz2(p.src, p.src.size, small) {
		return p.tarBz2From(bytes.NewReader(small.Bytes()))
	}
	in := bufReaders.Get().(*bufio.Reader)
	in.Reset(io.NewSectionReader(p.src, 0, p.src.size))
	defer func() {
		in.Reset(nil)
		bufReaders.Put(in)
	}()
	return p.tarBz2From(bzip2.NewReader(in))
}

// tarBz2From looks into the tree of a .tar.bz2.
func (p *pkg) tarBz2From(tree io.Reader) error {
	err := p.scan.tar("", tree, both, p.lim.budget(p.src.size))
	if err != nil && err != errStop {
		return err
	}
	p.info.Complete = err == nil && p.opt.full
	return p.info.parse(p.lim, p.opt.subdir)
}

// visit sees every entry: it keeps metadata and hands the entry on.
func (p *pkg) visit(e *Entry, r io.Reader) error {
	inInfo := e.Path == "info" || strings.HasPrefix(e.Path, "info/")
	if p.first {
		p.first, p.early = false, inInfo && !p.opt.full && p.info.Dist.Format == dist.TarBz2
	}
	if p.early && !inInfo && p.info.IndexJSON != nil {
		return errStop
	}
	if inInfo {
		if into, large := p.info.slot(e.Path); into != nil {
			data, err := p.keep(e, r, into, large)
			if err != nil {
				return err
			}
			r = bytes.NewReader(data)
		}
	}
	if p.fn == nil {
		return nil
	}
	return p.fn(e, r)
}

func (p *pkg) keep(e *Entry, r io.Reader, into *[]byte, large bool) ([]byte, error) {
	if e.Kind != File {
		return nil, refuse(e.Path, "type", "it must be a regular file, not a %s", e.Kind)
	}
	most := p.lim.MaxMetadata
	if large {
		if e.Path == pathsFile {
			p.info.HasPaths = true
		}
		if !p.opt.keepPaths && p.fn == nil {
			return nil, nil
		}
		most = p.lim.MaxPaths
	}
	if e.Size > most {
		return nil, refuse(e.Path, "size", "it has %d bytes, more than the limit of %d", e.Size, most)
	}
	// Grow with what really arrives: the header may promise what never comes.
	buf := bytes.NewBuffer(make([]byte, 0, min(e.Size+bytes.MinRead, 64<<10)))
	if _, err := io.Copy(buf, r); err != nil {
		return nil, broken(e.Path, "cannot read", err)
	}
	data := buf.Bytes()
	if data == nil {
		data = []byte{}
	}
	if !large || p.opt.keepPaths {
		*into = data
	}
	return data, nil
}
