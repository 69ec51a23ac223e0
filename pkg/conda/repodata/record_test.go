package repodata

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRecord(t *testing.T) {
	t.Run("every key has its field, and the bytes are kept", func(t *testing.T) {
		raw := []byte(`{"arch":"x86_64","build":"py_0","build_number":3,"constrains":["b >1"],"depends":["a","c 1.*"],` +
			`"extra_depends":{"test":["pytest"]},"features":"f","flags":["gpu"],"indexed_timestamp":1700000000001,` +
			`"legacy_bz2_md5":"00112233445566778899aabbccddeeff","legacy_bz2_size":8,"license":"MIT","license_family":"MIT",` +
			`"md5":"00112233445566778899AABBCCDDEEFF","name":"p","noarch":"python","platform":"linux",` +
			`"python_site_packages_path":"lib/python3.14t/site-packages","revoked":true,"run_exports":{"weak":["p >=1"]},` +
			`"sha256":"` + strings.Repeat("0f", 32) + `","size":18446744073709551615,"subdir":"noarch","timestamp":1700000000000,` +
			`"track_features":["x"],"unknown":{"k":1.0},"url":"../p.whl","version":"1.0"}`)
		got, err := ParseRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, Record{
			Name: "p", Version: "1.0", Build: "py_0", BuildNumber: 3,
			Depends: []string{"a", "c 1.*"}, Constrains: []string{"b >1"},
			ExtraDepends: map[string][]string{"test": {"pytest"}}, Flags: []string{"gpu"},
			Subdir: "noarch", NoArch: NoArchPython, Timestamp: 1700000000000, IndexedTimestamp: 1700000000001,
			TrackFeatures: []string{"x"}, Features: "f", License: "MIT", LicenseFamily: "MIT",
			Size: 1<<64 - 1, MD5: "00112233445566778899aabbccddeeff", SHA256: strings.Repeat("0f", 32),
			LegacyBz2MD5: "00112233445566778899aabbccddeeff", LegacyBz2Size: 8,
			PythonSitePackagesPath: "lib/python3.14t/site-packages", Arch: "x86_64", Platform: "linux", URL: "../p.whl",
			Revoked: true, RunExports: []byte(`{"weak":["p >=1"]}`), Raw: raw,
		}, got)
	})

	with := func(kv string) string { return `{"name":"a","version":"1","build":"0",` + kv + `}` }
	t.Run("the oddities of real channels are tolerated", func(t *testing.T) {
		base := Record{Name: "a", Version: "1", Build: "0"}
		for _, tc := range []struct {
			kv   string
			edit func(*Record)
		}{
			{`"noarch":"generic"`, func(r *Record) { r.NoArch = NoArchGeneric }},
			{`"noarch":true`, func(r *Record) { r.NoArch = NoArchGeneric }},
			{`"noarch":false`, nil},
			{`"noarch":null`, nil},
			{`"noarch":""`, nil},
			{`"depends":null`, nil},
			{`"depends":[]`, nil},
			{`"constrains":null`, nil},
			{`"track_features":"mkl, nomkl  x"`, func(r *Record) { r.TrackFeatures = []string{"mkl", "nomkl", "x"} }},
			{`"track_features":""`, nil},
			{`"track_features":null`, nil},
			{`"md5":null,"sha256":null`, nil},
			{`"md5":"","sha256":""`, nil},
			{`"timestamp":1505856869`, func(r *Record) { r.Timestamp = 1505856869000 }},
			{`"timestamp":1505856869.25`, func(r *Record) { r.Timestamp = 1505856869250 }},
			{`"timestamp":1.505856869123e12`, func(r *Record) { r.Timestamp = 1505856869123 }},
			{`"timestamp":null`, nil},
			{`"timestamp":0`, nil},
			{`"build_number":"7"`, func(r *Record) { r.BuildNumber = 7 }},
			{`"build_number":7.0`, func(r *Record) { r.BuildNumber = 7 }},
			{`"size":null`, nil},
			{`"license":["MIT"],"arch":null,"platform":7,"features":{}`, nil},
			{`"license":"a\u0062\n"`, func(r *Record) { r.License = "ab\n" }},
			{`"run_exports":{}`, func(r *Record) { r.RunExports = []byte("{}") }},
		} {
			want := base
			if tc.edit != nil {
				tc.edit(&want)
			}
			raw := with(tc.kv)
			want.Raw = []byte(raw)
			got, err := ParseRecord([]byte(raw))
			if err != nil {
				t.Errorf("%s: %v", tc.kv, err)
				continue
			}
			diff(t, want, got)
		}
	})
	t.Run("what a solver would stumble over is an error that names the key", func(t *testing.T) {
		for _, tc := range []struct{ kv, path string }{
			{`"depends":"a"`, "/depends"},
			{`"depends":[1]`, "/depends"},
			{`"constrains":{}`, "/constrains"},
			{`"noarch":"ruby"`, "/noarch"},
			{`"noarch":1`, "/noarch"},
			{`"timestamp":"soon"`, "/timestamp"},
			{`"timestamp":-1`, "/timestamp"},
			{`"timestamp":1e300`, "/timestamp"},
			{`"build_number":-1`, "/build_number"},
			{`"build_number":1.5`, "/build_number"},
			{`"build_number":[]`, "/build_number"},
			{`"size":1e30`, "/size"},
			{`"md5":"zz"`, "/md5"},
			{`"sha256":"` + strings.Repeat("g", 64) + `"`, "/sha256"},
			{`"sha256":7`, "/sha256"},
			{`"extra_depends":{"a":"b"}`, "/extra_depends"},
			{`"extra_depends":[]`, "/extra_depends"},
			{`"name":null`, "/name"},
			{`"name":""`, "/name"},
			{`"version":1.0`, "/version"},
			{`"build":0`, "/build"},
		} {
			_, err := ParseRecord([]byte(with(tc.kv)))
			var e *Error
			if !errors.As(err, &e) || e.Path != tc.path {
				t.Errorf("%s: %v", tc.kv, err)
			}
		}
	})
	t.Run("half a record is an error, not a panic", func(t *testing.T) {
		whole := with(`"depends":["a\n",{"x":1}],"n":-1.5e3,"t":true`)
		for i := range whole {
			if _, err := ParseRecord([]byte(whole[:i])); err == nil {
				t.Errorf("accepted %q", whole[:i])
			}
		}
	})
}

func TestSetKey(t *testing.T) {
	for _, tc := range []struct{ name, raw, key, value, want string }{
		{"replaces the value only", `{ "a" : 1.50 , "b":[1, 2],"c":"\u00e9" }`, "b", `{"x":1}`, `{ "a" : 1.50 , "b":{"x":1},"c":"\u00e9" }`},
		{"finds an escaped key", `{"\u0061":1}`, "a", `2`, `{"\u0061":2}`},
		{"inserts in sorted order", `{"a":1,"c":3}`, "b", `2`, `{"a":1,"b":2,"c":3}`},
		{"inserts in front", `{"b":1}`, "a", `2`, `{"a":2,"b":1}`},
		{"appends behind sorted keys", `{"a":1}`, "b", `2`, `{"a":1,"b":2}`},
		{"appends if keys are unsorted", `{"z":1,"a":1 }`, "b", `2`, `{"z":1,"a":1,"b":2 }`},
		{"fills an empty object", `{ }`, "a", `"x"`, `{"a":"x" }`},
		{"keeps pretty lines", "{\n  \"a\": 1,\n  \"c\": 2\n}", "b", `0`, "{\n  \"a\": 1,\n  \"b\":0,\"c\": 2\n}"},
		{"quotes a key", `{}`, `a"b`, `1`, `{"a\"b":1}`},
		{"does not look inside values", `{"a":{"b":1},"c":"\"b\":2"}`, "b", `3`, `{"a":{"b":1},"b":3,"c":"\"b\":2"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw := []byte(tc.raw)
			got, err := SetKey(raw, tc.key, []byte(tc.value))
			if err != nil {
				t.Fatal(err)
			}
			diff(t, tc.want, string(got))
			diff(t, tc.raw, string(raw))
			diff(t, tc.value, string(Key(got, tc.key)))
		})
	}
	t.Run("refuses what would break the record", func(t *testing.T) {
		for _, tc := range [][3]string{
			{`{"a":1}`, "a", `1,"b":2`},
			{`{"a":1}`, "a", ``},
			{`[1]`, "a", `1`},
			{`{"a":1,"a":2}`, "a", `1`},
			{`{"a":1`, "b", `1`},
			{`{}`, "\xff", `1`},
		} {
			if got, err := SetKey([]byte(tc[0]), tc[1], []byte(tc[2])); err == nil {
				t.Errorf("%q gave %s", tc, got)
			}
		}
	})
}

func TestDeleteKey(t *testing.T) {
	for _, tc := range [][3]string{
		{`{"a":1,"b":2,"c":3}`, "a", `{"b":2,"c":3}`},
		{`{"a":1,"b":2,"c":3}`, "b", `{"a":1,"c":3}`},
		{`{"a":1,"b":2,"c":3 }`, "c", `{"a":1,"b":2 }`},
		{`{ "a":1 }`, "a", `{  }`},
		{"{\n  \"a\": 1,\n  \"b\": 2\n}", "b", "{\n  \"a\": 1\n}"},
		{"{\n  \"a\": 1,\n  \"b\": 2\n}", "a", "{\n  \"b\": 2\n}"},
		{`{"a":{"b":1}}`, "b", `{"a":{"b":1}}`},
	} {
		got, err := DeleteKey([]byte(tc[0]), tc[1])
		if err != nil {
			t.Errorf("%q: %v", tc, err)
		}
		diff(t, tc[2], string(got))
	}
	if _, err := DeleteKey([]byte(`{"a":1,"a":2}`), "a"); err == nil {
		t.Error("deleted one of two")
	}
}

func TestHostedRecord(t *testing.T) {
	facts := FileFacts{Size: 1234, MD5: [16]byte{1}, SHA256: [32]byte{2}, Subdir: "linux-64"}
	index := `{
  "version": "1.0", "name": "p", "build": "0", "build_number": 0, "x": {"b": 1.50, "a": "\u00e9"},
  "size": 7, "indexed_timestamp": 5, "subdir": "noarch"
}`
	t.Run("keys are sorted, values kept as spelled, facts win", func(t *testing.T) {
		got, err := HostedRecord([]byte(index), facts)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"build":"0","build_number":0,"md5":"01000000000000000000000000000000","name":"p",` +
			`"sha256":"02` + strings.Repeat("00", 31) + `","size":1234,"subdir":"linux-64","version":"1.0","x":{"b":1.50,"a":"\u00e9"}}`
		diff(t, want, string(got))
	})
	t.Run("times are written when known", func(t *testing.T) {
		f := facts
		f.IndexedTimestamp, f.TimeModified = 1700000000000, 1700000000
		got, err := HostedRecord([]byte(index), f)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "1700000000000", string(Key(got, "indexed_timestamp")))
		diff(t, "1700000000", string(Key(got, "time_modified")))
	})
	t.Run("the subdir comes from subdir, else from arch and platform", func(t *testing.T) {
		for _, tc := range [][2]string{
			{`"subdir":"osx-arm64","arch":"x86_64","platform":"linux"`, "osx-arm64"},
			{`"arch":"x86_64","platform":"linux"`, "linux-64"},
			{`"arch":"x86","platform":"win"`, "win-32"},
			{`"arch":"aarch64","platform":"linux"`, "linux-aarch64"},
			{`"arch":null,"platform":null`, "noarch"},
			{`"noarch":"python","arch":"x86_64","platform":"linux"`, "noarch"},
			{`"platform":"linux"`, ""},
		} {
			f := facts
			f.Subdir = ""
			got, err := HostedRecord([]byte(`{"name":"p","version":"1","build":"0",`+tc[0]+`}`), f)
			if tc[1] == "" {
				if err == nil {
					t.Errorf("%s: accepted", tc[0])
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			diff(t, `"`+tc[1]+`"`, string(Key(got, "subdir")))
		}
	})
	t.Run("an index.json that is none is refused", func(t *testing.T) {
		for _, in := range []string{
			``, `[]`, `{"name":"p"}`, `{"name":"p","version":"1","build":"0","name":"q"}`,
			`{"name":"p","version":"1","build":NaN}`, "{\"name\":\"p\xff\",\"version\":\"1\",\"build\":\"0\"}", `{} {}`,
		} {
			if got, err := HostedRecord([]byte(in), facts); err == nil {
				t.Errorf("%q gave %s", in, got)
			}
		}
	})
}
