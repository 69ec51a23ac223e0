package link_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestPython(t *testing.T) {
	for _, c := range []struct{ version, path, platform, minor, want string }{
		{"3.12.4", "", "linux-64", "3.12", "lib/python3.12/site-packages"},
		{"3.13.0rc1", "lib/python3.13t/site-packages/", "osx-arm64", "3.13", "lib/python3.13t/site-packages"},
		{"3.10.1", "", "win-64", "3.10", "Lib/site-packages"},
		{"2.7", "", "linux-64", "2.7", "lib/python2.7/site-packages"},
		{"3", "", "linux-64", "", ""},
		{"3.12.0", "../outside", "linux-64", "", ""},
		{"3.12.0", "/usr/lib", "linux-64", "", ""},
		{"3.12.0", "lib/../..", "linux-64", "", ""},
		{"3.12.0", "conda-meta", "linux-64", "", ""},
	} {
		p, err := link.NewPython(c.version, c.path, c.platform)
		if c.want == "" {
			if err == nil {
				t.Errorf("python %s in %q is accepted", c.version, c.path)
			}
			continue
		}
		if err != nil || p.SitePackages != c.want || p.MajorMinor != c.minor {
			t.Errorf("python %s in %q: %+v %v", c.version, c.path, p, err)
		}
	}
	a, _ := link.NewPython("3.12.1", "", "linux-64")
	b, _ := link.NewPython("3.12.9", "", "linux-64")
	c, _ := link.NewPython("3.13.0", "", "linux-64")
	if a.Relink(b) || !a.Relink(c) || !a.Relink(nil) {
		t.Error("noarch packages are linked again if, and only if, major.minor changes")
	}
}

func TestPlanRefuses(t *testing.T) {
	python, err := link.NewPython("3.12.1", "", "linux-64")
	if err != nil {
		t.Fatal(err)
	}
	windows, err := link.NewPython("3.12.1", "", "win-64")
	if err != nil {
		t.Fatal(err)
	}
	size := func(p string) *link.Package {
		return &link.Package{Name: "p", Version: "1", Build: "0", Paths: []archive.PathEntry{{Path: p, Type: archive.PathHardLink}}}
	}
	noarch := func(paths ...string) *link.Package {
		p := &link.Package{Name: "p", Version: "1", Build: "0", Noarch: archive.NoarchPython}
		for _, name := range paths {
			p.Paths = append(p.Paths, archive.PathEntry{Path: name, Type: archive.PathHardLink})
		}
		return p
	}
	withCommand := noarch("site-packages/x.py")
	withCommand.EntryPoints = []archive.EntryPoint{{Command: "x", Module: "x", Func: "main"}}
	twice := noarch("python-scripts/x")
	twice.EntryPoints = withCommand.EntryPoints
	short := size("lib/x")
	short.Paths[0].Placeholder, short.Paths[0].Mode = "/short", archive.ModeBinary
	for _, c := range []struct {
		name   string
		pkg    *link.Package
		target link.Target
		want   string
	}{
		{"noarch python without python", noarch("site-packages/x"), link.Target{Prefix: "/e", Platform: "linux-64"}, "no python in the environment"},
		{"two files in one place", twice, link.Target{Prefix: "/e", Platform: "linux-64", Python: python}, "bin/x: two files"},
		{"a prefix that does not fit", short, link.Target{Prefix: "/longer/than", Platform: "linux-64"}, "lib/x: the prefix"},
		{"commands for Windows without a launcher", withCommand, link.Target{Prefix: `C:\e`, Platform: "win-64", Python: windows}, "launcher"},
		{"no platform", size("x"), link.Target{Prefix: "/e", Platform: "noarch"}, "platform"},
		{"a relative prefix", size("x"), link.Target{Prefix: "e", Platform: "linux-64"}, "not absolute"},
		{"no prefix", size("x"), link.Target{Platform: "linux-64"}, "no prefix"},
		{"a line break", size("x"), link.Target{Prefix: "/e\n", Platform: "linux-64"}, "line break"},
	} {
		_, err := link.Plan(c.pkg, &c.target)
		var le *link.Error
		if !errors.As(err, &le) || le.Package != "p-1-0" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	target := link.Target{Prefix: `C:\e`, Platform: "win-64", Python: windows, Launcher: []byte("MZ")}
	entries, err := link.Plan(withCommand, &target)
	if err != nil || len(entries) != 3 || entries[1].Path != "Scripts/x-script.py" || entries[2].Path != "Scripts/x.exe" || string(entries[2].Data) != "MZ" {
		t.Errorf("%+v %v", entries, err)
	}
	if !strings.HasPrefix(string(entries[1].Data), "\n# -*- coding") {
		t.Errorf("on Windows a script has no first line for the kernel: %q", entries[1].Data)
	}
	if _, err := link.Plan(short, &link.Target{Prefix: `C:\longer`, Platform: "win-64"}); err != nil {
		t.Errorf("binaries for Windows are left alone: %v", err)
	}
}

func TestOrder(t *testing.T) {
	records := []repodata.Record{
		{Name: "pip", NoArch: repodata.NoArchPython, Depends: []string{"python >=3.8", "wheel"}},
		{Name: "python", Depends: []string{"libzlib >=1.2", "pip"}},
		{Name: "wheel", NoArch: repodata.NoArchPython, Depends: []string{"python"}},
		{Name: "libzlib", Depends: []string{"__glibc >=2.17"}},
		{Name: "a"},
		{Name: "b"},
		{Name: "y", Depends: []string{"a>=0"}},
		{Name: "z", Depends: []string{"forge::B[build='0']"}},
	}
	var names []string
	for _, r := range link.Order(records, func(r *repodata.Record) *repodata.Record { return r }) {
		names = append(names, r.Name)
	}
	if got, want := strings.Join(names, " "), "b z a y libzlib python wheel pip"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
