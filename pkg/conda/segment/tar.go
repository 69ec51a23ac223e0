package segment

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// File is what conda-meta says of a path that the package alone does not tell.
type File struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// tarWriter writes entries the way that depends on nothing.
type tarWriter struct {
	w    *tar.Writer
	env  *Env
	mode Dirs
	dirs map[string]bool // written
}

func newTarWriter(w io.Writer, e *Env, mode Dirs) *tarWriter {
	return &tarWriter{w: tar.NewWriter(w), env: e, mode: mode, dirs: map[string]bool{}}
}

// add writes one entry, and the directories that it lies in.
func (t *tarWriter) add(c *Content) error {
	name := path.Join(t.env.Root, c.Path)
	if t.mode == DirsNone && c.Mode.IsDir() {
		return nil
	}
	if t.mode == DirsAll {
		if err := t.parents(path.Dir(name)); err != nil {
			return err
		}
	}
	h := &tar.Header{Name: name, Mode: int64(c.Mode.Perm()), ModTime: c.Time}
	switch {
	case c.Mode.IsDir():
		if t.dirs[name] {
			return nil
		}
		t.dirs[name] = true
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case c.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, c.Link
	default:
		h.Typeflag, h.Size = tar.TypeReg, c.Size
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if n, err := io.Copy(t.w, c.Reader); err != nil {
		return err
	} else if n != c.Size {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// parents writes a directory and those that it lies in, unless they are there.
func (t *tarWriter) parents(dir string) error {
	if dir == "." || dir == "/" || t.dirs[dir] {
		return nil
	}
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	t.dirs[dir] = true
	above, ok := t.env.Above[dir]
	if !ok {
		above.Mode = 0o755
	}
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: above.Mode, Uid: above.UID, Gid: above.GID, ModTime: Time})
}

// part writes entries of a package and returns what conda-meta has to know.
func (t *tarWriter) part(p *Part, entries []link.Entry) (map[string]File, error) {
	files := map[string]File{}
	err := p.Each(entries, func(e *link.Entry, c *Content) error {
		switch {
		case c.Mode.IsDir():
		case c.Mode&fs.ModeSymlink != 0:
			// Of the text, as rattler does: what it points to may be another package's.
			files[e.Path] = File{sumOf(c.Link), max(e.Size, 0)}
			if e.Size < 0 {
				files[e.Path] = File{sumOf(c.Link), int64(len(c.Link))}
			}
		case (c.Changed || e.SHA256 == "" || e.Size < 0) && !e.Generated():
			h := sha256.New()
			c.Reader = io.TeeReader(c.Reader, h)
			if err := t.add(c); err != nil {
				return err
			}
			files[e.Path] = File{hexSum(h.Sum(nil)), c.Size}
			return nil
		}
		return t.add(c)
	})
	if err != nil {
		return nil, err
	}
	return files, t.w.Flush()
}

// extra writes files that are in no package.
func (t *tarWriter) extra(files []Extra) error {
	for i := range files {
		f := &files[i]
		c := &Content{Path: f.Path, Mode: f.Mode, Time: Time, Size: int64(len(f.Data)), Reader: bytes.NewReader(f.Data)}
		if err := t.add(c); err != nil {
			return err
		}
	}
	return t.w.Flush()
}

// Extra is a file of an environment that is in no package.
type Extra struct {
	Path string // relative to the environment
	Mode fs.FileMode
	Data []byte
}

// closing are the zeros at the end of a tar.
var closing = []byte(strings.Repeat("\x00", 1024))
