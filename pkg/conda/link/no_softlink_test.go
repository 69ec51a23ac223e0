package link_test

import (
	"testing"
	"testing/fstest"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

func TestTheOldestPackagesNameWhatMustBeCopied(t *testing.T) {
	p, err := link.Read(fstest.MapFS{
		"info/index.json":  {Data: []byte(`{"name": "a", "version": "1", "build": "0", "build_number": 0, "depends": []}`)},
		"info/files":       {Data: []byte("lib/a\nlib/b\nlib/c\n")},
		"info/no_link":     {Data: []byte("lib/a")},
		"info/no_softlink": {Data: []byte("lib/b\n")},
		"lib/a":            {}, "lib/b": {}, "lib/c": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, false} {
		if p.Paths[i].NoLink != want {
			t.Errorf("%s: %v", p.Paths[i].Path, p.Paths[i].NoLink)
		}
	}
}
