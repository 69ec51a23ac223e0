package repodata

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestRunExportsAreListed(t *testing.T) {
	var out bytes.Buffer
	w := NewRunExportsWriter(&out, "linux-64")
	for _, r := range []struct {
		b   Bucket
		fn  string
		raw string
	}{
		{TarBz2, "a-1-0.tar.bz2", `{}`},
		{TarBz2, "b-1-0.tar.bz2", `[ "b >=1" ]`},
		{TarBz2, "c-1-0.tar.bz2", ``},
		{TarBz2, "d-1-0.tar.bz2", `null`},
		{Conda, "a-1-0.conda", `"a"`},
		{Conda, "b-1-0.conda", "{\n  \"weak\": [\"b >=1,<2\"],\n \"strong_constrains\": [] }"},
	} {
		if err := w.Record(r.b, r.fn, []byte(r.raw)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("the second close: %v", err)
	}
	diff(t, `{"info":{"arch":"x86_64","platform":"linux","subdir":"linux-64","version":0},"packages":{"a-1-0.tar.bz2":{"run_exports":{}},`+
		`"b-1-0.tar.bz2":{"run_exports":{"weak":["b >=1"]}}},"packages.conda":{"a-1-0.conda":{"run_exports":{"weak":["a"]}},`+
		`"b-1-0.conda":{"run_exports":{"weak":["b >=1,<2"],"strong_constrains":[]}}}}`, out.String())
	if w.Records() != 4 {
		t.Errorf("%d are listed", w.Records())
	}
}

func TestRunExportsOfAnEmptySubdir(t *testing.T) {
	for subdir, info := range map[string]string{
		"noarch":        `{"arch":"noarch","platform":"noarch","subdir":"noarch","version":0}`,
		"win-32":        `{"arch":"x86","platform":"win","subdir":"win-32","version":0}`,
		"linux-aarch64": `{"arch":"aarch64","platform":"linux","subdir":"linux-aarch64","version":0}`,
	} {
		var out bytes.Buffer
		if err := NewRunExportsWriter(&out, subdir).Close(); err != nil {
			t.Fatal(err)
		}
		diff(t, `{"info":`+info+`,"packages":{},"packages.conda":{}}`, out.String())
	}
}

func TestRunExportsThatAreRefused(t *testing.T) {
	type record struct {
		b       Bucket
		fn, raw string
	}
	for name, records := range map[string][]record{
		"out of order":         {{TarBz2, "b-1-0.tar.bz2", `{}`}, {TarBz2, "a-1-0.tar.bz2", `{}`}},
		"twice":                {{Conda, "b-1-0.conda", `{}`}, {Conda, "b-1-0.conda", `{}`}},
		"a bucket that closed": {{Conda, "b-1-0.conda", `{}`}, {TarBz2, "c-1-0.tar.bz2", `{}`}},
		"v3":                   {{V3Conda, "b-1-0", `{}`}},
		"no JSON":              {{Conda, "b-1-0.conda", `{`}},
		"a number":             {{Conda, "b-1-0.conda", `7`}},
	} {
		w := NewRunExportsWriter(&bytes.Buffer{}, "noarch")
		var err error
		for _, r := range records {
			err = w.Record(r.b, r.fn, []byte(r.raw))
		}
		if err == nil || w.Close() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	w := NewRunExportsWriter(&bytes.Buffer{}, "noarch")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Record(Conda, "a-1-0.conda", []byte(`{}`)) == nil {
		t.Error("a record after the end is taken")
	}
}

func TestAnOddNameDoesNotBreakTheDocument(t *testing.T) {
	var out bytes.Buffer
	w := NewRunExportsWriter(&out, "noarch")
	if err := w.Record(Conda, "a\"\\\xff-1-0.conda", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil || !json.Valid(out.Bytes()) {
		t.Errorf("%s, %v", out.Bytes(), err)
	}
}
