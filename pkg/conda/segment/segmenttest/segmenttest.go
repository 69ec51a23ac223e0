// Package segmenttest makes packages and environments for tests of what is built from segments.
package segmenttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// Placeholder is the prefix that the packages were "built" for, as long as those of today.
const Placeholder = "/home/conda/feedstock_root/build_artifacts/placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold"

// Text and Binary are files with the placeholder.
func Text(path, data string) archive.Input {
	return archive.Input{Path: path, Data: []byte(data), Mode: 0o755, Placeholder: Placeholder, FileMode: archive.ModeText}
}

// Binary is like Text.
func Binary(path, data string) archive.Input {
	return archive.Input{Path: path, Data: []byte(data), Placeholder: Placeholder, FileMode: archive.ModeBinary}
}

// Plain is a file without.
func Plain(path, data string) archive.Input { return archive.Input{Path: path, Data: []byte(data)} }

// Kit makes packages and keeps them in a package cache.
type Kit struct {
	t     testing.TB
	Dir   string // of the archives
	Cache *pkgcache.Cache
}

// New returns a kit with an empty cache.
func New(t testing.TB) *Kit {
	t.Helper()
	k := &Kit{t: t, Dir: t.TempDir()}
	var err error
	if k.Cache, err = pkgcache.Open(t.TempDir(), pkgcache.Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	return k
}

// Package makes a package; points are its entry points.
func (k *Kit) Package(index archive.Index, inputs []archive.Input, points ...string) install.Package {
	k.t.Helper()
	if index.Version == "" {
		index.Version = "1.0"
	}
	if index.Build == "" {
		index.Build = "0"
	}
	if index.Subdir == "" {
		index.Subdir = "linux-64"
		if index.Noarch != "" {
			index.Subdir = "noarch"
		}
	}
	meta := archive.Meta{Index: index, About: &archive.About{}}
	if len(points) > 0 {
		meta.Link = &archive.Link{Version: 1, Noarch: archive.LinkNoarch{Type: index.Noarch, EntryPoints: points}}
	}
	d, err := dist.New(index.Name, index.Version, index.Build, dist.Conda)
	if err != nil {
		k.t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := archive.Create(context.Background(), &buf, d.Format, meta, inputs); err != nil {
		k.t.Fatal(err)
	}
	dir := filepath.Join(k.Dir, index.Subdir)
	name := filepath.Join(dir, d.Filename())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		k.t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	return install.Package{
		Record: repodata.Record{
			Name: index.Name, Version: index.Version, Build: index.Build, Subdir: index.Subdir, NoArch: repodata.NoArch(index.Noarch),
			Depends: index.Depends, SHA256: hex.EncodeToString(sum[:]), Size: uint64(buf.Len()),
			PythonSitePackagesPath: index.PythonSitePackagesPath,
		},
		FileName: d.Filename(), URL: "file://" + name, Channel: "file://" + k.Dir + "/",
	}
}

// Fetch unpacks packages.
func (k *Kit) Fetch(packages ...install.Package) []segment.Package {
	k.t.Helper()
	entries, err := install.Fetch(context.Background(), packages, k.Cache, pkgcache.Local{})
	if err != nil {
		k.t.Fatal(err)
	}
	out := make([]segment.Package, len(packages))
	for i := range packages {
		out[i] = segment.Package{Package: packages[i], Dir: entries[i].Dir}
	}
	return out
}

// PycTime is what the bytecode in Python's package says of its source.
const PycTime = 1700000000

// Environment is a small one with one of everything.
func (k *Kit) Environment() []install.Package {
	k.t.Helper()
	pyc := make([]byte, 16, 20)
	binary.LittleEndian.PutUint32(pyc[8:], PycTime)
	return []install.Package{
		k.Package(archive.Index{Name: "python", Version: "3.12.4", Depends: archive.StringList{"lib"}}, []archive.Input{
			{Path: "bin/python3.12", Data: []byte("#!/bin/sh\nexec python3 \"$@\"\n"), Mode: 0o755},
			{Path: "bin/python", Kind: archive.Symlink, Link: "python3.12"},
			Plain("lib/python3.12/os.py", "name = 'posix'\n"),
			Plain("lib/python3.12/__pycache__/os.cpython-312.pyc", string(pyc)),
			Text("lib/python3.12/_sysconfigdata.py", "prefix = '"+Placeholder+"'\n"),
			Text("bin/pydoc", "#!"+Placeholder+"/bin/python3.12\nimport pydoc\n"),
			Text("bin/both", "#!"+Placeholder+"/bin/python3.12\nprint('"+Placeholder+"/share')\n"),
			{Path: "bin/running", Data: []byte("\x7fELF" + Placeholder + "/lib\x00"), Mode: 0o755, Placeholder: Placeholder, FileMode: archive.ModeBinary},
		}),
		k.Package(archive.Index{Name: "lib"}, []archive.Input{
			Binary("lib/libx.so.1", "\x7fELF"+Placeholder+"/lib\x00"+Placeholder+"/share:"+Placeholder+"/etc\x00\x00end"),
			{Path: "lib/libx.so", Kind: archive.Symlink, Link: "libx.so.1"},
			{Path: "lib64", Kind: archive.Symlink, Link: "lib"},
			Plain("lib/libx.a", "static"),
			Text("lib/pkgconfig/x.pc", "prefix="+Placeholder+"\nlibdir="+Placeholder+"/lib\n"),
			{Path: "share/empty", Kind: archive.Dir},
			Plain("share/common", "of lib"),
			Plain("etc/conda/env_vars.d/lib.json", `{"LIB_HOME": "it's/here"}`),
			Plain("share/"+deep+"/file", "a long name"),
		}),
		k.Package(archive.Index{Name: "app", Noarch: archive.NoarchPython, Depends: archive.StringList{"python", "lib"}}, []archive.Input{
			Plain("site-packages/app/__init__.py", "def main():\n    print('app runs')\n"),
			Text("python-scripts/app-script", "#!"+Placeholder+"/bin/python\nprint(1)\n"),
			Plain("share/common", "of app, which hides that of lib"),
			Plain("etc/conda/activate.d/app.sh", "export APP_ACTIVE=yes\n"),
			Plain("etc/conda/deactivate.d/app.sh", "unset APP_ACTIVE\n"),
		}, "app = app:main"),
	}
}

// deep makes a path that does not fit into the name field of a tar.
const deep = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

// Many makes n small packages with some random files each, the same for each seed.
func (k *Kit) Many(n, files, size int, seed uint64) []install.Package {
	k.t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []install.Package
	for i := range n {
		name := fmt.Sprintf("p%03d", i)
		var inputs []archive.Input
		for j := range files {
			data := make([]byte, size)
			for l := range data {
				data[l] = "abcdefghij \n"[rng.IntN(12)]
			}
			inputs = append(inputs, Plain(fmt.Sprintf("share/%s/f%d", name, j), string(data)))
		}
		inputs = append(inputs, Text("bin/"+name, "#!"+Placeholder+"/bin/sh\necho "+name+"\n"))
		out = append(out, k.Package(archive.Index{Name: name}, inputs))
	}
	return out
}

// Real are real packages for linux-64, some of 2017, if they are here: openssl, curl and what they need, with binary and
// text placeholders and without paths.json. The result is nil if they are not.
func (k *Kit) Real() []install.Package {
	k.t.Helper()
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(here), "../../../../../shared/data/03-packages/venicegeo-2017/linux-64")
	var out []install.Package
	for _, stem := range []string{
		"openssl-1.0.2l-0", "curl-7.49.0-1", "zlib-1.2.11-0", "ncurses-5.9-10", "readline-6.2-2", "sqlite-3.13.0-0", "tk-8.5.18-0",
		"xz-5.2.2-0", "libpng-1.6.28-0", "expat-2.2.1-0", "util-linux-2.21-0",
	} {
		d, err := dist.ParseFilename(stem + ".tar.bz2")
		if err != nil {
			k.t.Fatal(err)
		}
		name := filepath.Join(dir, d.Filename())
		if _, err := os.Stat(name); err != nil {
			return nil
		}
		out = append(out, install.Package{
			Record:   repodata.Record{Name: d.Name, Version: d.Version, Build: d.Build, Subdir: "linux-64"},
			FileName: d.Filename(), URL: "file://" + name, Channel: "file://" + filepath.Dir(dir) + "/", Incomplete: true,
		})
	}
	return out
}
