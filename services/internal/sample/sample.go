package sample

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// DefaultPackages is how many package files a channel has if nothing else is asked for: all kinds occur several times,
// and making them takes about a second.
const DefaultPackages = 60

// Options say what channel to make. The zero Options make the default one.
type Options struct {
	// Packages is the number of package files, both formats of a package counted; 0 means DefaultPackages.
	Packages int
	// Seed changes the bytes of every package.
	Seed uint64
	// Tiny makes alike packages of two to three kilobytes without dependencies, eight to a name, all .conda.
	Tiny bool
}

// File is a file of the channel, as it was written.
type File struct {
	// Path below the channel: `<subdir>/<file name>`, not percent-encoded.
	Path string
	// SHA256 is lower-case hex.
	SHA256 string
	// MD5 is lower-case hex.
	MD5 string
	// Size in bytes.
	Size int64
}

// Channel is what Build wrote.
type Channel struct {
	// Dir is the directory that the channel lies in.
	Dir string
	// Files are the packages, sorted by path.
	Files []File
	// Index are the index files, sorted by path.
	Index []File
	// Subdirs that the channel has, sorted.
	Subdirs []string
}

// subdirs of every sample.
var subdirs = []string{"linux-64", dist.Noarch}

// Size returns the bytes of all packages together.
func (c *Channel) Size() (n int64) {
	for _, f := range c.Files {
		n += f.Size
	}
	return n
}

// made is a package on its way into the index.
type made struct {
	File
	subdir, filename string
	record           []byte
	about            about
}

// Build writes a channel into dir, which is made if it does not exist. Files of the same name are overwritten, others
// are left alone.
func Build(dir string, opts Options) (*Channel, error) {
	if opts.Packages == 0 {
		opts.Packages = DefaultPackages
	}
	if opts.Packages < 0 {
		return nil, fmt.Errorf("a channel cannot have %d packages", opts.Packages)
	}
	for _, s := range subdirs {
		if err := os.MkdirAll(filepath.Join(dir, s), 0o755); err != nil {
			return nil, err
		}
	}
	packages := make([]made, opts.Packages)
	var one func(i int) (made, error)
	if opts.Tiny {
		one = func(i int) (made, error) { return buildTiny(dir, opts.Seed, i) }
	} else {
		plan := plan(opts)
		one = func(i int) (made, error) { return buildOne(dir, opts.Seed, plan[i]) }
	}
	g, ctx := errgroup.WithContext(context.Background())
	workers := min(runtime.GOMAXPROCS(0), opts.Packages)
	for w := range workers {
		g.Go(func() (err error) {
			for i := w; i < opts.Packages && ctx.Err() == nil; i += workers {
				if packages[i], err = one(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(packages, func(a, b made) int { return strings.Compare(a.Path, b.Path) })
	c := &Channel{Dir: dir, Subdirs: slices.Clone(subdirs)}
	for _, p := range packages {
		c.Files = append(c.Files, p.File)
	}
	if err := c.writeIndex(packages); err != nil {
		return nil, err
	}
	return c, nil
}

// buildOne makes a planned package, reads it back as an installer would, and writes it.
func buildOne(dir string, seed uint64, p spec) (made, error) {
	meta, entries := p.contents(rand.New(rand.NewPCG(seed, seedOf(p.stem()))))
	var out bytes.Buffer
	d, err := archive.Create(context.Background(), &out, p.format, meta, entries)
	if err != nil {
		return made{}, fmt.Errorf("make %s: %w", p.stem(), err)
	}
	info, err := archive.Inspect(context.Background(), bytes.NewReader(out.Bytes()), int64(out.Len()), d.Filename(),
		archive.Limits{}, archive.Full(), archive.Subdir(p.subdir))
	if err != nil {
		return made{}, fmt.Errorf("%s cannot be read back: %w", d, err)
	}
	return finish(dir, p.subdir, d.Filename(), out.Bytes(), info.IndexJSON, p.about())
}

// finish writes a package's bytes and makes its record.
func finish(dir, subdir, filename string, data, indexJSON []byte, ab about) (made, error) {
	f := describe(subdir+"/"+filename, data)
	if err := os.WriteFile(filepath.Join(dir, subdir, filename), data, 0o644); err != nil {
		return made{}, err
	}
	record, err := repodata.HostedRecord(indexJSON, repodata.FileFacts{
		Size: f.Size, MD5: md5.Sum(data), SHA256: sha256.Sum256(data), Subdir: subdir,
	})
	if err != nil {
		return made{}, fmt.Errorf("record of %s: %w", filename, err)
	}
	return made{File: f, subdir: subdir, filename: filename, record: record, about: ab}, nil
}

func describe(path string, data []byte) File {
	sha, md := sha256.Sum256(data), md5.Sum(data)
	return File{Path: path, SHA256: hex.EncodeToString(sha[:]), MD5: hex.EncodeToString(md[:]), Size: int64(len(data))}
}

// seedOf gives each package its own stream of random numbers, so that neither the order of making nor the number of
// other packages changes its bytes. Both formats of a package have one stem, hence one content.
func seedOf(stem string) uint64 {
	sum := sha256.Sum256([]byte(stem))
	return uint64(sum[0]) | uint64(sum[1])<<8 | uint64(sum[2])<<16 | uint64(sum[3])<<24 |
		uint64(sum[4])<<32 | uint64(sum[5])<<40 | uint64(sum[6])<<48 | uint64(sum[7])<<56
}
