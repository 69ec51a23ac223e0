package archive

import (
	"encoding/json"
	"testing"
)

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"name":"a","version":"1","build":"0","build_number":0,"depends":["b"],"subdir":"noarch","noarch":"python","timestamp":1}`))
	f.Add([]byte(`{"name":"a","version":"1","build":"0","build_number":0,"noarch":true,"track_features":"x y","license":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		index, err := ParseIndex(data, small)
		if err != nil {
			return
		}
		out, err := json.Marshal(index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseIndex(out, small); err != nil {
			t.Fatalf("%s is written as %s: %v", data, out, err)
		}
	})
}

func FuzzParseHasPrefix(f *testing.F) {
	f.Add([]byte("bin/a\n/opt/x text \"bin/b c\"\n'/opt/y' binary lib/d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseHasPrefix(data)
		if err != nil {
			return
		}
		for path, e := range entries {
			if path == "" || e.Placeholder == "" {
				t.Fatalf("%q: %+v", path, e)
			}
		}
	})
}
