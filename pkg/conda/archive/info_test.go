package archive

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMetadataIsCheckedByField(t *testing.T) {
	for name, c := range map[string]struct{ file, body, member, field string }{
		"name":               {"info/index.json", strings.Replace(demoIndex, "demo", "evil", 1), indexFile, "name"},
		"version":            {"info/index.json", strings.Replace(demoIndex, "1.0", "1.1", 1), indexFile, "version"},
		"equal version":      {"info/index.json", strings.Replace(demoIndex, "1.0", "1.0.0", 1), indexFile, "version"},
		"build":              {"info/index.json", strings.Replace(demoIndex, `"build":"0"`, `"build":"1"`, 1), indexFile, "build"},
		"no build":           {"info/index.json", strings.Replace(demoIndex, `"build":"0",`, ``, 1), indexFile, "build"},
		"name is a number":   {"info/index.json", strings.Replace(demoIndex, `"demo"`, `7`, 1), indexFile, "name"},
		"subdir":             {"info/index.json", strings.Replace(demoIndex, "linux-64", "../x", 1), indexFile, "subdir"},
		"other subdir":       {"info/index.json", strings.Replace(demoIndex, "linux-64", "win-64", 1), indexFile, "subdir"},
		"noarch":             {"info/index.json", strings.Replace(demoIndex, "{", `{"noarch":"perl",`, 1), indexFile, "noarch"},
		"build number":       {"info/index.json", strings.Replace(demoIndex, `"build_number":0`, `"build_number":-1`, 1), indexFile, "build_number"},
		"depends":            {"info/index.json", strings.Replace(demoIndex, `"depends":[]`, `"depends":[1]`, 1), indexFile, "depends"},
		"site-packages path": {"info/index.json", strings.Replace(demoIndex, "{", `{"python_site_packages_path":"../x",`, 1), indexFile, "python_site_packages_path"},
		"twice the same key": {"info/index.json", strings.Replace(demoIndex, "{", `{"name":"demo",`, 1), indexFile, ""},
		"deep":               {"info/index.json", strings.Replace(demoIndex, "{", `{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+",", 1), indexFile, ""},
		"deep and unclosed":  {"info/index.json", strings.Repeat(`{"a":`, 500_000), indexFile, ""},
		"two values":         {"info/index.json", demoIndex + demoIndex, indexFile, ""},
		"not UTF-8":          {"info/index.json", strings.Replace(demoIndex, "{", "{\"x\":\"\xff\",", 1), indexFile, ""},
		"about":              {"info/about.json", `{`, aboutFile, ""},
		"deep about":         {"info/about.json", strings.Repeat("[", 100) + strings.Repeat("]", 100), aboutFile, ""},
		"run exports":        {"info/run_exports.json", `{"weak":[1]}`, runExportsFile, "weak"},
		"entry point":        {"info/link.json", `{"package_metadata_version":1,"noarch":{"type":"python","entry_points":["../../x = a:b"]}}`, linkFile, "noarch.entry_points"},
	} {
		t.Run(name, func(t *testing.T) {
			entries := []rawEntry{file(c.file, c.body)}
			if c.file != indexFile {
				entries = append(entries, file(indexFile, demoIndex))
			}
			_, err := inspect(t, demoConda, zipOf(metaMember(), infoZst(t, entries...)), Subdir("linux-64"))
			var e *Error
			if !errors.As(err, &e) || e.Member != c.member || e.Field != c.field {
				t.Errorf("got %v, want an error about %s of %s", err, c.field, c.member)
			}
		})
	}
	_, err := inspect(t, demoConda, zipOf(metaMember(), infoZst(t, file("info/about.json", "{}"))))
	refused(t, err, "info/index.json: the file is missing")
	_, err = inspect(t, demoConda, zipOf(metaMember(), infoZst(t, symlink("info/index.json", "about.json"))))
	refused(t, err, "regular file")
	_, err = inspect(t, "demo-1.0.conda", nil)
	refused(t, err, "filename")
}

func TestOldSpellingsAreUnderstood(t *testing.T) {
	body := strings.Replace(demoIndex, `"depends":[]`, `"depends":"python","constrains":null,"track_features":"a, b c",
		"features":["x"],"timestamp":1500000000,"license":["MIT","BSD"],"noarch":true,"arch":null,"unknown":{"a":1}`, 1)
	info, err := inspect(t, demoConda, zipOf(metaMember(), infoZst(t, file(indexFile, body), file(runExportsFile, `["demo >=1"]`), file(aboutFile, `{"home":["a","b"],"summary":null,"description":7}`))))
	if err != nil {
		t.Fatal(err)
	}
	want := Index{
		Name: "demo", Version: "1.0", Build: "0", Subdir: "linux-64", Depends: StringList{"python"},
		TrackFeatures: Features{"a", "b", "c"}, Features: Features{"x"}, Timestamp: 1500000000000, License: "MIT, BSD", Noarch: NoarchGeneric,
	}
	if diff := cmp.Diff(want, info.Index); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&RunExports{Weak: StringList{"demo >=1"}}, info.RunExports); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&About{Home: "a, b"}, info.About); diff != "" {
		t.Error(diff)
	}
	if string(info.IndexJSON) != body {
		t.Error("the raw bytes changed")
	}
	for in, want := range map[string]Noarch{`"python"`: NoarchPython, `"generic"`: NoarchGeneric, `false`: NotNoarch, `null`: NotNoarch, `""`: NotNoarch} {
		info, err := inspect(t, demoConda, zipOf(metaMember(), infoZst(t, file(indexFile, strings.Replace(demoIndex, "{", `{"noarch":`+in+",", 1)))))
		if err != nil || info.Index.Noarch != want {
			t.Errorf("noarch %s: %v", in, err)
		}
	}
}

func TestEntryPoints(t *testing.T) {
	got, err := ParseEntryPoint(" py.test = _pytest.config:console.main ")
	if diff := cmp.Diff(EntryPoint{"py.test", "_pytest.config", "console.main"}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, s := range []string{
		"", "a", "a=b", "=b:c", "a=:c", "a=b:", "a/b=c:d", `a\b=c:d`, "../a=c:d", ".a=c:d", "-a=c:d", "a b=c:d",
		"a\n=c:d", "a\x00b=c:d", "a=c:d;import os", "a=c.:d", "a=c d:e", "a=c:d()", "a=os\nimport x:y", "a=c:d:e", "a=1c:d", "C:a=b:c",
	} {
		if _, err := ParseEntryPoint(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestLegacyLists(t *testing.T) {
	info := &Info{
		Files:     []byte("bin/a\nlib/b c\nlib/d\nlib/e\r\n"),
		HasPrefix: []byte("bin/a\n\"/opt/x\" binary \"lib/b c\"\n/opt/y text lib/d\n"),
		NoLink:    []byte("lib/e\n"),
	}
	got, err := info.Paths(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []PathEntry{
		{Path: "bin/a", Type: PathHardLink, Placeholder: legacyPlaceholder, Mode: ModeText},
		{Path: "lib/b c", Type: PathHardLink, Placeholder: "/opt/x", Mode: ModeBinary},
		{Path: "lib/d", Type: PathHardLink, Placeholder: "/opt/y", Mode: ModeText},
		{Path: "lib/e", Type: PathHardLink, NoLink: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, s := range []string{"a b", "/opt x y", `"open text a`, "a text b c"} {
		if _, err := ParseHasPrefix([]byte(s)); err == nil {
			t.Errorf("has_prefix %q is accepted", s)
		}
	}
	if _, err := (&Info{Files: []byte("../x\n")}).Paths(Limits{}); err == nil {
		t.Error("files may leave the package")
	}
}

func TestPathsAreChecked(t *testing.T) {
	for body, field := range map[string]string{
		`{"paths_version":2,"paths":[]}`:                                                         "paths_version",
		`{"paths_version":1,"paths":[{"_path":"../x"}]}`:                                         "_path",
		`{"paths_version":1,"paths":[{"_path":"/x"}]}`:                                           "_path",
		`{"paths_version":1,"paths":[{"_path":"x/"}]}`:                                           "_path",
		`{"paths_version":1,"paths":[{"_path":"."}]}`:                                            "_path",
		`{"paths_version":1,"paths":[{"_path":"conda-meta/history"}]}`:                           "_path",
		`{"paths_version":1,"paths":[{"_path":"x"},{"_path":"x"}]}`:                              "_path",
		`{"paths_version":1,"paths":[{"_path":"x","path_type":"fifo"}]}`:                         "path_type",
		`{"paths_version":1,"paths":[{"_path":"x","file_mode":"?"}]}`:                            "file_mode",
		`{"paths_version":1,"paths":[{"_path":"x","sha256":"` + strings.Repeat("A", 64) + `"}]}`: "sha256",
	} {
		_, err := ParsePaths([]byte(body), Limits{})
		var e *Error
		if !errors.As(err, &e) || e.Field != field || e.Member != pathsFile {
			t.Errorf("%s: %v", body, err)
		}
	}
}
