package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// fakeServer is a channel behind a wire: it counts what it is asked.
type fakeServer struct {
	mu    sync.Mutex
	files map[string][]byte
	fresh time.Duration
	down  bool
	asked map[string]int
	sent  map[string]int
}

func (s *fakeServer) Open(_ context.Context, path string, known gateway.Validators) (*gateway.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("no route to host")
	}
	s.asked[path]++
	data, ok := s.files[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	etag := fmt.Sprintf(`"%x"`, len(data)) + path
	if known.ETag == etag {
		return &gateway.File{NotModified: true, Validators: known, Fresh: s.fresh}, nil
	}
	s.sent[path]++
	return &gateway.File{Body: io.NopCloser(bytes.NewReader(data)), Validators: gateway.Validators{ETag: etag}, Fresh: s.fresh}, nil
}

func (s *fakeServer) reset() {
	s.asked, s.sent = map[string]int{}, map[string]int{}
}

func record(name, version string, depends ...string) string {
	quoted := make([]string, len(depends))
	for i, d := range depends {
		quoted[i] = fmt.Sprintf("%q", d)
	}
	return fmt.Sprintf(`{"name":%q,"version":%q,"build":"0","build_number":0,"depends":[%s]}`, name, version, strings.Join(quoted, ","))
}

// universe is a small channel: app needs lib and, under a condition, tool; other stands alone.
var universe = map[string]string{
	"app-1-0.conda":   record("app", "1", "lib >=2", "tool[when=\"cond >=1\"]", "__glibc >=2.17"),
	"lib-2-0.conda":   record("lib", "2", "base"),
	"lib-3-0.tar.bz2": record("lib", "3", "ch::base"),
	"base-1-0.conda":  record("base", "1"),
	"tool-1-0.conda":  record("tool", "1"),
	"cond-1-0.conda":  record("cond", "1"),
	"other-1-0.conda": record("other", "1", "base"),
}

func document(t testing.TB, baseURL string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := repodata.NewWriter(&buf, repodata.Info{Subdir: "linux-64", BaseURL: baseURL})
	for _, b := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		for _, file := range slices.Sorted(maps.Keys(universe)) {
			if strings.HasSuffix(file, b.Extension()) {
				if err := w.Record(b, file, []byte(universe[file])); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compress(t testing.TB, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(data, nil)
}

func whole(t testing.TB) *fakeServer {
	s := &fakeServer{files: map[string][]byte{
		"linux-64/repodata.json.zst": compress(t, document(t, "")), "noarch/repodata.json": []byte("{}"),
	}}
	s.reset()
	return s
}

func sharded(t testing.TB) *fakeServer {
	t.Helper()
	s := &fakeServer{files: map[string][]byte{"noarch/repodata.json": []byte("{}"), "linux-64/repodata.json": []byte("broken: nobody reads it")}}
	s.reset()
	byName := map[string]*repodata.Shard{}
	for _, file := range slices.Sorted(maps.Keys(universe)) {
		b := repodata.Conda
		if strings.HasSuffix(file, ".tar.bz2") {
			b = repodata.TarBz2
		}
		name := file[:strings.IndexByte(file, '-')]
		if byName[name] == nil {
			byName[name] = new(repodata.Shard)
		}
		byName[name].Records = append(byName[name].Records, repodata.ShardRecord{Bucket: b, Key: file, Raw: []byte(universe[file])})
	}
	ix := repodata.ShardIndex{Subdir: "linux-64", ShardsBaseURL: "./shards/", Shards: map[string][32]byte{}}
	for name, shard := range byName {
		data, digest, err := repodata.BuildShard(*shard)
		if err != nil {
			t.Fatal(err)
		}
		ix.Shards[name] = digest
		s.files["linux-64/shards/"+repodata.ShardPath(digest)] = data
	}
	var err error
	if s.files["linux-64/repodata_shards.msgpack.zst"], err = repodata.BuildIndex(ix); err != nil {
		t.Fatal(err)
	}
	return s
}

const channelURL = "https://host.example/ch"

func load(t testing.TB, s gateway.Source, opts gateway.Options) ([]string, error) {
	t.Helper()
	if opts.Subdirs == nil {
		opts.Subdirs = []string{"linux-64", "noarch"}
	}
	res, err := gateway.Load(t.Context(), []gateway.Channel{{URL: channelURL, Source: s}}, opts)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, repo := range res.Repos {
		for _, p := range repo.All() {
			list = append(list, p.Location())
		}
	}
	return list, nil
}

func TestLoadReadsWhatTheNamesLeadTo(t *testing.T) {
	want := []string{}
	for _, file := range []string{"app-1-0.conda", "base-1-0.conda", "cond-1-0.conda", "lib-3-0.tar.bz2", "lib-2-0.conda", "tool-1-0.conda"} {
		want = append(want, channelURL+"/linux-64/"+file)
	}
	for name, s := range map[string]*fakeServer{"one document": whole(t), "shards": sharded(t)} {
		got, err := load(t, s, gateway.Options{Names: []string{"app"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "one document" { // which is read whole
			if len(got) != len(universe) {
				t.Errorf("%s: %v", name, got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		direct, err := load(t, s, gateway.Options{Names: []string{"lib"}, Direct: true})
		if err != nil || len(direct) != 2 {
			t.Errorf("%s: lib alone gives %v, %v", name, direct, err)
		}
		all, err := load(t, s, gateway.Options{})
		if err != nil || len(all) != len(universe) {
			t.Errorf("%s: everything is %d packages, %v; want %d", name, len(all), err, len(universe))
		}
	}
}

func TestShardsAreAskedForByNameOnly(t *testing.T) {
	s := sharded(t)
	if _, err := load(t, s, gateway.Options{Names: []string{"other"}}); err != nil {
		t.Fatal(err)
	}
	shards := 0
	for path := range s.sent {
		if strings.Contains(path, "/shards/") {
			shards++
		}
	}
	if shards != 2 { // other and base
		t.Errorf("%d shards were sent: %v", shards, s.sent)
	}
}

func TestACacheAsksOnlyWhetherSomethingChanged(t *testing.T) {
	for name, s := range map[string]*fakeServer{"one document": whole(t), "shards": sharded(t)} {
		opts := gateway.Options{Names: []string{"app"}, Cache: gateway.NewCache(t.TempDir())}
		first, err := load(t, s, opts)
		if err != nil {
			t.Fatal(err)
		}
		s.reset()
		second, err := load(t, s, opts)
		if err != nil || !slices.Equal(first, second) {
			t.Errorf("%s: the second time gives %v, %v", name, second, err)
		}
		if len(s.sent) != 0 {
			t.Errorf("%s: sent again: %v", name, s.sent)
		}
		for path := range s.asked {
			if strings.Contains(path, "/shards/") {
				t.Errorf("%s: a shard was asked for again", name)
			}
		}
		s.down = true
		if _, err := load(t, s, opts); err == nil {
			t.Errorf("%s: an unreachable server went unnoticed", name)
		}
		opts.Offline = true
		third, err := load(t, s, opts)
		if err != nil || !slices.Equal(first, third) {
			t.Errorf("%s: offline gives %v, %v", name, third, err)
		}
		opts.Cache = gateway.NewCache(t.TempDir())
		var offline *gateway.OfflineError
		if _, err := load(t, s, opts); !errors.As(err, &offline) {
			t.Errorf("%s: offline with an empty cache gives %v", name, err)
		}
	}
}

func TestAFreshCopyIsNotAskedFor(t *testing.T) {
	s := whole(t)
	s.fresh = time.Minute
	opts := gateway.Options{Cache: gateway.NewCache(t.TempDir())}
	if _, err := load(t, s, opts); err != nil {
		t.Fatal(err)
	}
	s.reset()
	if _, err := load(t, s, opts); err != nil || len(s.asked) != 0 {
		t.Errorf("asked for %v, %v", s.asked, err)
	}
}

// damage changes every file of a cache.
func damage(t *testing.T, dir string, change func(path string, data []byte) []byte) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if changed := change(path, data); changed != nil {
			n++
			err = os.WriteFile(path, changed, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestARottenCacheEntryCountsAsNone(t *testing.T) {
	for kind, make := range map[string]func(testing.TB) *fakeServer{"one document": whole, "shards": sharded} {
		s, dir := make(t), t.TempDir()
		opts := gateway.Options{Names: []string{"app"}, Cache: gateway.NewCache(dir)}
		want, err := load(t, s, opts)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(path string, data []byte) []byte{
			"last byte":  func(_ string, data []byte) []byte { data[len(data)-1] ^= 1; return data },
			"first byte": func(_ string, data []byte) []byte { data[0] ^= 1; return data },
			"cut":        func(_ string, data []byte) []byte { return data[:len(data)/2] },
			"emptied":    func(string, []byte) []byte { return []byte{} },
			"snapshots": func(path string, data []byte) []byte {
				if filepath.Ext(path) != ".arena" {
					return nil
				}
				data[len(data)/2] ^= 1
				return data
			},
			"all but snapshots": func(path string, data []byte) []byte {
				if filepath.Ext(path) == ".arena" {
					return nil
				}
				data[0] ^= 1
				return data
			},
		} {
			n := damage(t, dir, change)
			if n == 0 && (kind == "one document" || name != "snapshots") {
				t.Errorf("%s: nothing to damage", name)
			}
			if got, err := load(t, s, opts); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s, %s: %v, %v", kind, name, got, err)
			}
		}
	}
}

func TestASecondReadComesFromTheSnapshot(t *testing.T) {
	s, dir := whole(t), t.TempDir()
	opts := gateway.Options{Cache: gateway.NewCache(dir)}
	want, err := load(t, s, opts)
	if err != nil {
		t.Fatal(err)
	}
	// Bytes that nobody reads any more: only their digest, which stands at the end, says which snapshot is theirs.
	if n := damage(t, dir, func(path string, data []byte) []byte {
		if filepath.Ext(path) != "" {
			return nil
		}
		data[0] ^= 1
		return data
	}); n == 0 {
		t.Fatal("nothing was kept")
	}
	s.reset()
	got, err := load(t, s, opts)
	if err != nil || !slices.Equal(got, want) || len(s.sent) != 0 {
		t.Errorf("%v, %v, sent %v", got, err, s.sent)
	}
	// Another document has another snapshot.
	delete(universe, "other-1-0.conda")
	defer func() { universe["other-1-0.conda"] = record("other", "1", "base") }()
	s.files["linux-64/repodata.json.zst"] = compress(t, document(t, "https://elsewhere.example/"))
	if got, err = load(t, s, opts); err != nil || len(got) != len(want)-1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAnUnwritableCacheIsOnlySlower(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	warned := 0
	got, err := load(t, whole(t), gateway.Options{Cache: gateway.NewCache(filepath.Join(file, "cache")), Problem: func(error) { warned++ }})
	if err != nil || len(got) != len(universe) || warned == 0 {
		t.Errorf("%v, %v, %d warnings", got, err, warned)
	}
}

func TestBrokenChannelsAreErrors(t *testing.T) {
	empty := &fakeServer{}
	empty.reset()
	bad := sharded(t)
	for path := range bad.files {
		if strings.Contains(path, "/shards/") {
			bad.files[path] = []byte("something else")
		}
	}
	cut := whole(t)
	cut.files["linux-64/repodata.json.zst"] = cut.files["linux-64/repodata.json.zst"][:60]
	large := whole(t)
	for name, c := range map[string]struct {
		server *fakeServer
		opts   gateway.Options
		want   string
	}{
		"no subdir":    {empty, gateway.Options{}, "is no channel"},
		"wrong shards": {bad, gateway.Options{Names: []string{"app"}}, "digest differs"},
		"cut off":      {cut, gateway.Options{}, "repodata.json.zst"},
		"too large":    {large, gateway.Options{MaxFile: 10}, "larger than 10 bytes"},
	} {
		_, err := load(t, c.server, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestBaseURLsMovePackages(t *testing.T) {
	for base, want := range map[string]string{
		"":                        channelURL + "/linux-64/base-1-0.conda",
		"./":                      channelURL + "/linux-64/base-1-0.conda",
		"../pool/":                channelURL + "/pool/base-1-0.conda",
		"/other/":                 "https://host.example/other/base-1-0.conda",
		"https://cdn.example/ch":  "https://cdn.example/ch/base-1-0.conda",
		"https://cdn.example/ch/": "https://cdn.example/ch/base-1-0.conda",
	} {
		s := whole(t)
		s.files["linux-64/repodata.json.zst"] = compress(t, document(t, base))
		got, err := load(t, s, gateway.Options{Names: []string{"base"}})
		if err != nil || !slices.Contains(got, want) {
			t.Errorf("base_url %q gives %v, %v; want %s", base, got, err, want)
		}
	}
}

func TestAChannelElsewhereHasNoPackagesOnThisMachine(t *testing.T) {
	for _, base := range []string{"file:///etc/", "FILE:///etc", "file://localhost/etc/"} {
		s := whole(t)
		s.files["linux-64/repodata.json.zst"] = compress(t, document(t, base))
		if got, err := load(t, s, gateway.Options{Names: []string{"base"}}); err == nil || !strings.Contains(err.Error(), "base_url") {
			t.Errorf("base_url %q gives %v, %v", base, got, err)
		}
	}
}

func TestADirectoryIsAChannelAndNothingOutsideOfIt(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "secret.json")
	channel := filepath.Join(dir, "channel")
	for _, sub := range []string{"linux-64", "noarch"} {
		if err := os.MkdirAll(filepath.Join(channel, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, data := range map[string][]byte{outside: []byte("{}"), filepath.Join(channel, "linux-64", "repodata.json"): document(t, "")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(channel, "noarch", "repodata.json")); err != nil {
		t.Fatal(err)
	}
	src, err := gateway.Dir(channel)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Open(t.Context(), "../secret.json", gateway.Validators{}); err == nil {
		t.Error("a path out of the directory was opened")
	}
	if _, err := load(t, src, gateway.Options{}); err == nil {
		t.Error("a link out of the directory was followed")
	}
	got, err := load(t, src, gateway.Options{Subdirs: []string{"linux-64"}})
	if err != nil || len(got) != len(universe) {
		t.Errorf("%v, %v", got, err)
	}
}

// endless is a channel whose index never ends; it cancels what reads it after a while.
type endless struct {
	cancel func()
	reads  int
}

func (e *endless) Open(_ context.Context, path string, _ gateway.Validators) (*gateway.File, error) {
	if path != "linux-64/repodata.json" {
		return nil, fs.ErrNotExist
	}
	return &gateway.File{Body: io.NopCloser(e)}, nil
}

func (e *endless) Read(p []byte) (int, error) {
	if e.reads++; e.reads == 20 {
		e.cancel()
	}
	text := `{"packages":{`
	if e.reads > 1 {
		text = fmt.Sprintf(`"a-%d-0.tar.bz2":%s,`, e.reads, record("a", fmt.Sprint(e.reads)))
	}
	return copy(p, text), nil
}

func TestReadingEndsWithItsContext(t *testing.T) {
	cause := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := gateway.Load(ctx, []gateway.Channel{{URL: channelURL, Source: &endless{cancel: func() { cancel(cause) }}}}, gateway.Options{Subdirs: []string{"linux-64"}})
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
