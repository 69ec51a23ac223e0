package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// Format is that of an archive.
type Format string

// The formats.
const (
	TarGz  Format = "tar.gz"
	TarZst Format = "tar.zst"
	Tar    Format = "tar"
	Zip    Format = "zip"
)

// ParseFormat reads a format, or that of a file name.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "tar.gz", "tgz":
		return TarGz, nil
	case "tar.zst", "tzst":
		return TarZst, nil
	case "tar":
		return Tar, nil
	case "zip":
		return Zip, nil
	case "squashfs":
		return "", fmt.Errorf("squashfs is not made; make a tar.zst, and of that with other tools what you need")
	}
	return "", fmt.Errorf("the format %q is not known: use tar.gz, tar.zst, tar or zip", s)
}

// FormatOf is the format that a file's name promises.
func FormatOf(file string) (Format, error) {
	for _, ext := range []string{"tar.gz", "tgz", "tar.zst", "tzst", "tar", "zip", "squashfs"} {
		if strings.HasSuffix(file, "."+ext) {
			return ParseFormat(ext)
		}
	}
	return "", fmt.Errorf("the name %q does not end in .tar.gz, .tar.zst, .tar or .zip, so say which format it is to have", file)
}

// Options say what to write.
type Options struct {
	Format   Format
	Platform string
	// Prefix is where the archive will be unpacked; empty if that is not known.
	Prefix string
	// Root is a directory in the archive that the environment lies in; usually there is none.
	Root    string
	Exclude []string // see segment.Options
	// ZipLinks puts symbolic links into a ZIP, instead of copies.
	ZipLinks bool
	// RefuseClobbers refuses packages that have a path in common.
	RefuseClobbers bool

	Cache   *segment.Cache
	Workers int // how many segments are made at a time; 0 means 1
	// Tool and Version name the program in the history and in conda-unpack, such as "entrepot 1.2".
	Tool string
	// Progress, if set, is told how many packages are ready.
	Progress func(done, total int)
}

// Result is what was written.
type Result struct {
	Packages int
	Files    int // with those that are in no package
	Bytes    int64
	SHA256   string // of the archive
	// Clobbers are paths that several packages have.
	Clobbers []link.Clobber
	// Relocated are the files that conda-unpack will write to.
	Relocated int
}

// Write writes an archive of an environment. What was written is worthless if an error is returned; if that is
// segment.ErrBroken, a cached file was damaged, and another try will succeed.
func Write(ctx context.Context, w io.Writer, packages []segment.Package, o Options) (*Result, error) {
	env, err := newEnv(packages, o)
	if err != nil {
		return nil, err
	}
	defer env.Close()
	out := &counter{w: w, h: sha256.New()}
	res := &Result{Packages: len(packages), Clobbers: env.Clobbers}
	for _, p := range env.Parts {
		res.Files += len(p.Entries) + len(p.Hidden)
	}
	if o.Format == Zip {
		err = writeZip(ctx, out, env, o, res)
	} else {
		err = writeTar(ctx, out, env, o, res)
	}
	if err != nil {
		return nil, err
	}
	res.Bytes, res.SHA256 = out.n, hex.EncodeToString(out.h.Sum(nil))
	return res, nil
}

// programs are the paths of what an archive adds in bin.
var programs = []string{"bin/activate", "bin/activate.fish", "bin/deactivate"}

func newEnv(packages []segment.Package, o Options) (*segment.Env, error) {
	so := segment.Options{
		Prefix: o.Prefix, Platform: o.Platform, Originals: o.Prefix == "", Root: o.Root, Exclude: o.Exclude, RefuseClobbers: o.RefuseClobbers,
	}
	if adds(packages, o) {
		so.Reserved = slices.Clone(programs)
	}
	if so.Originals {
		so.Reserved = append(so.Reserved, "bin/conda-unpack")
	}
	return segment.New(packages, so)
}

// adds reports whether the archive gets its own scripts: a conda in a known place has better ones.
func adds(packages []segment.Package, o Options) bool {
	return o.Prefix == "" || !slices.ContainsFunc(packages, func(p segment.Package) bool { return p.Name == "conda" })
}

func writeTar(ctx context.Context, out io.Writer, env *segment.Env, o Options, res *Result) error {
	form := map[Format]segment.Form{TarGz: segment.Gzip, TarZst: segment.Zstd, Tar: segment.Raw}[o.Format]
	if form == 0 {
		return fmt.Errorf("the format %q is not known", o.Format)
	}
	done := 0
	segments, err := o.Cache.All(ctx, env, form, o.Workers, func(*segment.Part) {
		if done++; o.Progress != nil {
			o.Progress(done, len(env.Parts))
		}
	})
	if err != nil {
		return err
	}
	last, err := o.Cache.Extras(ctx, env, form, func(hidden []map[string]segment.File) ([]segment.Extra, error) {
		list, err := extras(env, segments, hidden, o, res)
		res.Files += len(list)
		return list, err
	})
	if err != nil {
		return err
	}
	for _, s := range segments {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.CopyMember(out); err != nil {
			return err
		}
	}
	return last.CopyFile(out) // with the zeros that end a tar
}

// counter hashes and counts.
type counter struct {
	w io.Writer
	h hash.Hash
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.h.Write(p[:n])
	return n, err
}
