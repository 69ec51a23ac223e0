package install

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What condas of several years wrote, shortened.
const condaRecord = `{
  "arch": "x86_64", "build": "py310_0", "build_number": 0, "channel": "https://host/pkgs/main/linux-64", "constrains": [],
  "depends": ["python >=3.10,<3.11.0a0"], "extracted_package_dir": "/opt/conda/pkgs/six-1.16.0-py310_0", "features": "", "files": ["lib/six.py", "lib/__pycache__/six.cpython-310.pyc"],
  "fn": "six-1.16.0-py310_0.conda", "legacy_bz2_md5": "", "link": {"source": "/opt/conda/pkgs/six-1.16.0-py310_0", "type": 1}, "license": "MIT",
  "md5": "d41d8cd98f00b204e9800998ecf8427e", "name": "six", "package_tarball_full_path": "/opt/conda/pkgs/six.conda",
  "paths_data": {"paths": [
    {"_path": "lib/six.py", "path_type": "hardlink", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "sha256_in_prefix": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size_in_bytes": 0},
    {"_path": "lib/__pycache__/six.cpython-310.pyc", "path_type": "pyc_file"},
    {"_path": "bin/x", "path_type": "softlink", "no_link": true, "file_mode": "text", "prefix_placeholder": "/opt/p"}
  ], "paths_version": 1},
  "platform": null, "requested_spec": "None", "subdir": "linux-64", "timestamp": 1640995200000, "track_features": "a b", "unknown": {"kept": [1, 2]}, "url": "https://host/six.conda", "version": "1.16.0"
}`

func TestRecordsOfOtherToolsAreReadAndKept(t *testing.T) {
	r, err := ParseRecord([]byte(condaRecord))
	if err != nil {
		t.Fatal(err)
	}
	if r.RequestedSpecs != nil || r.Link.Type != LinkHard || len(r.Paths) != 3 || r.Paths[1].Type != PycFile || !r.Paths[2].NoLink || r.Timestamp != 1640995200000 {
		t.Errorf("%+v", r)
	}
	data, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, again, cmpopts.IgnoreFields(Record{}, "Record.Raw", "RequestedSpecs", "hasPaths")); d != "" {
		t.Error(d)
	}
	for _, want := range []string{"\"unknown\": {\n    \"kept\": [\n      1,\n      2\n    ]\n  }", `"track_features": "a b"`, "\"requested_specs\": []"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("there is no %s in\n%s", want, data)
		}
	}
	for _, gone := range []string{"platform", "requested_spec\"", "constrains"} {
		if strings.Contains(string(data), `"`+gone) {
			t.Errorf("there is %s in\n%s", gone, data)
		}
	}
}

func TestOldRecordsListFilesOnly(t *testing.T) {
	r, err := ParseRecord([]byte(`{"name": "x", "version": "1", "build": "0", "files": ["bin/x"], "requested_spec": "x >=1"}`))
	if err != nil || cmp.Diff([]Path{{Path: "bin/x", Type: HardLink}}, r.Paths) != "" || cmp.Diff([]string{"x >=1"}, r.RequestedSpecs) != "" {
		t.Errorf("%v %+v", err, r)
	}
}

func TestBrokenRecordsAreNamed(t *testing.T) {
	dir := t.TempDir()
	meta := filepath.Join(dir, "conda-meta")
	if err := os.Mkdir(meta, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(meta, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("._x-1-0.json", "\x00\x05\x16\x07")
	put("x-1-0.json", `{"name": "x", "version": "1", "build": "0"}`)
	if got, err := Read(dir); err != nil || len(got) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	for text, why := range map[string]string{
		"{":                                      "",
		"\xff":                                   "",
		`{"name": "y"}`:                          "version",
		`{"name":"y","version":"1","build":"0"}`: "should be called",
		`{"name":"../y","version":"1","build":"0"}`:                                                              "",
		`{"name":"b","version":"1","build":"0","files":["../x"]}`:                                                "clean",
		`{"name":"b","version":"1","build":"0","files":["conda-meta/history"]}`:                                  "conda-meta",
		`{"name":"b","version":"1","build":"0","paths_data":{"paths":[{"_path":"a","original_path":"/etc/x"}]}}`: "below the prefix",
	} {
		put("b-1-0.json", text)
		_, err := Read(dir)
		if err == nil || !strings.Contains(err.Error(), "b-1-0.json") || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRecordsOfTheDataAreRead(t *testing.T) {
	root := filepath.Join("..", "..", "..", "..", "shared", "data", "03-packages", "conda-test-recipes", "corrupt")
	if _, err := os.Stat(root); err != nil {
		t.Skip("the data is not here")
	}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || e.Name() != "conda-meta" {
			return err
		}
		_, rerr := Read(filepath.Dir(name))
		if corrupt := !strings.Contains(name, "dot_underscore"); corrupt != (rerr != nil) {
			t.Errorf("%s: %v", name, rerr)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHistoryIsReadAndContinued(t *testing.T) {
	conda := "==> 2024-01-02 03:04:05 <==\n# cmd: conda create -n x 'python>=3'\n# conda version: 24.1.0\n+defaults/linux-64::python-3.12.0-0\n" +
		"-defaults/linux-64::python-3.11.0-0\n# update specs: ['python[version=\\'>=3\\']', \"numpy\"]\nsomething new\n"
	want := []Revision{{
		Time: "2024-01-02 03:04:05", Command: "conda create -n x 'python>=3'", Tool: "conda version: 24.1.0",
		Removed: []string{"defaults/linux-64::python-3.11.0-0"}, Added: []string{"defaults/linux-64::python-3.12.0-0"},
		Requests: []Request{{"update", []string{"python[version='>=3']", "numpy"}}},
	}}
	if d := cmp.Diff(want, ParseHistory([]byte(conda))); d != "" {
		t.Error(d)
	}
	next := Revision{Time: "2026-01-01 00:00:00", Command: "a\nb", Tool: "entrepot version: 1", Added: []string{"x"}, Requests: []Request{{"update", []string{"it's", `a\b`, "c\nd"}}}}
	got := ParseHistory(next.append([]byte(conda)))
	next.Command = "a b"
	if d := cmp.Diff(next, got[1]); d != "" {
		t.Error(d)
	}
}

func TestPathsSortByComponents(t *testing.T) {
	for _, c := range [][2]string{{"a/b", "a-b"}, {"a", "a/b"}, {"a/b", "a/c"}, {"hello/x", "hello-1.dist-info/x"}, {"a", "b"}} {
		if comparePaths(c[0], c[1]) >= 0 || comparePaths(c[1], c[0]) <= 0 || comparePaths(c[0], c[0]) != 0 {
			t.Errorf("%q does not come before %q", c[0], c[1])
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(condaRecord))
	f.Add([]byte(`{"name": "x", "version": "1", "build": "0", "files": ["bin/x"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		for _, p := range r.Paths {
			if !filepath.IsLocal(p.Path) || !filepath.IsLocal(p.Wanted()) {
				t.Fatalf("%q leaves the prefix", p.Path)
			}
		}
		if filepath.Base(r.MetaName()) != r.MetaName() {
			t.Fatalf("%q is no file name", r.MetaName())
		}
		out, err := r.Bytes()
		if err != nil {
			t.Fatalf("cannot be written: %v", err)
		}
		again, err := ParseRecord(out)
		if err != nil {
			t.Fatalf("cannot be read again: %v\n%s", err, out)
		}
		twice, err := again.Bytes()
		if err != nil || !bytes.Equal(out, twice) {
			t.Fatalf("another text the second time: %v\n%s\n%s", err, out, twice)
		}
	})
}

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"old":["a"],"new":["b/c"],"dirs":["b"],"keep":[],"remove":["x-1-0.json"],"write":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parseJournal(data)
		if err != nil {
			return
		}
		for _, list := range [][]string{j.Old, j.New, j.Dirs, j.Keep, j.Noarch, j.Remove, j.Write} {
			for _, p := range list {
				if !filepath.IsLocal(p) {
					t.Fatalf("%q leaves the prefix", p)
				}
			}
		}
		out, err := j.bytes()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseJournal(out); err != nil || cmp.Diff(j, again, cmpopts.EquateEmpty()) != "" {
			t.Fatalf("%v\n%s", err, cmp.Diff(j, again))
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add("==> 2024-01-02 03:04:05 <==\n# cmd: x\n+a\n-b\n# update specs: ['a', \"b\"]\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range ParseHistory([]byte(text)) {
			if r.Time == "" {
				continue
			}
			again := ParseHistory(r.append(nil))
			if len(again) != 1 || len(again[0].Added) != len(r.Added) || len(again[0].Removed) != len(r.Removed) || len(again[0].Requests) != len(r.Requests) {
				t.Fatalf("%+v becomes %+v", r, again)
			}
		}
	})
}
