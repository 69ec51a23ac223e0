package pkgcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Package is one package to have.
type Package struct {
	FileName string // such as zlib-1.3.1-h4ab18f5_1.conda
	URL      string // where it is fetched from; given to the Source as it is

	// What the file must be: all of it that is given is checked, digests in hex and Size in bytes if it is not zero.
	// A package of which no digest is known is taken as it comes, and asked for every time: nothing else says that what is
	// in the cache is still what lies there.
	SHA256, MD5 string
	Size        int64

	// Record is written to info/repodata_record.json: a JSON object.
	Record []byte
}

// Entry is an unpacked package.
type Entry struct {
	Dir string // absolute
	// SHA256 and MD5 are digests of the file that was unpacked, computed here, in lower-case hex.
	SHA256, MD5 string
	// Fetched is what was read from the source for it: zero if it was there.
	Fetched int64
}

// Options change how a cache works. The zero value is right for packages from strangers.
type Options struct {
	// Limits bound what unpacking one package may cost.
	Limits archive.Limits
	// Fetches is how many packages are fetched at a time. Default 8.
	Fetches int
	// Unpacks is how many are unpacked at a time, which is work for the processor. Default: the number of processors.
	Unpacks int
	// NoSync leaves it to the system when unpacked files reach the disk. After a loss of power a package may then be
	// incomplete without a sign.
	NoSync bool
	// Progress, if set, is told what happens, from several goroutines.
	Progress func(Event)
}

// Event is a step of one package.
type Event struct {
	Package *Package
	What    Step
	Bytes   int64 // fetched so far; only with Fetching
}

// Step is what happens to a package.
type Step uint8

// Steps in their order; a package that is there already is Ready at once.
const (
	Fetching Step = iota + 1
	Unpacking
	Ready
)

// Cache is a directory of unpacked packages. Its methods may be called concurrently.
type Cache struct {
	dir  string
	opts Options
}

const (
	workDir    = ".work"
	recordFile = "info/repodata_record.json"
)

// Open returns the cache in dir, which is made if it does not exist.
func Open(dir string, opts Options) (*Cache, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("package cache %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Join(abs, workDir), 0o755); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	return &Cache{dir: abs, opts: opts}, nil
}

// Dir returns the cache's directory.
func (c *Cache) Dir() string { return c.dir }

// Lookup returns the entry for a package, if it is there. Of one without a digest nobody can tell.
func (c *Cache) Lookup(p *Package) (Entry, bool) {
	d, err := dist.ParseFilename(p.FileName)
	if err != nil {
		return Entry{}, false
	}
	e, ok, err := c.lookup(d.Stem(), p)
	return e, ok && err == nil
}

func (c *Cache) lookup(stem string, p *Package) (Entry, bool, error) {
	if p.SHA256 == "" && p.MD5 == "" {
		return Entry{}, false, nil
	}
	list := names(stem, p.SHA256)
	if p.SHA256 == "" {
		more, err := c.variants(stem)
		if err != nil {
			return Entry{}, false, err
		}
		list = append(list, more...)
	}
	for _, name := range list {
		have, ok, err := c.identity(name)
		if err != nil {
			return Entry{}, false, err
		}
		if ok && have.is(p) {
			return Entry{Dir: filepath.Join(c.dir, name), SHA256: have.sha256, MD5: have.md5}, true, nil
		}
	}
	return Entry{}, false, nil
}

// names are the directories that a package may lie in, in the order in which they are tried: a longer one is for where
// another package has the shorter.
func names(stem, sha256 string) []string {
	if sha256 == "" {
		return []string{stem}
	}
	sha256 = strings.ToLower(sha256)
	return []string{stem, stem + "-" + sha256[:min(shortDigest, len(sha256))], stem + "-" + sha256}
}

const shortDigest = 16

// variants are the directories of all packages that have a stem and lie behind a digest.
func (c *Cache) variants(stem string) ([]string, error) {
	all, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		digest, ok := strings.CutPrefix(e.Name(), stem+"-")
		if ok && (len(digest) == shortDigest || len(digest) == 64) && strings.Trim(digest, "0123456789abcdef") == "" {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// identity is what an unpacked package was made of, as it was computed then.
type identity struct{ sha256, md5 string }

// is says whether the package in the cache is the one that is asked for: no digest that is known of it may differ.
func (i identity) is(p *Package) bool {
	return (p.SHA256 == "" || strings.EqualFold(p.SHA256, i.sha256)) &&
		(p.MD5 == "" || strings.EqualFold(p.MD5, i.md5))
}

// identity reads the record of an entry; false if there is no complete one. That it cannot be read is an error, and no
// sign that there is nothing.
func (c *Cache) identity(name string) (identity, bool, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, name, filepath.FromSlash(recordFile)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, err
	}
	fields, err := object(data)
	if err != nil {
		return identity{}, false, nil //nolint:nilerr // what a loss of power left of it
	}
	text := func(key string) string {
		v, err := jsontext.AppendUnquote(nil, fields[key])
		if err != nil {
			return ""
		}
		return string(v)
	}
	i := identity{sha256: text("sha256"), md5: text("md5")}
	return i, i.sha256 != "" && i.md5 != "", nil
}

// Remove deletes the entry of a package, such as one that Check found changed. Environments keep their files.
func (c *Cache) Remove(ctx context.Context, p *Package) error {
	d, err := dist.ParseFilename(p.FileName)
	if err != nil {
		return &Error{p.FileName, "remove", err}
	}
	unlock, err := lockFile(ctx, filepath.Join(c.dir, workDir, d.Stem()+".lock"))
	if err != nil {
		return &Error{p.FileName, "lock", err}
	}
	defer unlock()
	e, ok, err := c.lookup(d.Stem(), p)
	if err == nil && ok {
		err = c.discard(e.Dir)
	}
	if err != nil {
		return &Error{p.FileName, "remove", err}
	}
	return nil
}

// discard takes an entry away in one step, and then apart. The caller holds the lock of its package.
func (c *Cache) discard(dir string) error {
	tmp, err := os.MkdirTemp(filepath.Join(c.dir, workDir), filepath.Base(dir)+".old-")
	if err != nil {
		return err
	}
	err = os.Rename(dir, filepath.Join(tmp, "x"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(tmp))
}
