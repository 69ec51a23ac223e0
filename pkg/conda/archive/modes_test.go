package archive_test

import (
	"bytes"
	"io/fs"
	"os"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func TestExtractKeepsModesWhereItIsAsked(t *testing.T) {
	var buf bytes.Buffer
	d, err := archive.Create(t.Context(), &buf, dist.Conda, archive.Meta{Index: archive.Index{Name: "a", Version: "1", Build: "0", Subdir: "linux-64"}},
		[]archive.Input{{Path: "shared", Mode: 0o775}, {Path: "fixed", Mode: 0o444}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		opts          []archive.Option
		shared, fixed fs.FileMode
	}{{nil, 0o755, 0o644}, {[]archive.Option{archive.ExactModes()}, 0o775, 0o444}} {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if _, err := archive.Extract(t.Context(), bytes.NewReader(buf.Bytes()), int64(buf.Len()), d.Filename(), root, archive.Limits{}, c.opts...); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]fs.FileMode{"shared": c.shared, "fixed": c.fixed} {
			if st, err := root.Stat(name); err != nil || st.Mode() != want {
				t.Errorf("%s: %v %v, want %v", name, err, st.Mode(), want)
			}
		}
	}
}
