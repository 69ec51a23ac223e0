package sample

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// placeholder stands in the files where an installer puts its prefix. It has 255 bytes, as the field's packages have:
// the longest prefix that a binary file can take.
var placeholder = "/opt/sample/build/_h_env" + strings.Repeat("_placehold", 23) + "_"

// sitePackages is where the sample's python keeps modules (CEP 17).
const sitePackages = "lib/python3.12/site-packages"

// firstBuild is the time of the first package, in milliseconds; each later one is an hour younger.
const firstBuild = 1_750_000_000_000

// contents makes a package's metadata and files.
func (s spec) contents(rng *rand.Rand) (archive.Meta, []archive.Input) {
	about := s.about()
	meta := archive.Meta{
		Index: archive.Index{
			Name: s.name, Version: s.version, Build: s.build, BuildNumber: s.buildNumber, Subdir: s.subdir,
			Depends: s.depends, License: "BSD-3-Clause",
			Timestamp: archive.Millis(firstBuild + int64(s.number)*3_600_000),
		},
		About: &archive.About{
			Summary: archive.Text(about.summary), License: "BSD-3-Clause",
			Home: archive.Text("https://example.org/" + s.name),
		},
		Extra: map[string][]byte{"info/licenses/LICENSE": []byte("Sample text. Do with it what you like.\n")},
	}
	if meta.Index.Depends == nil {
		meta.Index.Depends = archive.StringList{}
	}
	// Random bytes do not compress: they keep the size of a package in its bytes, and its bytes its own.
	unique := archive.Input{Path: "share/" + s.name + "/unique.bin", Data: random(rng, 512+rng.IntN(16<<10))}
	switch s.kind {
	case library:
		return s.library(meta, unique, rng)
	case tool:
		return s.tool(meta, unique, rng)
	case interpreter:
		return s.interpreter(meta, unique)
	case module:
		return s.module(meta, unique, rng)
	case purePython:
		return s.purePython(meta, rng)
	}
	meta.Index.Noarch = archive.NoarchGeneric
	text := fmt.Sprintf("# %s %s\n%s\n", s.name, s.version, hex.EncodeToString(random(rng, 64)))
	return meta, []archive.Input{unique, {Path: "share/" + s.name + "/table.txt", Data: []byte(text)}}
}

func (s spec) library(meta archive.Meta, unique archive.Input, rng *rand.Rand) (archive.Meta, []archive.Input) {
	arch(&meta)
	meta.RunExports = &archive.RunExports{Weak: archive.StringList{s.name + " >=" + s.version}}
	file := s.name + ".so." + s.version
	return meta, []archive.Input{
		unique,
		{Path: "lib/" + file, Mode: 0o755, Data: binary(rng, "/share/"+s.name), Placeholder: placeholder, FileMode: archive.ModeBinary},
		{Path: "lib/" + s.name + ".so", Kind: archive.Symlink, Link: file},
		{Path: "include/" + s.name + ".h", Data: []byte("int " + strings.ReplaceAll(s.name, "-", "_") + "(void);\n")},
		{Path: "lib/pkgconfig/" + s.name + ".pc", Data: []byte("prefix=" + placeholder + "\nName: " + s.name + "\nVersion: " + s.version + "\n"), Placeholder: placeholder, FileMode: archive.ModeText},
	}
}

func (s spec) tool(meta archive.Meta, unique archive.Input, rng *rand.Rand) (archive.Meta, []archive.Input) {
	arch(&meta)
	script := "#!/bin/sh\n# finds its data below the prefix\nexec cat " + placeholder + "/etc/" + s.name + ".conf\n"
	return meta, []archive.Input{
		unique,
		{Path: "bin/" + s.name, Mode: 0o755, Data: []byte(script), Placeholder: placeholder, FileMode: archive.ModeText},
		{Path: "bin/" + s.name + "-engine", Mode: 0o755, Data: binary(rng, "/etc/"+s.name+".conf"), Placeholder: placeholder, FileMode: archive.ModeBinary},
		{Path: "etc/" + s.name + ".conf", Data: []byte("root = " + placeholder + "\nversion = " + s.version + "\n"), Placeholder: placeholder, FileMode: archive.ModeText, NoLink: true},
	}
}

func (s spec) interpreter(meta archive.Meta, unique archive.Input) (archive.Meta, []archive.Input) {
	arch(&meta)
	meta.Index.PythonSitePackagesPath = sitePackages
	script := "#!/bin/sh\n# The sample's python: it can be installed and asked for its version, no more.\n" +
		"case \"$1\" in\n-V|--version) echo 'Python " + s.version + "' ;;\n" +
		"*) echo '" + placeholder + " holds the sample channel, whose python runs nothing' >&2; exit 1 ;;\nesac\n"
	return meta, []archive.Input{
		unique,
		{Path: "bin/python3.12", Mode: 0o755, Data: []byte(script), Placeholder: placeholder, FileMode: archive.ModeText},
		{Path: "bin/python3", Kind: archive.Symlink, Link: "python3.12"},
		{Path: "bin/python", Kind: archive.Symlink, Link: "python3.12"},
		{Path: sitePackages + "/README.txt", Data: []byte("Modules go here.\n")},
	}
}

func (s spec) module(meta archive.Meta, unique archive.Input, rng *rand.Rand) (archive.Meta, []archive.Input) {
	arch(&meta)
	return meta, append([]archive.Input{
		unique,
		{Path: sitePackages + "/" + s.name + "/_core.cpython-312-x86_64-linux-gnu.so", Mode: 0o755, Data: binary(rng, "/lib"), Placeholder: placeholder, FileMode: archive.ModeBinary},
	}, s.sources(sitePackages, rng)...)
}

func (s spec) purePython(meta archive.Meta, rng *rand.Rand) (archive.Meta, []archive.Input) {
	meta.Index.Noarch = archive.NoarchPython
	meta.Link = &archive.Link{Version: 1, Noarch: archive.LinkNoarch{
		Type: archive.NoarchPython, EntryPoints: archive.StringList{s.name + " = " + s.importName() + ".cli:main"},
	}}
	return meta, append(s.sources("site-packages", rng),
		archive.Input{Path: "python-scripts/" + s.name + "-check", Mode: 0o755, Data: []byte("#!/bin/sh\necho " + s.name + " " + s.version + "\n")})
}

// sources are a python module's files with its dist-info.
func (s spec) sources(root string, rng *rand.Rand) []archive.Input {
	name := s.importName()
	info := root + "/" + name + "-" + s.version + ".dist-info/"
	return []archive.Input{
		{Path: root + "/" + name + "/__init__.py", Data: []byte("__version__ = " + `"` + s.version + `"` + "\n")},
		{Path: root + "/" + name + "/cli.py", Data: []byte("def main():\n    print(\"" + s.name + " " + s.version + "\")\n")},
		{Path: root + "/" + name + "/table.py", Data: []byte("KEYS = \"" + hex.EncodeToString(random(rng, 1024+rng.IntN(4096))) + "\"\n")},
		{Path: info + "METADATA", Data: []byte("Metadata-Version: 2.1\nName: " + s.name + "\nVersion: " + s.version + "\n")},
		{Path: info + "INSTALLER", Data: []byte("conda")},
	}
}

func (s spec) importName() string { return strings.ReplaceAll(s.name, "-", "_") }

func arch(meta *archive.Meta) {
	x86, linux := "x86_64", "linux"
	meta.Index.Arch, meta.Index.Platform = &x86, &linux
}

// binary is a file that holds a path below the prefix as a C string between other bytes, as compilers leave it.
func binary(rng *rand.Rand, path string) []byte {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00")
	b.Write(random(rng, 2048))
	b.WriteByte(0)
	b.WriteString(placeholder + path)
	b.WriteByte(0)
	b.Write(random(rng, 1024))
	return b.Bytes()
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := rng.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}
