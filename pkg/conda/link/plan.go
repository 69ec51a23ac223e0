package link

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// Type is how a path comes into a prefix. The values are those of path_type in conda-meta.
type Type string

// The types of paths in a prefix.
const (
	HardLink   Type = "hardlink" // a file of the package: linked, copied, or rewritten if it has a placeholder
	SoftLink   Type = "softlink"
	Directory  Type = "directory"
	EntryPoint Type = "unix_python_entry_point"
	// On Windows an entry point is a script and a program that starts it.
	EntryPointScript Type = "windows_python_entry_point_script"
	EntryPointExe    Type = "windows_python_entry_point_exe"
	Pyc              Type = "pyc_file"
)

// Entry is one path of a prefix.
type Entry struct {
	// Path is relative to the prefix, with forward slashes.
	Path string
	// Original is where the path would be if no other package had it; empty unless this entry lost. See Clobbers.
	Original string
	// Source is the path in the package; empty if the file is generated, and then Data is its content.
	Source string
	Data   []byte
	Type   Type
	// Mode holds the permission bits of what is generated. Those of other files are the source's.
	Mode fs.FileMode

	// Placeholder is replaced by the prefix, as FileMode says. Both are empty if the file stays as it is.
	Placeholder string
	FileMode    archive.FileMode
	// NoLink asks for a copy: the file may be written to later.
	NoLink bool

	// SHA256 (hex) and Size are of the source, as the package says; empty and -1 if it does not. A generated file has its own.
	SHA256 string
	Size   int64
}

// Generated reports whether the entry's content is not in the package.
func (e *Entry) Generated() bool { return e.Source == "" }

// Rewritten reports whether the file must go through Rewrite. A soft link with a placeholder, which old packages for macOS
// have, becomes a file: the rewritten content of what it points to.
func (e *Entry) Rewritten() bool { return e.Placeholder != "" }

// Error says why a package cannot be linked.
type Error struct {
	Package string // name-version-build
	Path    string // may be empty
	Msg     string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %s", e.Package, e.Msg)
	}
	return fmt.Sprintf("%s: %s: %s", e.Package, e.Path, e.Msg)
}

// Plan lists every path that a package becomes in a prefix: those of the package in its own order, then its entry points.
// Whatever can be known to fail is refused here, as an *Error, before a prefix is touched.
func Plan(p *Package, t *Target) ([]Entry, error) {
	refuse := func(path, format string, args ...any) error {
		return &Error{Package: p.String(), Path: path, Msg: fmt.Sprintf(format, args...)}
	}
	if err := t.check(); err != nil {
		return nil, refuse("", "%v", err)
	}
	python := p.Noarch == archive.NoarchPython
	if python && t.Python == nil {
		return nil, refuse("", "it is a noarch python package, and there is no python in the environment")
	}
	entries := make([]Entry, 0, len(p.Paths)+len(p.EntryPoints))
	for i := range p.Paths {
		s := &p.Paths[i]
		e := Entry{Path: s.Path, Source: s.Path, Type: Type(s.Type), NoLink: s.NoLink, SHA256: s.SHA256, Size: -1}
		if s.Size != nil {
			e.Size = *s.Size
		}
		if s.Type != archive.PathDirectory && s.Placeholder != "" {
			e.Placeholder, e.FileMode = s.Placeholder, s.Mode
		}
		if python {
			e.Path = t.Python.place(s.Path)
		}
		if first, _, _ := strings.Cut(e.Path, "/"); strings.EqualFold(first, ClobberDir) || strings.EqualFold(first, ForeignDir) {
			return nil, refuse(e.Path, "what lies there belongs to other packages, or to nobody")
		}
		if e.FileMode == archive.ModeBinary && !t.windows() && len(t.Prefix) > len(e.Placeholder) {
			return nil, refuse(e.Path, "the prefix %s has %d bytes, but the file has room for %d", t.Prefix, len(t.Prefix), len(e.Placeholder))
		}
		entries = append(entries, e)
	}
	if !python {
		return entries, nil
	}
	if t.windows() && len(p.EntryPoints) > 0 && t.Launcher == nil {
		return nil, refuse("", "its commands need a launcher for Windows, and there is none")
	}
	for _, ep := range p.EntryPoints {
		entries = append(entries, entryPoint(ep, t)...)
	}
	return entries, unique(entries, refuse)
}

// check refuses targets that no package can be linked for.
func (t *Target) check() error {
	switch {
	case t.Platform == "" || t.Platform == "noarch":
		return fmt.Errorf("%q is not a platform to link for", t.Platform)
	case t.Prefix == "":
		return fmt.Errorf("there is no prefix")
	case strings.ContainsAny(t.Prefix, "\x00\n\r"):
		return fmt.Errorf("the prefix %q contains a zero or a line break", t.Prefix)
	case !t.windows() && !path.IsAbs(t.Prefix):
		return fmt.Errorf("the prefix %q is not absolute", t.Prefix)
	}
	return nil
}

// unique refuses a noarch package that maps two of its paths to one.
func unique(entries []Entry, refuse func(string, string, ...any) error) error {
	seen := make(map[string]bool, len(entries))
	for i := range entries {
		if seen[entries[i].Path] {
			return refuse(entries[i].Path, "two files of the package go there")
		}
		seen[entries[i].Path] = true
	}
	return nil
}

// Placeholders reports whether a binary placeholder is among the entries: for macOS such files lose their signature.
func Placeholders(entries []Entry) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.FileMode == archive.ModeBinary })
}

// entryPoint makes the files of one command.
func entryPoint(ep archive.EntryPoint, t *Target) []Entry {
	generated := func(name string, typ Type, data []byte) Entry {
		sum := sha256.Sum256(data)
		return Entry{
			Path: t.Python.Bin + "/" + name, Type: typ, Mode: 0o775, Data: data,
			SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data)),
		}
	}
	if t.windows() {
		return []Entry{
			generated(ep.Command+"-script.py", EntryPointScript, entryPointScript("", ep)),
			generated(ep.Command+".exe", EntryPointExe, t.Launcher),
		}
	}
	return []Entry{generated(ep.Command, EntryPoint, entryPointScript(pythonShebang(t), ep))}
}

// pythonShebang is the first line of a script for the prefix's python.
func pythonShebang(t *Target) string {
	program := strings.TrimSuffix(t.Prefix, "/") + "/" + t.Python.Executable
	if len("#!")+len(program) > maxShebangLinux || strings.Contains(program, " ") {
		return viaShell(program, "")
	}
	return "#!" + program
}

func entryPointScript(shebang string, ep archive.EntryPoint) []byte {
	first, _, _ := strings.Cut(ep.Func, ".")
	return []byte(shebang + "\n" +
		"# -*- coding: utf-8 -*-\n" +
		"import re\n" +
		"import sys\n" +
		"\n" +
		"from " + ep.Module + " import " + first + "\n" +
		"\n" +
		"if __name__ == '__main__':\n" +
		"\tsys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n" +
		"\tsys.exit(" + ep.Func + "())\n")
}
