package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
)

// Verify walks a package, hashes its files and compares them with paths.json:
// every listed path exists with the type, size and digest it claims, and every
// file outside of info/ is listed. A package without paths.json is only
// checked against info/files, by name. The error names the path.
func Verify(ctx context.Context, r io.ReaderAt, size int64, filename string, lim Limits, opts ...Option) (*Info, error) {
	type found struct {
		kind   Kind
		link   string
		sha256 string
		size   int64
	}
	have := map[string]found{}
	h := sha256.New()
	info, err := Walk(ctx, r, size, filename, lim, func(e *Entry, content io.Reader) error {
		f := found{kind: e.Kind, link: e.Link, size: e.Size}
		if strings.HasPrefix(e.Path, "info/") || e.Path == "info" {
			return nil // lists do not list themselves
		}
		switch e.Kind {
		case File:
			h.Reset()
			if _, err := io.Copy(h, content); err != nil {
				return broken(e.Path, "cannot read", err)
			}
			f.sha256 = hex.EncodeToString(h.Sum(nil))
		case HardLink:
			f = have[e.Link]
		}
		have[e.Path] = f
		return nil
	}, append(opts, KeepPaths())...)
	if err != nil {
		return nil, err
	}
	list, err := info.Paths(lim)
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, e := range list {
		if strings.HasPrefix(e.Path, "info/") {
			continue
		}
		listed[e.Path] = true
		f, ok := have[e.Path]
		if !ok {
			// Directories need not be entries of their own.
			if e.Type == PathDirectory {
				continue
			}
			return nil, refuse(e.Path, "path", "it is listed, but the package does not hold it")
		}
		if !info.HasPaths {
			continue
		}
		if (e.Type == PathSoftLink) != (f.kind == Symlink) || (e.Type == PathDirectory) != (f.kind == Dir) {
			return nil, refuse(e.Path, "path_type", "it is listed as %s, but is a %s", e.Type, f.kind)
		}
		if f.kind != File {
			continue // digests of links follow two customs, and say nothing about the link
		}
		if e.SHA256 != "" && e.SHA256 != f.sha256 {
			return nil, refuse(e.Path, "sha256", "it is listed with another digest")
		}
		if e.Size != nil && *e.Size != f.size {
			return nil, refuse(e.Path, "size_in_bytes", "it is listed with %d bytes, but has %d", *e.Size, f.size)
		}
	}
	for path, f := range have {
		if f.kind != Dir && !listed[path] {
			return nil, refuse(path, "path", "the package holds it, but does not list it")
		}
	}
	return info, nil
}
