package link

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Target is the prefix that packages are linked for. It need not exist on this machine.
type Target struct {
	// Prefix is the absolute path that files will have written into them.
	Prefix string
	// Platform is the subdir that the prefix is for, such as linux-64; never noarch.
	Platform string
	// Python is the interpreter of the prefix; nil if there is none. Packages that are noarch python need it.
	Python *Python
	// Launcher is the program that runs an entry point on Windows: an .exe that starts <name>-script.py beside it.
	// Without one, packages with entry points cannot be linked for Windows.
	Launcher []byte
}

// windows reports whether the prefix is for Windows.
func (t *Target) windows() bool { return strings.HasPrefix(t.Platform, "win-") }

// Python is what linking has to know of the interpreter in a prefix.
type Python struct {
	Version      string // of the package, such as 3.12.4
	MajorMinor   string // 3.12
	SitePackages string // relative to the prefix, with forward slashes, such as lib/python3.12/site-packages
	Bin          string // where scripts go: bin, or Scripts on Windows
	Executable   string // relative to the prefix, such as bin/python3.12
}

var majorMinor = regexp.MustCompile(`^(?:[0-9]+!)?([0-9]+)[._-]([0-9]+)`)

// NewPython describes the interpreter that a package named python brings. sitePackages is the record's
// python_site_packages_path (CEP 17), empty for the usual place; one that leaves the prefix is an error.
func NewPython(version, sitePackages, platform string) (*Python, error) {
	m := majorMinor.FindStringSubmatch(version)
	if m == nil {
		return nil, fmt.Errorf("python %s: the version has no major and minor number", version)
	}
	p := &Python{Version: version, MajorMinor: strings.TrimLeft(m[1], "0") + "." + trimZeros(m[2])}
	if p.MajorMinor[0] == '.' {
		p.MajorMinor = "0" + p.MajorMinor
	}
	if strings.HasPrefix(platform, "win-") {
		p.Bin, p.Executable, p.SitePackages = "Scripts", "python.exe", "Lib/site-packages"
	} else {
		p.Bin, p.Executable = "bin", "bin/python"+p.MajorMinor
		p.SitePackages = "lib/python" + p.MajorMinor + "/site-packages"
	}
	if sitePackages == "" {
		return p, nil
	}
	clean := path.Clean(strings.TrimSuffix(sitePackages, "/"))
	if clean == "." || clean == ".." || strings.HasPrefix(clean, "../") || path.IsAbs(clean) || strings.ContainsAny(clean, "\\\x00") {
		return nil, fmt.Errorf("python %s: its site-packages path %q does not lie inside the prefix", version, sitePackages)
	}
	if first, _, _ := strings.Cut(clean, "/"); strings.EqualFold(first, "conda-meta") {
		return nil, fmt.Errorf("python %s: its site-packages path %q lies in conda-meta", version, sitePackages)
	}
	p.SitePackages = clean
	return p, nil
}

func trimZeros(s string) string {
	if t := strings.TrimLeft(s, "0"); t != "" {
		return t
	}
	return "0"
}

// Relink reports whether noarch python packages that were linked for q must be linked again for p: where their files lie
// has changed, or which interpreter runs them.
func (p *Python) Relink(q *Python) bool {
	if p == nil || q == nil {
		return p != q
	}
	return p.MajorMinor != q.MajorMinor || p.SitePackages != q.SitePackages
}

// place returns where a path of a noarch python package goes.
func (p *Python) place(name string) string {
	if rest, ok := strings.CutPrefix(name, "site-packages"); ok && (rest == "" || rest[0] == '/') {
		return p.SitePackages + rest
	}
	if rest, ok := strings.CutPrefix(name, "python-scripts"); ok && (rest == "" || rest[0] == '/') {
		return p.Bin + rest
	}
	return name
}
