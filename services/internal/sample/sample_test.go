package sample

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func build(t *testing.T, opts Options) *Channel {
	t.Helper()
	c, err := Build(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, c *Channel, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Dir, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// records reads the channel's indexes, both spellings of which must agree.
func records(t *testing.T, c *Channel) map[string]repodata.Record {
	t.Helper()
	out := map[string]repodata.Record{}
	for _, subdir := range c.Subdirs {
		plain := read(t, c, subdir+"/repodata.json")
		z, err := repodata.NewDecoder(bytes.NewReader(read(t, c, subdir+"/repodata.json.zst")), repodata.Zstd, repodata.DecodeLimits{})
		if err != nil {
			t.Fatal(err)
		}
		var unpacked bytes.Buffer
		if _, err := unpacked.ReadFrom(z); err != nil {
			t.Fatal(err)
		}
		z.Close()
		if !bytes.Equal(plain, unpacked.Bytes()) {
			t.Errorf("%s: repodata.json.zst holds something else than repodata.json", subdir)
		}
		for e, err := range repodata.Records(bytes.NewReader(plain), repodata.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			r, err := repodata.ParseRecord(bytes.Clone(e.Raw))
			if err != nil {
				t.Fatal(err)
			}
			if r.Subdir != subdir {
				t.Errorf("%s says that it is of %s", e.Key, r.Subdir)
			}
			out[subdir+"/"+e.Key] = r
		}
	}
	return out
}

func TestTheDefaultChannelHasEveryKindOfPackage(t *testing.T) {
	c := build(t, Options{})
	if len(c.Files) != DefaultPackages {
		t.Fatalf("%d packages, want %d", len(c.Files), DefaultPackages)
	}
	var conda, bz2, text, binary, links, entryPoints, epochs int
	stems, names := map[string]int{}, map[string]map[string]bool{}
	for _, f := range c.Files {
		data := read(t, c, f.Path)
		if got := describe(f.Path, data); got != f {
			t.Errorf("the list says %+v, the file is %+v", f, got)
		}
		subdir, filename, _ := strings.Cut(f.Path, "/")
		info, err := archive.Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), filename, archive.Limits{},
			archive.Full(), archive.KeepPaths(), archive.Subdir(subdir))
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		if info.Dist.Format == dist.Conda {
			conda++
		} else {
			bz2++
		}
		stems[info.Dist.Stem()]++
		if names[info.Dist.Name] == nil {
			names[info.Dist.Name] = map[string]bool{}
		}
		names[info.Dist.Name][info.Dist.Version+info.Dist.Build] = true
		if strings.Contains(info.Dist.Version, "!") {
			epochs++
		}
		paths, err := info.Paths(archive.Limits{})
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
		for _, p := range paths {
			switch {
			case p.Type == archive.PathSoftLink:
				links++
			case p.Placeholder != "" && len(p.Placeholder) != 255:
				t.Errorf("%s: the placeholder in %s has %d bytes, not 255", f.Path, p.Path, len(p.Placeholder))
			case p.Mode == archive.ModeBinary:
				binary++
			case p.Mode == archive.ModeText:
				text++
			}
		}
		if info.Index.Noarch == archive.NoarchPython {
			if info.Link == nil || len(info.Link.Noarch.EntryPoints) == 0 {
				t.Errorf("%s is noarch python without entry points", f.Path)
			}
			entryPoints++
		}
	}
	twins, several := 0, 0
	for _, n := range stems {
		if n == 2 {
			twins++
		}
	}
	for _, v := range names {
		if len(v) > 1 {
			several++
		}
	}
	for what, n := range map[string]int{
		".conda": conda, ".tar.bz2": bz2, "in both formats": twins, "with a text prefix": text, "with a binary prefix": binary,
		"with symbolic links": links, "with entry points": entryPoints, "with an epoch": epochs, "in several versions": several,
	} {
		if n == 0 {
			t.Errorf("no package %s", what)
		}
	}
}

func TestTheIndexListsExactlyTheFiles(t *testing.T) {
	c := build(t, Options{})
	listed := map[string]File{}
	for path, r := range records(t, c) {
		listed[path] = File{Path: path, SHA256: r.SHA256, MD5: r.MD5, Size: int64(r.Size)}
	}
	want := map[string]File{}
	for _, f := range c.Files {
		want[f.Path] = f
	}
	if d := cmp.Diff(want, listed); d != "" {
		t.Errorf("written and listed differ (-written +listed):\n%s", d)
	}
	var doc struct {
		Packages map[string]struct{ Version string }
		Subdirs  []string
	}
	if err := json.Unmarshal(read(t, c, "channeldata.json"), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Packages["python"].Version != "3.12.8" || !slices.Equal(doc.Subdirs, c.Subdirs) {
		t.Errorf("channeldata.json: python %q, subdirs %v", doc.Packages["python"].Version, doc.Subdirs)
	}
}

// Where the newest of every name satisfies every dependency of every package, any selection can be installed together.
func TestTheNewestOfEverythingFitsTogether(t *testing.T) {
	for _, n := range []int{1, 2, 5, 9, 60, 400, 3000} {
		newest := map[string]version.Version{}
		files := map[string]bool{}
		specs := plan(Options{Packages: n})
		for _, s := range specs {
			files[s.subdir+"/"+s.stem()+s.format.Extension()] = true
			v, err := version.Parse(s.version)
			if err != nil {
				t.Fatal(err)
			}
			if have, ok := newest[s.name]; !ok || have.Less(v) {
				newest[s.name] = v
			}
		}
		if len(files) != n {
			t.Errorf("%d different files, want %d", len(files), n)
		}
		edges := 0
		for _, s := range specs {
			for _, d := range s.depends {
				edges++
				name, rest, _ := strings.Cut(d, " ")
				v, ok := newest[name]
				if !ok {
					t.Errorf("%d packages: %s needs %s, which is not there", n, s.stem(), d)
					continue
				}
				if rest == "" {
					continue
				}
				spec, err := version.ParseSpec(rest)
				if err != nil {
					t.Fatal(err)
				}
				if !spec.Match(v) {
					t.Errorf("%d packages: %s needs %s, but the newest is %s", n, s.stem(), d, v)
				}
			}
		}
		if n >= 60 && edges < n/2 {
			t.Errorf("%d packages have only %d dependencies", n, edges)
		}
	}
}

func TestEqualOptionsMakeEqualBytesAndAnotherSeedOthers(t *testing.T) {
	for _, tiny := range []bool{false, true} {
		a := build(t, Options{Packages: 40, Tiny: tiny})
		b := build(t, Options{Packages: 40, Tiny: tiny})
		other := build(t, Options{Packages: 40, Tiny: tiny, Seed: 1})
		if d := cmp.Diff([][]File{a.Files, a.Index}, [][]File{b.Files, b.Index}); d != "" {
			t.Errorf("tiny %v: two builds differ:\n%s", tiny, d)
		}
		for i, f := range other.Files {
			if f.Path != a.Files[i].Path || f.SHA256 == a.Files[i].SHA256 {
				t.Errorf("tiny %v: another seed changes the layout, or not the bytes: %+v and %+v", tiny, a.Files[i], f)
			}
		}
	}
}

func TestTinyPackagesAreValidAndSmallAndUnique(t *testing.T) {
	c := build(t, Options{Packages: 200, Tiny: true})
	seen := map[string]bool{}
	for _, f := range c.Files {
		if f.Size < 2000 || f.Size > 3100 {
			t.Errorf("%s has %d bytes", f.Path, f.Size)
		}
		if seen[f.SHA256] {
			t.Errorf("%s has the bytes of another package", f.Path)
		}
		seen[f.SHA256] = true
		data := read(t, c, f.Path)
		subdir, filename, _ := strings.Cut(f.Path, "/")
		if _, err := archive.Inspect(t.Context(), bytes.NewReader(data), f.Size, filename, archive.Limits{}, archive.Full(), archive.Subdir(subdir)); err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	if got := len(records(t, c)); got != 200 {
		t.Errorf("%d records, want 200", got)
	}
}

func BenchmarkTiny(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := Build(dir, Options{Packages: 1000, Tiny: true}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(1000*b.N)/b.Elapsed().Seconds(), "packages/s")
}
