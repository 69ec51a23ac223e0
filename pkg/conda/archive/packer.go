package archive

import (
	"archive/tar"
	"context"
	"io"
	"strings"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// WriteOption changes how packages are written.
type WriteOption func(*writeOptions)

type writeOptions struct {
	level   zstd.EncoderLevel
	tempDir string
}

func gatherWrite(opts []WriteOption) writeOptions {
	o := writeOptions{level: zstd.SpeedDefault}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// CompressionLevel sets the zstd level of a .conda on the scale of the zstd
// command, 1 to 22; the default is about 3. A .tar.bz2 always has level 9.
func CompressionLevel(level int) WriteOption {
	return func(o *writeOptions) { o.level = zstd.EncoderLevelFromZstd(level) }
}

// TempDir sets where large members wait until their size is known. The default
// is the system's directory for temporary files.
func TempDir(dir string) WriteOption { return func(o *writeOptions) { o.tempDir = dir } }

// packer writes the tars of one package. Entries under info/ go to the info
// tar, all others to the package's; in a .tar.bz2 both are the same tar. Equal
// calls make equal bytes: no owners, no clock, one thread.
type packer struct {
	out   io.Writer
	dist  dist.Dist
	info  *tar.Writer
	pkg   *tar.Writer
	ends  []io.Closer // compressors, in the order in which they end
	infoS *spool      // .conda only
	pkgS  *spool
}

func newPacker(w io.Writer, d dist.Dist, o writeOptions) (*packer, error) {
	p := &packer{out: w, dist: d}
	switch d.Format {
	case dist.TarBz2:
		bz, err := bzip2.NewWriter(w, &bzip2.WriterConfig{Level: bzip2.BestCompression})
		if err != nil {
			return nil, err
		}
		p.ends = []io.Closer{bz}
		p.info = tar.NewWriter(bz)
		p.pkg = p.info
	case dist.Conda:
		p.infoS, p.pkgS = &spool{dir: o.tempDir}, &spool{dir: o.tempDir}
		for _, t := range []struct {
			tw **tar.Writer
			to *spool
		}{{&p.info, p.infoS}, {&p.pkg, p.pkgS}} {
			// One thread, so that bytes do not depend on timing; a window that
			// every client has the memory for.
			enc, err := zstd.NewWriter(t.to, zstd.WithEncoderLevel(o.level),
				zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20), zstd.WithEncoderCRC(true))
			if err != nil {
				return nil, err
			}
			p.ends = append(p.ends, enc)
			*t.tw = tar.NewWriter(enc)
		}
	default:
		return nil, &Error{Field: "filename", Msg: "cannot write this format: " + d.Format.String()}
	}
	return p, nil
}

// abort frees what finish would have; it may follow finish.
func (p *packer) abort() {
	for _, s := range []*spool{p.infoS, p.pkgS} {
		if s != nil {
			s.close()
		}
	}
}

func (p *packer) entry(e *Entry, content io.Reader) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), ModTime: e.ModTime.Truncate(time.Second)}
	if e.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	switch e.Kind {
	case File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case Dir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case HardLink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
	}
	tw := p.pkg
	if e.Path == "info" || strings.HasPrefix(e.Path, "info/") {
		tw = p.info
	}
	if err := tw.WriteHeader(h); err != nil {
		return &Error{Member: e.Path, Msg: "cannot write", Err: err}
	}
	if e.Kind != File {
		return nil
	}
	n, err := io.Copy(tw, content)
	if err == nil && n != e.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return &Error{Member: e.Path, Msg: "cannot write", Err: err}
	}
	return nil
}

// finish ends the tars and, for a .conda, writes the ZIP.
func (p *packer) finish(ctx context.Context) error {
	if err := p.info.Close(); err != nil {
		return err
	}
	if p.pkg != p.info {
		if err := p.pkg.Close(); err != nil {
			return err
		}
	}
	for _, c := range p.ends {
		if err := c.Close(); err != nil {
			return err
		}
	}
	if p.infoS == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	z := &zipWriter{w: p.out}
	if err := z.bytes(metadataJSON, []byte(`{"conda_pkg_format_version": 2}`)); err != nil {
		return err
	}
	// info comes last: one request for the end of a file then fetches the
	// directory and all metadata.
	for _, m := range []struct {
		name string
		s    *spool
	}{{pkgMember(p.dist.Stem()), p.pkgS}, {infoMember(p.dist.Stem()), p.infoS}} {
		r, err := m.s.content()
		if err != nil {
			return err
		}
		if err := z.member(m.name, m.s.size, m.s.crc, r); err != nil {
			return err
		}
	}
	return z.close()
}

// Transmute rewrites a package in the other format, entry by entry, and
// returns its metadata and its new identity. Paths, modes, times and contents
// stay; owners and tar dialects do not. The source is checked as Walk does.
// What was written to w is worthless if an error is returned.
func Transmute(ctx context.Context, r io.ReaderAt, size int64, filename string, w io.Writer, lim Limits, opts ...WriteOption) (*Info, dist.Dist, error) {
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return nil, dist.Dist{}, &Error{Field: "filename", Msg: "not the name of a package", Err: err}
	}
	p, err := newPacker(w, d.Twin(), gatherWrite(opts))
	if err != nil {
		return nil, dist.Dist{}, err
	}
	defer p.abort()
	info, err := Walk(ctx, r, size, filename, lim, p.entry, Lenient())
	if err == nil {
		err = p.finish(ctx)
	}
	return info, d.Twin(), err
}
