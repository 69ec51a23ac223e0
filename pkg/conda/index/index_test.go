package index_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/index"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// add writes a package into a channel and returns its file name.
func add(t testing.TB, channel string, format dist.Format, ix archive.Index, meta archive.Meta, entries ...archive.Input) string {
	t.Helper()
	if ix.Build == "" {
		ix.Build = "0"
	}
	if ix.Subdir == "" {
		ix.Subdir = "linux-64"
	}
	meta.Index = ix
	var buf bytes.Buffer
	d, err := archive.Create(t.Context(), &buf, format, meta, entries)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(channel, ix.Subdir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, d.Filename()), buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return d.Filename()
}

func build(t testing.TB, dir string, opts index.Options) *index.Report {
	t.Helper()
	report, err := index.Build(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// packages loads a channel's records by one of its forms.
func packages(t testing.TB, dir string, keep ...string) map[string]string {
	t.Helper()
	copied := t.TempDir()
	for _, sub := range []string{"linux-64", "noarch"} {
		if err := os.Mkdir(filepath.Join(copied, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range keep {
			from, to := filepath.Join(dir, sub, name), filepath.Join(copied, sub, name)
			if info, err := os.Stat(from); err == nil && info.IsDir() {
				if err := os.CopyFS(to, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			} else if data, err := os.ReadFile(from); err != nil {
				t.Fatal(err)
			} else if err := os.WriteFile(to, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	src, err := gateway.Dir(copied)
	if err != nil {
		t.Fatal(err)
	}
	res, err := gateway.Load(t.Context(), []gateway.Channel{{URL: "file:///ch", Source: src}}, gateway.Options{
		Subdirs: []string{"linux-64", "noarch"}, Problem: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, repo := range res.Repos {
		for _, p := range repo.All() {
			out[repo.Subdir+"/"+p.FileName] = fmt.Sprintf("%s %s %s %v %d", p.Name, p.Version, p.SHA256, p.Depends, p.Size)
		}
	}
	return out
}

func TestEveryFormListsEveryPackage(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1", Depends: []string{"b"}}, archive.Meta{})
	add(t, dir, dist.TarBz2, archive.Index{Name: "a", Version: "1", Depends: []string{"b"}}, archive.Meta{})
	add(t, dir, dist.Conda, archive.Index{Name: "b", Version: "2", Subdir: "noarch", Noarch: archive.NoarchGeneric}, archive.Meta{
		RunExports: &archive.RunExports{Weak: []string{"b >=2"}}, About: &archive.About{Summary: "the b"},
	}, archive.Input{Path: "etc/conda/activate.d/b.sh", Data: []byte("x")})
	report := build(t, dir, index.Options{Bzip2: true})
	if len(report.Subdirs) != 2 || report.Subdirs[0].Packages != 2 || report.Subdirs[1].Packages != 1 || report.Subdirs[0].Read != 2 {
		t.Errorf("report %+v", report)
	}
	want := packages(t, dir, "repodata.json")
	if len(want) != 3 {
		t.Errorf("repodata.json lists %v", want)
	}
	for _, form := range [][]string{{"repodata.json.zst"}, {"repodata.json.bz2"}, {"repodata_shards.msgpack.zst", "shards"}} {
		if diff := cmp.Diff(want, packages(t, dir, form...)); diff != "" {
			t.Errorf("%s lists other packages than repodata.json (-want +got):\n%s", form[0], diff)
		}
	}
	var exports struct {
		Conda map[string]struct {
			RunExports map[string][]string `json:"run_exports"`
		} `json:"packages.conda"`
	}
	readJSON(t, filepath.Join(dir, "noarch", "run_exports.json"), &exports)
	if diff := cmp.Diff([]string{"b >=2"}, exports.Conda["b-2-0.conda"].RunExports["weak"]); diff != "" {
		t.Errorf("run exports: %s", diff)
	}
	var data struct {
		Subdirs  []string
		Packages map[string]struct {
			Summary   string
			ActivateD bool `json:"activate.d"`
		}
	}
	readJSON(t, filepath.Join(dir, "channeldata.json"), &data)
	if !slices.Equal(data.Subdirs, []string{"linux-64", "noarch"}) || data.Packages["b"].Summary != "the b" || !data.Packages["b"].ActivateD {
		t.Errorf("channeldata.json: %+v", data)
	}
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// snapshot is every index file of a channel with its bytes and time.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, ".cache") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := fs.ReadFile(os.DirFS(dir), path)
		out[path] = fmt.Sprintf("%x %s", data, info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOneMorePackageIsOneMoreRead(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		add(t, dir, dist.Conda, archive.Index{Name: "a", Version: fmt.Sprint(i)}, archive.Meta{})
	}
	build(t, dir, index.Options{})
	before := snapshot(t, dir)
	if report := build(t, dir, index.Options{}); report.Subdirs[0].Read != 0 || report.Subdirs[0].Packages != 5 {
		t.Errorf("nothing changed, and %+v", report)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("nothing changed, but files were written:\n%s", diff)
	}
	add(t, dir, dist.Conda, archive.Index{Name: "z", Version: "1"}, archive.Meta{})
	if report := build(t, dir, index.Options{}); report.Subdirs[0].Read != 1 || report.Subdirs[0].Packages != 6 {
		t.Errorf("one more package, and %+v", report)
	}
	if err := os.Remove(filepath.Join(dir, "linux-64", "z-1-0.conda")); err != nil {
		t.Fatal(err)
	}
	if report := build(t, dir, index.Options{}); report.Subdirs[0].Packages != 5 {
		t.Errorf("a package was deleted, and %+v", report)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(before)), slices.DeleteFunc(slices.Sorted(maps.Keys(snapshot(t, dir))), func(path string) bool {
		return strings.Contains(path, "/shards/") && before[path] == ""
	})); diff != "" {
		t.Errorf("the files are not what they were:\n%s", diff)
	}
	for range 2 { // a cache that is rotten is as good as none
		if err := os.WriteFile(filepath.Join(dir, ".cache", "linux-64.entrepot.zst"), []byte("rot"), 0o644); err != nil {
			t.Fatal(err)
		}
		if report := build(t, dir, index.Options{}); report.Subdirs[0].Read != 5 {
			t.Errorf("the cache is rotten, and %+v", report)
		}
	}
}

func TestAReplacedPackageIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	file := add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1"}, archive.Meta{})
	build(t, dir, index.Options{})
	first := packages(t, dir, "repodata.json")["linux-64/"+file]
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1", Depends: []string{"new"}}, archive.Meta{})
	if report := build(t, dir, index.Options{}); report.Subdirs[0].Read != 1 {
		t.Errorf("%+v", report)
	}
	if second := packages(t, dir, "repodata.json.zst")["linux-64/"+file]; second == first || !strings.Contains(second, "new") {
		t.Errorf("the record is still %s", second)
	}
}

func TestABrokenPackageFailsAlone(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1"}, archive.Meta{})
	good := filepath.Join(dir, "linux-64", "a-1-0.conda")
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string][]byte{
		"cut-1-0.conda": data[:len(data)/2], "b-1-0.conda": data /* says that it is a */, "odd.conda": data, "empty-1-0.tar.bz2": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, "linux-64", name), bytes, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "linux-64", "link-1-0.conda")); err != nil {
		t.Fatal(err)
	}
	report := build(t, dir, index.Options{})
	var failed []string
	for _, f := range report.Subdirs[0].Failed {
		failed = append(failed, f.File)
	}
	if diff := cmp.Diff([]string{"b-1-0.conda", "cut-1-0.conda", "empty-1-0.tar.bz2", "link-1-0.conda", "odd.conda"}, failed); diff != "" {
		t.Errorf("failures:\n%s", diff)
	}
	if got := packages(t, dir, "repodata.json"); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
}

func TestPatchesApplyAndCanBeTakenBack(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1", Depends: []string{"b"}}, archive.Meta{})
	add(t, dir, dist.Conda, archive.Index{Name: "gone", Version: "1"}, archive.Meta{})
	patch, err := repodata.ParsePatch([]byte(`{"patch_instructions_version":1,"packages.conda":{"a-1-0.conda":{"depends":["b >=2"]}},"remove":["gone-1-0.conda"]}`))
	if err != nil {
		t.Fatal(err)
	}
	build(t, dir, index.Options{Patches: map[string]*repodata.PatchInstructions{"linux-64": patch}})
	for _, form := range [][]string{{"repodata.json"}, {"repodata_shards.msgpack.zst", "shards"}} {
		got := packages(t, dir, form...)
		if len(got) != 1 || !strings.Contains(got["linux-64/a-1-0.conda"], "b >=2") {
			t.Errorf("%s: %v", form[0], got)
		}
	}
	build(t, dir, index.Options{})
	if got := packages(t, dir, "repodata.json"); len(got) != 2 || strings.Contains(got["linux-64/a-1-0.conda"], ">=2") {
		t.Errorf("without patches: %v", got)
	}
}

func TestOldClientsDoNotSeeNewRecords(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "new", Version: "1", SchemaVersion: 3, Depends: []string{`b[when="c"]`}}, archive.Meta{})
	add(t, dir, dist.Conda, archive.Index{Name: "old", Version: "1"}, archive.Meta{})
	now := time.UnixMilli(1_800_000_000_123)
	build(t, dir, index.Options{Now: func() time.Time { return now }})
	var doc struct {
		Conda map[string]any `json:"packages.conda"`
		V3    struct {
			Conda map[string]struct {
				Indexed int64 `json:"indexed_timestamp"`
			} `json:"conda"`
		} `json:"v3"`
	}
	readJSON(t, filepath.Join(dir, "linux-64", "repodata.json"), &doc)
	if len(doc.Conda) != 1 || doc.V3.Conda["new-1-0"].Indexed != now.UnixMilli() {
		t.Errorf("%+v", doc)
	}
	now = now.Add(time.Hour)
	build(t, dir, index.Options{Now: func() time.Time { return now }})
	readJSON(t, filepath.Join(dir, "linux-64", "repodata.json"), &doc)
	if doc.V3.Conda["new-1-0"].Indexed != 1_800_000_000_123 {
		t.Error("a package was listed first, and later first again")
	}
}

func TestShardsThatNothingNamesGoAfterAWeek(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1"}, archive.Meta{})
	build(t, dir, index.Options{})
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "2"}, archive.Meta{})
	count := func() int {
		list, err := os.ReadDir(filepath.Join(dir, "linux-64", "shards"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	build(t, dir, index.Options{})
	if n := count(); n != 2 {
		t.Errorf("%d shards right after; clients still ask for the old one", n)
	}
	build(t, dir, index.Options{Now: func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }})
	if n := count(); n != 1 {
		t.Errorf("%d shards a week later", n)
	}
}

func TestADirectoryWithoutSubdirsIsNoChannel(t *testing.T) {
	_, err := index.Build(t.Context(), t.TempDir(), index.Options{})
	if !errors.Is(err, index.ErrNoChannel) {
		t.Errorf("%v", err)
	}
	if _, err := index.Build(t.Context(), t.TempDir(), index.Options{Subdirs: []string{"../x"}}); err == nil {
		t.Error("a subdir out of the channel was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1"}, archive.Meta{})
	if _, err := index.Build(ctx, dir, index.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// rattler stops after the first frame of a .zst.
func TestCompressedDocumentsAreOneFrame(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, dist.Conda, archive.Index{Name: "a", Version: "1"}, archive.Meta{})
	build(t, dir, index.Options{})
	data, err := os.ReadFile(filepath.Join(dir, "linux-64", "repodata.json.zst"))
	if err != nil {
		t.Fatal(err)
	}
	var head zstd.Header
	if err := head.Decode(data); err != nil || !head.HasFCS {
		t.Errorf("%+v, %v", head, err)
	}
	dec, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	plain, err := io.ReadAll(dec)
	if err != nil || uint64(len(plain)) != head.FrameContentSize {
		t.Errorf("the frame holds %d of %d bytes, %v", head.FrameContentSize, len(plain), err)
	}
}
