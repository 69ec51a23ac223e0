package pkgcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// checkSizes holds an unpacked tree against the package's list: that everything is there, of the right type and size.
// Digests of single files are not computed: the archive's own digest covers them. A path that is listed and missing is
// an error; one without paths.json has no sizes.
func checkSizes(root *os.Root, paths []archive.PathEntry, sizes bool) error {
	for _, e := range paths {
		st, err := root.Lstat(e.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && e.Type == archive.PathDirectory:
			continue // directories need not be members of their own
		case err != nil:
			return fmt.Errorf("the package lists %s: %w", e.Path, err)
		case !sizes:
			continue
		}
		link, dir := st.Mode()&fs.ModeSymlink != 0, st.IsDir()
		if (e.Type == archive.PathSoftLink) != link || (e.Type == archive.PathDirectory) != dir {
			return fmt.Errorf("%s is not the %s that the package lists", e.Path, e.Type)
		}
		if e.Type == archive.PathHardLink && e.Size != nil && st.Size() != *e.Size {
			return fmt.Errorf("%s has %d bytes, and the package lists %d", e.Path, st.Size(), *e.Size)
		}
	}
	return nil
}

// Check reads an entry again and compares every file with the digest that the package lists: a program that wrote into
// a linked file of an environment has changed it here, too. The error names the first file. A package without
// paths.json is checked for missing files only.
func (c *Cache) Check(p *Package) error {
	e, ok := c.Lookup(p)
	if !ok {
		return &Error{p.FileName, "check", fs.ErrNotExist}
	}
	if err := checkDigests(e.Dir, c.opts.Limits); err != nil {
		return &Error{p.FileName, "check", err}
	}
	return nil
}

// CheckOrRemove is Check for one who can fetch the package again: an entry that is not what was unpacked is removed.
func (c *Cache) CheckOrRemove(ctx context.Context, p *Package) error {
	if _, ok := c.Lookup(p); !ok {
		return nil
	}
	if c.Check(p) == nil {
		return nil
	}
	return c.Remove(ctx, p)
}

func checkDigests(dir string, lim archive.Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	paths, full, err := ReadPaths(dir, lim)
	if err != nil {
		return err
	}
	if err := checkSizes(root, paths, full); err != nil {
		return err
	}
	h := sha256.New()
	for _, e := range paths {
		if e.Type != archive.PathHardLink || e.SHA256 == "" {
			continue
		}
		f, err := root.Open(e.Path)
		if err != nil {
			return err
		}
		h.Reset()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) != e.SHA256 {
			return fmt.Errorf("%s is not what was unpacked", e.Path)
		}
	}
	return nil
}

// ReadPaths reads the list of paths of an unpacked package: paths.json, or what the oldest packages have instead, in
// which case the second result is false and types are those of the files that are there.
func ReadPaths(dir string, lim archive.Limits) (paths []archive.PathEntry, listed bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "info", "paths.json"))
	if err == nil {
		paths, err = archive.ParsePaths(data, lim)
		return paths, true, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	var old archive.Info
	for name, into := range map[string]*[]byte{"files": &old.Files, "has_prefix": &old.HasPrefix, "no_link": &old.NoLink} {
		if *into, err = os.ReadFile(filepath.Join(dir, "info", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	if paths, err = old.Paths(lim); err != nil {
		return nil, false, err
	}
	for i := range paths {
		st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(paths[i].Path)))
		if err != nil {
			return nil, false, err
		}
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			paths[i].Type = archive.PathSoftLink
		case st.IsDir():
			paths[i].Type = archive.PathDirectory
		}
	}
	return paths, false, nil
}
