package link

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// Package is an unpacked package.
type Package struct {
	Name, Version, Build string
	// Noarch decides where paths go. Open takes it from the package; a caller that has a newer repodata record may set it.
	Noarch archive.Noarch
	// Paths are those of the package, in the order in which it lists them, without info/.
	Paths []archive.PathEntry
	// EntryPoints are the commands of a noarch python package.
	EntryPoints []archive.EntryPoint
	// Files is the package's tree.
	Files fs.ReadLinkFS
}

// String returns name-version-build.
func (p *Package) String() string { return p.Name + "-" + p.Version + "-" + p.Build }

// Open reads what a package that was unpacked into a directory says about itself. The tree is opened below root, so
// nothing outside of it is ever read.
func Open(root *os.Root) (*Package, error) {
	files, ok := root.FS().(fs.ReadLinkFS)
	if !ok {
		return nil, fmt.Errorf("package in %s: the file system cannot read links", root.Name())
	}
	p, err := Read(files)
	if err != nil {
		return nil, fmt.Errorf("package in %s: %w", root.Name(), err)
	}
	return p, nil
}

// Read is Open for any file tree.
func Read(files fs.ReadLinkFS) (*Package, error) {
	var info archive.Info
	for name, into := range map[string]*[]byte{
		"info/index.json": &info.IndexJSON, "info/paths.json": &info.PathsJSON, "info/link.json": &info.LinkJSON,
		"info/files": &info.Files, "info/has_prefix": &info.HasPrefix, "info/no_link": &info.NoLink,
	} {
		data, err := fs.ReadFile(files, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		*into = data
	}
	if info.PathsJSON == nil {
		// The oldest packages have a list of what must not become a symbolic link. rattler copies what is on it.
		data, err := fs.ReadFile(files, "info/no_softlink")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		info.NoLink = slices.Concat(info.NoLink, []byte("\n"), data)
	}
	if info.IndexJSON == nil {
		return nil, errors.New("it has no info/index.json")
	}
	if info.PathsJSON == nil && info.Files == nil {
		return nil, errors.New("it has neither info/paths.json nor info/files, so nothing says what belongs to it")
	}
	index, err := archive.ParseIndex(info.IndexJSON, archive.Limits{})
	if err != nil {
		return nil, err
	}
	p := &Package{Name: index.Name, Version: index.Version, Build: index.Build, Noarch: index.Noarch, Files: files}
	if p.Paths, err = info.Paths(archive.Limits{}); err != nil {
		return nil, err
	}
	if info.PathsJSON == nil {
		if err := p.findLinks(); err != nil {
			return nil, err
		}
	}
	if info.LinkJSON == nil {
		return p, nil
	}
	var l archive.Link
	if err := json.Unmarshal(info.LinkJSON, &l); err != nil {
		return nil, fmt.Errorf("info/link.json: %w", err)
	}
	for _, text := range l.Noarch.EntryPoints {
		e, err := archive.ParseEntryPoint(text)
		if err != nil {
			return nil, err
		}
		p.EntryPoints = append(p.EntryPoints, e)
	}
	return p, nil
}

// findLinks asks the tree what the legacy lists do not say: which paths are links.
func (p *Package) findLinks() error {
	for i := range p.Paths {
		e := &p.Paths[i]
		info, err := p.Files.Lstat(e.Path)
		if err != nil {
			return fmt.Errorf("info/files lists %s: %w", e.Path, err)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			e.Type = archive.PathSoftLink
		case info.IsDir():
			e.Type, e.Placeholder, e.Mode = archive.PathDirectory, "", ""
		}
	}
	return nil
}

// Source opens the file that an entry is made of. The permission bits of what it returns are those that the entry's file
// has in a prefix. The caller closes it.
func (p *Package) Source(e *Entry) (io.ReadCloser, fs.FileInfo, error) {
	f, err := p.Files.Open(e.Source)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", e.Source)
	}
	if err == nil && e.Type == SoftLink {
		// Of a link that becomes a file rattler takes the link's own permissions.
		var l fs.FileInfo
		if l, err = p.Files.Lstat(e.Source); err == nil {
			info = moded{info, l.Mode().Perm()}
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// moded is a file with other permission bits.
type moded struct {
	fs.FileInfo
	mode fs.FileMode
}

// Mode implements fs.FileInfo.
func (m moded) Mode() fs.FileMode { return m.mode }
