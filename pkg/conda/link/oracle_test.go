package link_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// ours installs packages the way this package says.
func ours(t *testing.T, dir, prefix string, files []*file) error {
	t.Helper()
	target := &link.Target{Prefix: prefix, Platform: "linux-64"}
	for _, f := range files {
		if f.typed.Name == "python" {
			var err error
			if target.Python, err = link.NewPython(f.typed.Version, f.typed.PythonSitePackagesPath, target.Platform); err != nil {
				return err
			}
		}
	}
	files = link.Order(files, func(f **file) *repodata.Record { return &(*f).typed })
	var plans []link.Plans
	for _, f := range files {
		entries, err := link.Plan(f.pkg, target)
		if err != nil {
			return err
		}
		plans = append(plans, link.Plans{Name: f.typed.Name, Entries: entries})
	}
	link.Clobbers(plans)
	for i, f := range files {
		if err := put(t, dir, f.pkg, plans[i].Entries, target); err != nil {
			return err
		}
	}
	return nil
}

// same installs with both and compares the trees.
func same(t *testing.T, r *rattler, alt string, files ...*file) {
	t.Helper()
	theirs := filepath.Join(t.TempDir(), "prefix")
	prefix := alt
	if alt == "" {
		prefix = theirs
	}
	msg := r.install(t, theirs, alt, "linux-64", files)
	dir := t.TempDir()
	err := ours(t, dir, prefix, files)
	if (msg != "") != (err != nil) {
		t.Fatalf("rattler says %q, ours %v", msg, err)
	}
	if err != nil {
		t.Logf("refused by both: %v", err)
		return
	}
	if diff := cmp.Diff(tree(t, theirs), tree(t, dir)); diff != "" {
		t.Errorf("rattler (-) and ours (+) differ:\n%s", diff)
	}
}

const placeholder = "/opt/placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold"

func wide(s string, size int, big bool) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		unit := make([]byte, size)
		if big {
			unit[size-2], unit[size-1] = byte(u>>8), byte(u)
		} else {
			unit[0], unit[1] = byte(u), byte(u>>8)
		}
		b.Write(unit)
	}
	return b.String()
}

func TestLikeRattler(t *testing.T) {
	r := newRattler(t)
	long := "/srv/" + strings.Repeat("long/", 25) + "env"
	text := func(path, data string) archive.Input {
		return archive.Input{Path: path, Data: []byte(data), Placeholder: placeholder, FileMode: archive.ModeText, Mode: 0o755}
	}
	binary := func(path, data string) archive.Input {
		return archive.Input{Path: path, Data: []byte(data), Placeholder: placeholder, FileMode: archive.ModeBinary}
	}
	p := placeholder
	inputs := []archive.Input{
		text("bin/python-script", "#!"+p+"/bin/python3.12 -E\nprint('"+p+"')\n"),
		text("bin/python3", "#!"+p+"/bin/python3\n"),
		text("bin/python-config", "#!"+p+"/bin/python3.12-config\n"),
		text("bin/perl", "#! "+p+"/bin/perl -w\n"+p+p+"\n"),
		text("bin/env", "#!/usr/bin/env python\n"+p+"\n"),
		text("bin/escaped", "#!"+p+"/bin/my\\ perl -x y\n"),
		text("bin/nothing", "#!"+p),
		text("bin/tab", "#!\t"+p+"/bin/perl\n"),
		text("bin/crlf", "#!"+p+"/bin/perl\r\n"+p+"\r\n"),
		text("bin/invalid", "#!"+p+"/bin/\xe2\x82x\xff\xf0\x90\x80 y\n"+p),
		text("bin/late", "x\n#!"+p+"/bin/perl\n"),
		text("share/wide", p+"\n"+wide(p, 2, false)+"\n"+wide(p, 4, true)+wide(p, 2, true)+wide(p, 4, false)),
		text("share/none", "nothing"), text("share/empty", ""),
		binary("lib/a", "\x7fELF"+p+"/lib\x00"+p+"/a:"+p+"/b\x00\x00rest"+p+"/end"),
		binary("lib/whole", p), binary("lib/none", "\x00\x01"), binary("lib/twice", p+p+"\x00"+p),
		binary("lib/wide", "ab"+wide(p+"/x", 2, false)+"\x00\x00"+wide("y"+p, 2, true)+"\x00\x00\x00"+wide(p, 4, false)+"\x00\x00\x00\x00z"),
		binary("lib/shifted", "\x00"+wide(p+"/x", 2, false)+"\x00\x00tail"+p),
		binary("lib/mixed", "abc"+wide(p, 4, true)+"\x00\x00\x00\x00"+p+"/x"+wide(p, 2, true)+"no end"),
		{Path: "lib/plain", Data: []byte(p)},
		{Path: "lib/readonly", Data: []byte(p), Mode: 0o444, Placeholder: placeholder, FileMode: archive.ModeText},
		{Path: "lib/shared", Data: []byte(p), Mode: 0o664},
		{Path: "lib/nolink", Data: []byte("x"), NoLink: true},
		{Path: "lib/link", Kind: archive.Symlink, Link: "plain"},
		{Path: "lib/copied", Kind: archive.Symlink, Link: "a", Placeholder: placeholder, FileMode: archive.ModeBinary},
	}
	for _, prefix := range []string{"", "/opt/a", "/srv/with space/env", long, placeholder} {
		t.Run(fmt.Sprintf("prefix of %d bytes %.12s", len(prefix), prefix), func(t *testing.T) {
			same(t, r, prefix, build(t, archive.Index{Name: "a"}, inputs))
		})
	}
	t.Run("a prefix longer than the placeholder is refused by both", func(t *testing.T) {
		f := build(t, archive.Index{Name: "a"}, inputs[len(inputs)-10:])
		if msg := r.install(t, filepath.Join(t.TempDir(), "p"), placeholder+"x", "linux-64", []*file{f}); !strings.Contains(msg, "longer") {
			t.Errorf("rattler: %q", msg)
		}
		if err := ours(t, t.TempDir(), placeholder+"x", []*file{f}); err == nil || !strings.Contains(err.Error(), "a-1.0-0: lib/") {
			t.Errorf("ours: %v", err)
		}
	})
	noarch := func(t *testing.T) *file {
		return build(t, archive.Index{Name: "n", Noarch: archive.NoarchPython, Depends: archive.StringList{"python"}}, []archive.Input{
			{Path: "site-packages/n/__init__.py", Data: []byte("x = 1\n")},
			text("python-scripts/run", "#!"+p+"/bin/python\n"),
			{Path: "share/site-packages/x", Data: []byte("stays")},
			{Path: "site-packages-not/x", Data: []byte("stays")},
		}, "n = n.cli:main", "n-other=n.cli:Group.sub.run")
	}
	for _, prefix := range []string{"", long, "/srv/with space/env"} {
		t.Run(fmt.Sprintf("noarch python, prefix %.12s", prefix), func(t *testing.T) {
			same(t, r, prefix, noarch(t), pythonPackage(t, "3.12.4", ""))
			same(t, r, prefix, noarch(t), pythonPackage(t, "3.13.0rc1", "lib/python3.13t/site-packages"))
		})
	}
}

// Not compared is a file where others have a directory: what rattler leaves there depends on which of its threads comes
// first. See TestClobbers.
func TestClobberedLikeRattler(t *testing.T) {
	r := newRattler(t)
	dir := "../../../../shared/data/03-packages/rattler-test-data/clobber"
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) == 0 {
		t.Skip("the clobber packages are not here")
	}
	for _, set := range [][]string{
		{"clobber-1-0.1.0-h4616a5c_0.tar.bz2", "clobber-2-0.1.0-h4616a5c_0.tar.bz2", "clobber-3-0.1.0-h4616a5c_0.tar.bz2"},
		{"clobber-1-0.2.0-h4616a5c_0.tar.bz2", "clobber-2-0.2.0-h4616a5c_0.tar.bz2", "clobber-3-0.2.0-h4616a5c_0.tar.bz2"},
		{"clobber-nested-1-0.1.0-h4616a5c_0.tar.bz2", "clobber-nested-2-0.1.0-h4616a5c_0.tar.bz2", "clobber-nested-3-0.1.0-h4616a5c_0.tar.bz2"},
		{"clobber-with-symlink-a-0.1.0-h4616a5c_0.conda", "clobber-with-symlink-b-0.1.0-h4616a5c_0.conda"},
		{"clobber-with-dir-0.1.0-h4616a5c_0.conda", "clobber-without-dir-0.1.0-h4616a5c_0.conda"},
		{"clobber-pynoarch-1-0.1.0-pyh4616a5c_0.tar.bz2", "clobber-pynoarch-2-0.1.0-pyh4616a5c_0.tar.bz2"},
		{"clobber-python-0.1.0-pypy.conda", "clobber-pypy-0.1.0-h4616a5c_0.conda"},
	} {
		t.Run(strings.Join(set, " "), func(t *testing.T) {
			var files []*file
			for _, name := range set {
				f, err := unpack(t, filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, f)
			}
			if strings.Contains(set[0], "pynoarch") {
				files = append(files, pythonPackage(t, "3.11.4", ""))
			}
			same(t, r, "", files...)
		})
	}
}

// TestRealPackages installs every package there is, one by one, with both.
func TestRealPackages(t *testing.T) {
	r := newRattler(t)
	root := "../../../../shared/data/03-packages"
	var names []string
	_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if _, perr := dist.ParseFilename(filepath.Base(name)); perr == nil {
				names = append(names, name)
			}
		}
		return nil
	})
	if len(names) == 0 {
		t.Skip("the packages are not here")
	}
	done, unread := 0, 0
	for _, name := range names {
		f, err := unpack(t, name)
		if err != nil {
			unread++
			t.Logf("not read: %s: %v", filepath.Base(name), err)
			continue
		}
		files := []*file{f}
		if f.pkg.Noarch == archive.NoarchPython {
			files = append(files, pythonPackage(t, "3.11.4", ""))
		}
		done++
		t.Run(filepath.Base(name), func(t *testing.T) { same(t, r, "", files...) })
	}
	t.Logf("%d packages, %d not read", done, unread)
}

func TestOrderLikeRattler(t *testing.T) {
	r := newRattler(t)
	rng := rand.New(rand.NewPCG(1, 2))
	tails := []string{"", " >=1", "=1", ">=1", "[version='1']", "  1.*", "!=2", "~=1.0", "<2"}
	for round := range 300 {
		n := 2 + rng.IntN(10)
		var records []repodata.Record
		var raw []map[string]any
		for i := range n {
			name := fmt.Sprintf("%c%d", 'a'+rng.IntN(26), i)
			records = append(records, repodata.Record{Name: name, Version: "1", Build: "0"})
		}
		for i := range records {
			for range rng.IntN(4) {
				dep := records[rng.IntN(n)].Name
				if round%2 == 0 && dep >= records[i].Name {
					continue // every other graph has no circles
				}
				records[i].Depends = append(records[i].Depends, dep+tails[rng.IntN(len(tails))])
			}
			q := map[string]any{"name": records[i].Name, "version": "1", "build": "0", "build_number": 0, "subdir": "linux-64", "depends": records[i].Depends}
			if q["depends"] == nil || len(records[i].Depends) == 0 {
				q["depends"] = []string{}
			}
			if rng.IntN(3) == 0 {
				records[i].NoArch = repodata.NoArchGeneric
				q["noarch"] = "generic"
			}
			raw = append(raw, q)
		}
		var a struct{ Names []string }
		r.ask(t, map[string]any{"sort": raw}, &a)
		var names []string
		for _, rec := range link.Order(records, func(r *repodata.Record) *repodata.Record { return r }) {
			names = append(names, rec.Name)
		}
		if diff := cmp.Diff(a.Names, names); diff != "" {
			t.Fatalf("round %d: %v\nrattler (-) and ours (+) differ:\n%s", round, raw, diff)
		}
	}
}
