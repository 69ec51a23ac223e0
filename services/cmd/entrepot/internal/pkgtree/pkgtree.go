// Package pkgtree reads channels that lie somewhere as files: in a directory or in an S3 bucket.
//
//	<root>/<subdir>/<package file>
//	<root>/<subdir>/repodata.json[.zst]     may be absent
//
// A tree is not trusted. Names are checked before they are used, a directory is never left through a symbolic link, and
// what an index says of a file is handed on as a saying: whoever takes the file must hash it.
package pkgtree

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// File is a file of a tree.
type File struct {
	// Name is its last segment.
	Name string
	// Size in bytes.
	Size int64
}

// Tree is a place with files. Paths are relative to its root, with slashes. It is safe for concurrent use.
type Tree interface {
	// Dirs lists the directories in dir by name; "" is the root.
	Dirs(ctx context.Context, dir string) ([]string, error)
	// Files lists the regular files in dir by name.
	Files(ctx context.Context, dir string) ([]File, error)
	// Open reads a file; the error is fault.NotFound if there is none. The caller closes it.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
	// Close gives up what the tree holds.
	Close() error
	// String names the place, without credentials.
	String() string
}

// Open opens what a URL names: a directory, or s3://bucket/prefix?endpoint=host:port&region=r&insecure=1&path_style=1. An
// S3 URL's credentials are those in it, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, or none.
func Open(ctx context.Context, place string, getenv func(string) string) (Tree, error) {
	scheme, rest, ok := strings.Cut(place, "://")
	switch {
	case !ok:
		return openDir(place)
	case scheme == "file":
		u, err := url.Parse(place)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" {
			return nil, fault.New(fault.Invalid, "a file URL is file:///absolute/path and nothing else, not file://%s", rest)
		}
		return openDir(u.Path)
	case scheme == "s3":
		return openS3(ctx, place, getenv)
	}
	return nil, fault.New(fault.Invalid, "packages are taken from a directory, file:// or s3://, not from %s://", scheme)
}

// Subdirs lists the directories of dir that are named like a subdir of a channel.
func Subdirs(ctx context.Context, t Tree, dir string) ([]string, error) {
	all, err := t.Dirs(ctx, dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(name string) bool {
		return !strings.Contains(name, "-") && name != "noarch" || dist.CheckSubdir(name) != nil
	}), nil
}

// dirTree is a directory.
type dirTree struct {
	root *os.Root
	name string
}

func openDir(name string) (Tree, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "%w", err)
	}
	return &dirTree{root, name}, nil
}

func (t *dirTree) String() string { return t.name }

func (t *dirTree) Close() error { return t.root.Close() }

func (t *dirTree) list(dir string, want func(fs.FileInfo) bool, each func(fs.FileInfo)) error {
	f, err := t.root.Open(path.Join(".", dir))
	if err != nil {
		return treeError(err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return treeError(err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		// Through the root: a link that leads out of the tree is an error there, and its file not listed.
		if info, err := t.root.Stat(path.Join(dir, e.Name())); err == nil && want(info) {
			each(renamed{info, e.Name()})
		}
	}
	return nil
}

// renamed is a file by the name of the link that led to it.
type renamed struct {
	fs.FileInfo
	name string
}

func (r renamed) Name() string { return r.name }

func (t *dirTree) Dirs(_ context.Context, dir string) (out []string, err error) {
	err = t.list(dir, fs.FileInfo.IsDir, func(i fs.FileInfo) { out = append(out, i.Name()) })
	return out, err
}

func (t *dirTree) Files(_ context.Context, dir string) (out []File, err error) {
	regular := func(i fs.FileInfo) bool { return i.Mode().IsRegular() }
	err = t.list(dir, regular, func(i fs.FileInfo) { out = append(out, File{i.Name(), i.Size()}) })
	return out, err
}

func (t *dirTree) Open(_ context.Context, name string) (io.ReadCloser, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, treeError(err)
	}
	return f, nil
}

func treeError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "%w", err)
	}
	return err
}
