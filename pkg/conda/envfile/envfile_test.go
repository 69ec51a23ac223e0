package envfile_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/envfile"
)

const sample = `name: analysis
channels:
  - conda-forge
  - nodefaults
  - conda-forge
platforms: [linux-64, osx-arm64]
category: dev
dependencies:
  - python >=3.12
  - libgcc  # [linux]
  - tool    # [osx and not x86_64]
  - plain   # just a remark
  - bioconda::samtools=1.16.1
  - pip
  - pip:
      - rich
      - "textual >=1"
variables:
  MODE: fast
  LEVEL: 3
prefix: /opt/env
extra: {}
`

func texts(f *envfile.File, platform string) (out []string) {
	for _, s := range f.Specs(platform) {
		out = append(out, s.String())
	}
	return out
}

func TestAFileIsReadWhole(t *testing.T) {
	f, err := envfile.Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "analysis" || f.Prefix != "/opt/env" || f.Category != "dev" || !f.NoDefaults || len(f.Platforms) != 2 {
		t.Errorf("%+v", f)
	}
	for _, c := range []struct {
		what      string
		want, got any
	}{
		{"channels", []string{"conda-forge"}, f.Channels},
		{"linux", []string{"python >=3.12", "libgcc", "plain", "bioconda::samtools=1.16.1", "pip"}, texts(f, "linux-64")},
		{"osx", []string{"python >=3.12", "tool", "plain", "bioconda::samtools=1.16.1", "pip"}, texts(f, "osx-arm64")},
		{"win", []string{"python >=3.12", "plain", "bioconda::samtools=1.16.1", "pip"}, texts(f, "win-64")},
		{"pip", []string{"rich", "textual >=1"}, f.Pip},
		{"variables", []envfile.Variable{{Name: "MODE", Value: "fast"}, {Name: "LEVEL", Value: "3"}}, f.Variables},
		{"warnings", []envfile.Warning{{Line: 22, Column: 1, Msg: `unknown key "extra"`}}, f.Warnings},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s:\n%s", c.what, diff)
		}
	}
	if d := f.Dependencies[1]; d.Line != 10 || d.Column != 5 || d.Selector != "linux" {
		t.Errorf("%+v", d)
	}
}

func TestSelectorsOfTheOtherKind(t *testing.T) {
	f, err := envfile.Parse([]byte("dependencies:\n- a\n- sel(unix): b\n- sel(win or (linux and aarch64)): c >=1\n"))
	if err != nil {
		t.Fatal(err)
	}
	for platform, want := range map[string]string{"linux-64": "a,b", "osx-64": "a,b", "win-64": "a,c >=1", "linux-aarch64": "a,b,c >=1"} {
		if got := strings.Join(texts(f, platform), ","); got != want {
			t.Errorf("%s: %s, want %s", platform, got, want)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "must be a map",
		"- a":                                "line 1, column 1: an environment file must be a map",
		"name: a b":                          "line 1, column 7: the name",
		"dependencies:\n- a[[":               "line 2, column 3: invalid match spec",
		"dependencies:\n- [a]":               "line 2, column 3: a dependency must be",
		"dependencies:\n- npm:\n  - x\n":     "line 2, column 3: unknown section \"npm\"",
		"dependencies:\n- a # [mars]\n":      "line 2, column 3: selector [mars]",
		"dependencies:\n- a # [linux and]\n": "something is missing",
		"dependencies:\n- a # [(linux]\n":    "not closed",
		"dependencies:\n- a # [linux osx]\n": "\"osx\" is too much",
		"dependencies:\n- a # [linux]\n- sel(unix): b\n": "line 3, column 14: selectors are written in two ways",
		"dependencies:\n- pip: [a]\n- pip: [b]\n":        "second section",
		"dependencies: a":        "dependencies must be a list",
		"channels: x":            "channels must be a list",
		"channels: ['']":         "a channel is empty",
		"platforms: [noarch]":    "no platform",
		"variables: [a]":         "variables must be a map",
		"variables: {'a b': c}":  "cannot be the name",
		"variables: {a: [b]}":    "variable a must be a string",
		"name: &x a":             "anchors",
		"name: a\nname: b":       "twice",
		"dependencies:\n\t- a\n": "line 2",
	} {
		_, err := envfile.Parse([]byte(text))
		var e *envfile.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPipWithoutPipIsAWarning(t *testing.T) {
	f, err := envfile.Parse([]byte("dependencies:\n- python\n- pip: [rich]\n"))
	if err != nil || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0].Msg, "pip") {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestAnExportCanBeReadAgain(t *testing.T) {
	e := envfile.Export{
		Name: "x", Channels: []string{"conda-forge"}, Packages: []envfile.Installed{{"zlib", "1.3", "h0_0"}, {"python", "3.10", "h1_0_cpython"}},
		Pip: []string{"rich==1.0"}, Variables: []envfile.Variable{{Name: "A", Value: "yes"}}, Prefix: "/opt/x",
	}
	want := "name: x\nchannels:\n- conda-forge\ndependencies:\n- python=3.10=h1_0_cpython\n- zlib=1.3=h0_0\n- pip:\n  - rich==1.0\nvariables:\n  A: 'yes'\nprefix: /opt/x\n"
	if diff := cmp.Diff(want, string(e.Bytes())); diff != "" {
		t.Error(diff)
	}
	f, err := envfile.Parse(e.Bytes())
	if err != nil || f.Variables[0].Value != "yes" || len(f.Dependencies) != 2 || f.Pip[0] != "rich==1.0" {
		t.Errorf("%+v, %v", f, err)
	}
	e.NoBuilds = true
	if !strings.Contains(string(e.Bytes()), "- python=3.10\n") {
		t.Errorf("%s", e.Bytes())
	}
}

// Every environment file of some thousands that people use must be read.
func TestRealFiles(t *testing.T) {
	archives, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "shared", "data", "06-envspecs", "*.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	if len(archives) == 0 {
		t.Skip("no data folder; the other tests still run")
	}
	n := 0
	for _, path := range archives {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		for tr := tar.NewReader(dec); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if ext := filepath.Ext(h.Name); ext != ".yml" && ext != ".yaml" {
				continue
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			f, err := envfile.Parse(data)
			if err != nil {
				t.Errorf("%s: %v", h.Name, err)
				continue
			}
			if n++; len(f.Dependencies) == 0 {
				t.Errorf("%s has no dependencies", h.Name)
			}
		}
	}
	if n < 2000 {
		t.Errorf("only %d files were read", n)
	}
}
