package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

const platform = "linux-64"

var placeholder = ("/opt/" + strings.Repeat("placehold_", 30))[:255]

// made is a package to be made.
type made struct {
	name, version string
	depends       []string
	noarch        archive.Noarch
	entry         []string
	files         []archive.Input
	sitePackages  string
}

func file(path, text string) archive.Input {
	in := archive.Input{Path: path, Data: []byte(text)}
	if strings.Contains(text, "@") {
		in.Data, in.Placeholder = []byte(strings.ReplaceAll(text, "@", placeholder)), placeholder
	}
	if strings.HasPrefix(path, "bin/") {
		in.Mode = 0o755
	}
	return in
}

func binary(path, text string) archive.Input {
	in := file(path, text)
	in.FileMode = archive.ModeBinary
	return in
}

func symlink(path, text string) archive.Input {
	return archive.Input{Path: path, Kind: archive.Symlink, Link: text}
}

// write makes the package in a channel directory and returns it as one to be installed.
func (m made) write(t testing.TB, channel string) Package {
	t.Helper()
	subdir := platform
	if m.noarch != archive.NotNoarch {
		subdir = dist.Noarch
	}
	meta := archive.Meta{
		Index: archive.Index{
			Name: m.name, Version: m.version, Build: "0", Subdir: subdir, Noarch: m.noarch, Depends: m.depends, Timestamp: 1_700_000_000_000,
			PythonSitePackagesPath: m.sitePackages,
		},
		About: &archive.About{Summary: "made for a test"},
	}
	if m.noarch == archive.NoarchPython {
		meta.Link = &archive.Link{Version: 1, Noarch: archive.LinkNoarch{Type: m.noarch, EntryPoints: m.entry}}
	}
	var buf bytes.Buffer
	d, err := archive.Create(t.Context(), &buf, dist.Conda, meta, m.files, archive.CompressionLevel(1))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(channel, subdir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, d.Filename())
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	return Package{
		Record: repodata.Record{
			Name: m.name, Version: m.version, Build: "0", Subdir: subdir, NoArch: repodata.NoArch(m.noarch), Depends: m.depends,
			SHA256: hex.EncodeToString(sum[:]), Size: uint64(buf.Len()), PythonSitePackagesPath: m.sitePackages, Timestamp: 1_700_000_000_000,
		},
		FileName: d.Filename(), URL: name, Channel: "file://" + channel + "/",
	}
}

// world is a cache and a channel.
type world struct {
	t       testing.TB
	channel string
	cache   *pkgcache.Cache
	prefix  string
	warned  []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	c, err := pkgcache.Open(filepath.Join(dir, "cache"), pkgcache.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, channel: filepath.Join(dir, "channel"), cache: c, prefix: filepath.Join(dir, "prefix")}
}

func (w *world) options() Options {
	return Options{
		Cache: w.cache, Platform: platform, NoSync: true, Tool: "entrepot version: test",
		Now:  func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
		Warn: func(x Warning) { w.warned = append(w.warned, x.String()) },
	}
}

func (w *world) install(want []Package, change ...func(*Options)) (*Result, error) {
	o := w.options()
	for _, f := range change {
		f(&o)
	}
	return Install(w.t.Context(), w.prefix, want, o)
}

func (w *world) mustInstall(want ...Package) *Result {
	w.t.Helper()
	res, err := w.install(want)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *world) write(text string) func(path string) {
	return func(path string) {
		w.t.Helper()
		name := filepath.Join(w.prefix, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// snapshot is everything in a prefix, but for the times of directories.
func snapshot(t testing.TB, prefix string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(prefix, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == prefix {
			return err
		}
		rel, err := filepath.Rel(prefix, name)
		if err != nil {
			return err
		}
		st, err := os.Lstat(name)
		if err != nil {
			return err
		}
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(name)
			out[rel] = "link " + text
			return err
		case st.IsDir():
			out[rel] = "directory"
			return nil
		}
		data, err := os.ReadFile(name)
		out[rel] = fmt.Sprintf("%s %s", st.Mode(), data)
		return err
	})
	if os.IsNotExist(err) {
		return out
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// before and after are two states that differ in every way a transaction knows: packages come, go and change, clobbered
// files return, directories appear and vanish, a file becomes a directory, python's minor version changes.
func states(t testing.TB, channel string) (before, after []Package) {
	python := func(v string) made {
		return made{name: "python", version: v + ".1", files: []archive.Input{
			file("bin/python"+v, "#!/bin/sh\n# @\nexec python3 \"$*\"\n"), symlink("bin/python", "python"+v), file("lib/python"+v+"/os.py", "# os\n"),
		}}
	}
	lib := func(v string) made {
		return made{name: "lib", version: v, files: []archive.Input{
			binary("lib/lib.so", "head\x00@/share/lib\x00tail"), file("share/lib/version", v), file("share/lib/only-"+v, v), file("etc/lib.conf", "root=@\n"),
		}}
	}
	tool := made{name: "tool", version: "1", noarch: archive.NoarchPython, depends: []string{"python"}, entry: []string{"tool = tool.main:run"}, files: []archive.Input{
		file("site-packages/tool/__init__.py", "\n"), file("site-packages/tool/main.py", "def run(): pass\n"),
	}}
	winner := made{name: "a-winner", version: "1", depends: []string{"loser"}, files: []archive.Input{file("share/contested", "winner\n"), file("share/w/only", "w\n")}}
	loser := made{name: "loser", version: "1", files: []archive.Input{file("share/contested", "loser\n"), file("share/loser", "l\n")}}
	second := made{name: "b-second", version: "1", depends: []string{"loser"}, files: []archive.Input{file("share/loser", "second\n")}}
	thing := func(v, path string) made {
		return made{name: "thing", version: v, files: []archive.Input{file(path, v)}}
	}
	w := func(m made) Package { return m.write(t, channel) }
	l, tl := w(loser), w(tool)
	before = []Package{w(python("3.11")), w(lib("1")), tl, w(winner), l, w(thing("1", "opt/thing")), w(made{name: "goes", version: "1", files: []archive.Input{file("share/deep/er/gone", "x")}})}
	after = []Package{w(python("3.12")), w(lib("2")), tl, l, w(second), w(thing("2", "opt/thing/inside")), w(made{name: "comes", version: "1", files: []archive.Input{file("share/new/file", "n"), symlink("share/new/link", "file")}})}
	return before, after
}

func contextBackground() context.Context { return context.Background() }
