package segment_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// edit changes a byte of an unpacked file, as does who edits a file of an environment that is linked to it.
func edit(t testing.TB, p segment.Package, path string) {
	t.Helper()
	name := filepath.Join(p.Dir, path)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAnEditedFileGetsIntoNoSegment(t *testing.T) {
	big := make([]byte, 33<<20) // goes through a pipe
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range big[:1<<20] {
		big[i] = byte(rng.Uint32())
	}
	copy(big[1000:], segmenttest.Placeholder)
	for name, x := range map[string]struct {
		input     archive.Input
		originals bool
	}{
		"a plain file":                   {segmenttest.Plain("share/x", "content"), false},
		"a text":                         {segmenttest.Text("share/x", segmenttest.Placeholder+"/share"), false},
		"a binary":                       {segmenttest.Binary("share/x", segmenttest.Placeholder+"/share\x00"), false},
		"a long binary":                  {segmenttest.Binary("share/x", string(big)), false},
		"a text with its placeholder":    {segmenttest.Text("share/x", segmenttest.Placeholder+"/share"), true},
		"a script that finds its python": {segmenttest.Text("bin/x", "#!"+segmenttest.Placeholder+"/bin/python\n#"), true},
	} {
		t.Run(name, func(t *testing.T) {
			k := segmenttest.New(t)
			list := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{x.input, segmenttest.Plain("share/y", "y")}))
			dir := t.TempDir()
			c := open(t, dir, 0)
			o := segment.Options{Originals: x.originals}
			sound, err := c.Get(t.Context(), plan(t, list, o).Parts[0], segment.Zstd)
			if err != nil {
				t.Fatal(err)
			}
			sound.Drop()
			edit(t, list[0], x.input.Path)
			e := plan(t, list, o)
			_, err = c.Get(t.Context(), e.Parts[0], segment.Zstd)
			var changed *segment.ChangedError
			if !errors.As(err, &changed) || changed.Path != x.input.Path || changed.Package.Name != "x" {
				t.Fatalf("%v", err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "zst", "*", "*.json")); err != nil || len(left) > 0 {
				t.Errorf("kept: %v %v", left, err)
			}
			if _, err := e.Parts[0].Measure(t.Context(), e.Parts[0].Entries); !errors.As(err, &changed) {
				t.Errorf("measured: %v", err)
			}

			err = e.Parts[0].Each(e.Parts[0].Entries, func(*link.Entry, *segment.Content) error { return nil })
			if !errors.As(err, &changed) {
				t.Errorf("not read by who was given it: %v", err)
			}
			list[0].Unlisted = true // of which nobody has an archive to compare with here
			if _, err := c.Get(t.Context(), plan(t, list, o).Parts[0], segment.Zstd); err != nil {
				t.Errorf("as it is: %v", err)
			}
		})
	}
}

func TestAFileOfAnotherSizeIsAnEditedOne(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{segmenttest.Plain("share/x", "content")}))
	if err := os.Truncate(filepath.Join(list[0].Dir, "share", "x"), 1<<30); err != nil { // which is not read for it
		t.Fatal(err)
	}
	_, err := open(t, t.TempDir(), 0).Get(t.Context(), plan(t, list, segment.Options{}).Parts[0], segment.Raw)
	if !errors.As(err, new(*segment.ChangedError)) {
		t.Errorf("%v", err)
	}
}

func TestALongFileIsCheckedAndReadTwice(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcde\n"), 3<<20)
	copy(body[len(body)-len(segmenttest.Placeholder):], segmenttest.Placeholder)
	k := segmenttest.New(t)
	list := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{segmenttest.Text("share/x", string(body))}))
	e := plan(t, list, segment.Options{})
	err := e.Parts[0].Each(e.Parts[0].Entries, func(_ *link.Entry, c *segment.Content) error {
		n, err := io.Copy(io.Discard, c.Reader)
		if n != c.Size || n != int64(len(body)-len(segmenttest.Placeholder)+len("/opt/env")) {
			t.Errorf("%d bytes, said to be %d", n, c.Size)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
