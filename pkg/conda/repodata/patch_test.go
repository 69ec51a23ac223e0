package repodata

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const samplePatch = `{
	"patch_instructions_version": 2,
	"packages": {"a-1-0.tar.bz2": {"depends": ["b >=2"], "license": "MIT", "extra": {"y": 2}, "gone": null, "indexed_timestamp": 7}},
	"packages.conda": {"a-1-0.conda": {"license": "BSD", "run_exports": {"weak": ["a >=1"]}}},
	"revoke": ["r-1-0.tar.bz2"],
	"remove": ["x-1-0.tar.bz2", "only-1-0.conda"]
}`

func TestPatchesChangeWhatTheyName(t *testing.T) {
	p, err := ParsePatch([]byte(samplePatch))
	if err != nil {
		t.Fatal(err)
	}
	record := `{"name":"a","version":"1","build":"0","depends":["b"],"extra":{"x":1},"gone":1,"indexed_timestamp":5,"odd":[1.50]}`
	for _, c := range []struct {
		bucket    Bucket
		key, want string
	}{
		{TarBz2, "a-1-0.tar.bz2", `{"name":"a","version":"1","build":"0","depends":["b >=2"],"extra":{"x":1,"y":2},"indexed_timestamp":5,"odd":[1.50],"license":"MIT"}`},
		{Conda, "a-1-0.conda", `{"name":"a","version":"1","build":"0","depends":["b >=2"],"extra":{"x":1,"y":2},"indexed_timestamp":5,"odd":[1.50],"license":"BSD"}`},
		{V3Conda, "a-1-0", `{"name":"a","version":"1","build":"0","depends":["b >=2"],"extra":{"x":1,"y":2},"indexed_timestamp":5,"odd":[1.50],"license":"BSD"}`},
		{TarBz2, "other-1-0.tar.bz2", record},
		{Conda, "r-1-0.conda", `{"name":"a","version":"1","build":"0","depends":["b","package_has_been_revoked"],"extra":{"x":1},"gone":1,"indexed_timestamp":5,"odd":[1.50],"revoked":true}`},
	} {
		got, err := p.Record(c.bucket, c.key, []byte(record))
		if err != nil {
			t.Errorf("%s: %v", c.key, err)
		}
		if diff := cmp.Diff(parsed(t, []byte(c.want)), parsed(t, got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.key, diff)
		}
	}
	for file, want := range map[string]bool{"x-1-0.tar.bz2": true, "x-1-0.conda": true, "only-1-0.conda": true, "only-1-0.tar.bz2": false, "a-1-0.conda": false} {
		b := Conda
		if file[len(file)-1] == '2' {
			b = TarBz2
		}
		if p.Removed(b, file) != want {
			t.Errorf("Removed(%s) = %v", file, !want)
		}
	}
	got, err := p.RunExports(Conda, "a-1-0.conda", nil)
	if err != nil || string(got) != `{"weak":["a >=1"]}` {
		t.Errorf("run exports %s, %v", got, err)
	}
}

func TestPatchInstructionsThatCannotBeReadAreRefused(t *testing.T) {
	for _, raw := range []string{``, `[]`, `{"patch_instructions_version":3}`, `{"packages":[]}`, `{"packages":{"a":[]}}`, `{"revoke":[1]}`, `{"remove":{}}`} {
		_, err := ParsePatch([]byte(raw))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("ParsePatch(%s) = %v", raw, err)
		}
	}
}

func parsed(t *testing.T, raw []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}
