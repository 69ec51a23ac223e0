package archive

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func TestACreatedPackageIsReadBack(t *testing.T) {
	for _, f := range dist.Formats {
		name, data := create(t, f)
		info, err := inspect(t, name, data, Full(), KeepPaths(), Subdir("noarch"))
		if err != nil {
			t.Fatal(err)
		}
		meta := demoMeta()
		if diff := cmp.Diff(meta.Index, info.Index); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]any{meta.About, meta.RunExports, meta.Link}, []any{info.About, info.RunExports, info.Link}); diff != "" {
			t.Error(diff)
		}
		got, err := info.Paths(Limits{})
		if err != nil {
			t.Fatal(err)
		}
		so := bytes.Repeat([]byte("elf"), 10_000)
		entry := func(e PathEntry, content []byte) PathEntry {
			s := sha256.Sum256(content)
			n := int64(len(content))
			e.SHA256, e.Size = hex.EncodeToString(s[:]), &n
			return e
		}
		want := []PathEntry{
			entry(PathEntry{Path: "bin/demo", Type: PathHardLink, Placeholder: "/opt/placeholder", Mode: ModeText, NoLink: true}, []byte("#!/opt/placeholder/bin/python\n")),
			entry(PathEntry{Path: "lib/libdemo.so", Type: PathSoftLink}, so),
			entry(PathEntry{Path: "lib/libdemo.so.1", Type: PathHardLink, Placeholder: "/opt/placeholder", Mode: ModeBinary}, so),
			entry(PathEntry{Path: "lib/python3.12/site-packages/demo.py", Type: PathHardLink}, []byte("print('hi')\n")),
			{Path: "var/empty", Type: PathDirectory},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		legacy := *info
		legacy.PathsJSON = nil
		old, err := legacy.Paths(Limits{})
		if err != nil || len(old) != 4 || old[0].Placeholder != "/opt/placeholder" || !old[0].NoLink || old[2].Mode != ModeBinary {
			t.Errorf("legacy lists: %v %v", old, err)
		}
		again, data2 := create(t, f)
		if again != name || !bytes.Equal(data, data2) {
			t.Error("the same input made other bytes")
		}
	}
}

func TestACondaFileIsAPlainZipWithInfoLast(t *testing.T) {
	name, data := create(t, dist.Conda)
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
		if f.Method != zip.Store || f.Flags != 0 || len(f.Extra) > 0 {
			t.Errorf("%s is not plainly stored", f.Name)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	stem := strings.TrimSuffix(name, ".conda")
	if diff := cmp.Diff([]string{"metadata.json", "pkg-" + stem + ".tar.zst", "info-" + stem + ".tar.zst"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestFormatsCarryTheSameTree(t *testing.T) {
	name, data := create(t, dist.Conda)
	want := listing(t, name, data)
	var bz bytes.Buffer
	_, d, err := Transmute(t.Context(), bytes.NewReader(data), int64(len(data)), name, &bz, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, listing(t, d.Filename(), bz.Bytes())); diff != "" {
		t.Error(diff)
	}
	var back bytes.Buffer
	_, d, err = Transmute(t.Context(), bytes.NewReader(bz.Bytes()), int64(bz.Len()), d.Filename(), &back, Limits{})
	if err != nil || d.Filename() != name || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("there and back changed the bytes: %v", err)
	}
}

func TestLargeMembersGoThroughAFile(t *testing.T) {
	dir := t.TempDir()
	noise := make([]byte, 20<<20) // incompressible: a xorshift
	x := uint64(88172645463325252)
	for i := range noise {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		noise[i] = byte(x)
	}
	var b bytes.Buffer
	d, err := Create(t.Context(), &b, dist.Conda, demoMeta(), []Input{{Path: "big", Data: noise}}, TempDir(dir), CompressionLevel(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inspect(t, d.Filename(), b.Bytes(), Full()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadInputIsNotWritten(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Meta)
		in     Input
		want   string
	}{
		"dot dot":       {nil, Input{Path: "../x"}, "path"},
		"dot slash":     {nil, Input{Path: "./x"}, "path"},
		"info":          {nil, Input{Path: "info/index.json"}, "info"},
		"absolute link": {nil, Input{Path: "x", Kind: Symlink, Link: "/x"}, "absolute"},
		"link out":      {nil, Input{Path: "x", Kind: Symlink, Link: "../x"}, "leaves"},
		"hard link":     {nil, Input{Path: "x", Kind: HardLink, Link: "bin/demo"}, "hard link"},
		"case":          {nil, Input{Path: "BIN/demo"}, "case"},
		"duplicate":     {nil, Input{Path: "bin/demo"}, "twice"},
		"name":          {func(m *Meta) { m.Index.Name = "Demo" }, Input{Path: "x"}, "name"},
		"subdir":        {func(m *Meta) { m.Index.Subdir = "" }, Input{Path: "x"}, "subdir"},
		"entry point":   {func(m *Meta) { m.Link.Noarch.EntryPoints = StringList{"a/b = c:d"} }, Input{Path: "x"}, "entry_points"},
		"extra outside": {func(m *Meta) { m.Extra["bin/x"] = nil }, Input{Path: "x"}, "info/"},
		"extra index":   {func(m *Meta) { m.Extra["info/index.json"] = nil }, Input{Path: "x"}, "twice"},
		"unreadable":    {nil, Input{Path: "x", Open: func() (io.ReadCloser, error) { return nil, fs.ErrNotExist }}, "not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			meta := demoMeta()
			if c.change != nil {
				c.change(&meta)
			}
			_, err := Create(t.Context(), io.Discard, dist.Conda, meta, append(demoInputs(), c.in))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestExtractionWritesWhatWasPacked(t *testing.T) {
	for _, f := range dist.Formats {
		name, data := create(t, f)
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if _, err := Extract(t.Context(), bytes.NewReader(data), int64(len(data)), name, root, Limits{}); err != nil {
			t.Fatal(err)
		}
		got, err := root.ReadFile("lib/libdemo.so")
		if err != nil || len(got) != 30_000 {
			t.Errorf("through the link: %d bytes, %v", len(got), err)
		}
		st, err := root.Stat("bin/demo")
		if err != nil || st.Mode().Perm() != 0o755 || !st.ModTime().Equal(time.Unix(1700000000, 0)) {
			t.Errorf("%v, %v", st, err)
		}
		if st, err := root.Stat("var/empty"); err != nil || !st.IsDir() {
			t.Error(err)
		}
		if _, err := root.Stat("info/licenses/LICENSE"); err != nil {
			t.Error(err)
		}
		// A second time: nothing is overwritten.
		_, err = Extract(t.Context(), bytes.NewReader(data), int64(len(data)), name, root, Limits{})
		refused(t, err, "exists")
	}
}

func TestExtractionKeepsHardLinksAndMasksModes(t *testing.T) {
	data := zipOf(metaMember(), pkgZst(t,
		rawEntry{file("a", "one").Header, "one"},
		rawEntry{linkTo("b", "./a").Header, ""}), infoZst(t))
	dir := t.TempDir()
	root, _ := os.OpenRoot(dir)
	defer root.Close()
	if _, err := Extract(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, root, Limits{}); err != nil {
		t.Fatal(err)
	}
	a, _ := root.Stat("a")
	b, _ := root.Stat("b")
	if !os.SameFile(a, b) {
		t.Error("the hard link became a copy")
	}
	// A link planted in the target is not followed.
	outside := t.TempDir()
	dir2 := t.TempDir()
	if err := os.Symlink(outside, dir2+"/info"); err != nil {
		t.Fatal(err)
	}
	root2, _ := os.OpenRoot(dir2)
	defer root2.Close()
	_, err := Extract(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, root2, Limits{})
	refused(t, err, "exists")
}

func TestWhatIsCreatedIsAlwaysAccepted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var in []Input
		seen := map[string]bool{}
		for _, p := range rapid.SliceOfN(rapid.StringMatching(`[a-c]/[d-f]{1,120}/[g-z.+_ é-]{1,150}`), 0, 12).Draw(rt, "paths") {
			if _, reason := cleanPath(p); reason != "" || seen[fold(p)] {
				continue
			}
			seen[fold(p)] = true
			in = append(in, Input{Path: p, Data: rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(rt, "data")})
		}
		for _, f := range dist.Formats {
			var b bytes.Buffer
			d, err := Create(t.Context(), &b, f, demoMeta(), in)
			if err != nil {
				rt.Fatal(err)
			}
			info, err := Inspect(t.Context(), bytes.NewReader(b.Bytes()), int64(b.Len()), d.Filename(), Limits{}, Full(), KeepPaths())
			if err != nil {
				rt.Fatal(err)
			}
			paths, err := info.Paths(Limits{})
			if err != nil || len(paths) != len(in) {
				rt.Fatal(len(paths), err)
			}
		}
	})
}
