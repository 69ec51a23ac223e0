package channels_test

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// sameForms reads a document in all its forms, which must hold the same bytes of the same revision.
func (b *bundle) sameForms(channel, path string) []byte {
	b.t.Helper()
	plain := b.resolve(channel, path)
	if !plain.GetFound() || !plain.GetIndex() {
		b.t.Fatalf("%s is not served", path)
	}
	doc := b.read(channel, path)
	for suffix, open := range map[string]func([]byte) []byte{
		".zst": func(p []byte) []byte { return unpack(b.t, p) },
		".gz": func(p []byte) []byte {
			r, err := gzip.NewReader(bytes.NewReader(p))
			if err != nil {
				b.t.Fatal(err)
			}
			out, err := io.ReadAll(r)
			if err != nil {
				b.t.Fatal(err)
			}
			return out
		},
		".bz2": func(p []byte) []byte {
			out, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(p)))
			if err != nil {
				b.t.Fatal(err)
			}
			return out
		},
	} {
		r := b.resolve(channel, path+suffix)
		if r.GetRevision() != plain.GetRevision() {
			b.t.Errorf("%s%s is of revision %d, not %d", path, suffix, r.GetRevision(), plain.GetRevision())
			continue
		}
		if !bytes.Equal(open(b.read(channel, path+suffix)), doc) {
			b.t.Errorf("%s%s is another document", path, suffix)
		}
		if len(r.GetEncodings()) != 0 {
			b.t.Errorf("%s%s would be packed again", path, suffix)
		}
	}
	var codings []string
	for _, e := range plain.GetEncodings() {
		codings = append(codings, e.GetCoding())
		data, err := blob.ReadAll(b.t.Context(), b.blobs, blob.Digest(e.GetSha256()), 1<<30)
		if err != nil || int64(len(data)) != e.GetSize() {
			b.t.Errorf("%s as %s: %d of %d bytes, %v", path, e.GetCoding(), len(data), e.GetSize(), err)
		}
	}
	if d := cmp.Diff([]string{"zstd", "gzip"}, codings); d != "" {
		b.t.Errorf("encodings of %s:\n%s", path, d)
	}
	return doc
}

func TestTheOtherIndexFilesFollow(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.hosted("main")
	about := &archive.About{Summary: "Compress & co", Home: "https://example.org", DocURL: "https://docs.example.org", License: "Zlib"}
	b.mustUpload("main",
		spec{name: "zlib", version: "1.2", subdir: "linux-64", about: &archive.About{Summary: "old"}},
		spec{name: "zlib", version: "1.10", subdir: "linux-64", about: about, runExports: &archive.RunExports{Weak: archive.StringList{"zlib >=1.10"}}, timestamp: 1_700_000_000_000},
		spec{name: "zlib", version: "1.10", subdir: "linux-64", format: dist.TarBz2, about: about})
	b.settled()
	b.sameForms("main", "linux-64/repodata.json")
	b.sameForms("main", "noarch/repodata.json")

	current := parseDocument(t, b.sameForms("main", "linux-64/current_repodata.json"))
	if d := cmp.Diff([]string{"zlib-1.10-h0_0.conda", "zlib-1.10-h0_0.tar.bz2"}, current.filenames()); d != "" {
		t.Error(d)
	}
	var exports struct {
		Packages map[string]json.RawMessage `json:"packages"`
		Conda    map[string]json.RawMessage `json:"packages.conda"`
	}
	if err := json.Unmarshal(b.sameForms("main", "linux-64/run_exports.json"), &exports); err != nil {
		t.Fatal(err)
	}
	if len(exports.Packages) != 1 || string(exports.Conda["zlib-1.2-h0_0.conda"]) != `{"run_exports":{}}` ||
		string(exports.Conda["zlib-1.10-h0_0.conda"]) != `{"run_exports":{"weak":["zlib >=1.10"]}}` {
		t.Errorf("%s %s", exports.Packages, exports.Conda)
	}
	var data struct {
		Packages map[string]map[string]any
		Subdirs  []string
	}
	if err := json.Unmarshal(b.sameForms("main", "channeldata.json"), &data); err != nil {
		t.Fatal(err)
	}
	got := data.Packages["zlib"]
	want := map[string]any{
		"summary": "Compress & co", "home": "https://example.org", "doc_url": "https://docs.example.org", "license": "Zlib",
		"version": "1.10", "timestamp": 1_700_000_000.0, "run_exports": map[string]any{"1.10": map[string]any{"weak": []any{"zlib >=1.10"}}},
		"subdirs": []any{"linux-64"}, "post_link": false,
	}
	for k, v := range want {
		if d := cmp.Diff(v, got[k]); d != "" {
			t.Errorf("%s:\n%s", k, d)
		}
	}
	if d := cmp.Diff([]string{"linux-64", "noarch"}, data.Subdirs); d != "" {
		t.Error(d)
	}
	if r := b.resolve("main", "channeldata.json"); r.GetRevision() != 2 {
		t.Errorf("channeldata.json is of revision %d", r.GetRevision())
	}
	if b.resolve("main", "channeldata.json.gz").GetRevision() != 2 || b.resolve("main", "current_repodata.json").GetFound() {
		t.Error("files at odd paths")
	}

	t.Run("they forget what is deleted, and are let go of", func(t *testing.T) {
		for i := range 4 {
			b.mustUpload("main", spec{name: "x", version: fmt.Sprint(i), subdir: "linux-64"})
			b.settled()
		}
		if _, err := b.api.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "main", Package: "zlib"}); err != nil {
			t.Fatal(err)
		}
		b.settled()
		if doc := parseDocument(t, b.sameForms("main", "linux-64/current_repodata.json")); len(doc.filenames()) != 1 {
			t.Errorf("%v", doc.filenames())
		}
		if doc := b.sameForms("main", "channeldata.json"); bytes.Contains(doc, []byte("zlib")) {
			t.Errorf("%s", doc)
		}
		rows, err := b.pool.Query(t.Context(), `SELECT path, count(*) FROM channels.renditions WHERE path LIKE '%current%' OR path LIKE '%run_exports%' OR path LIKE '%bz2'
			OR path LIKE 'channeldata%' GROUP BY path HAVING count(*) > 2`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			t.Error(rows.Values())
		}
	})
}

func TestALargeIndexIsPackedLater(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1}.WithGzipAfter(1))
	b.startJobs()
	b.hosted("main")
	b.settled()
	for i := range 3 {
		b.mustUpload("main", spec{name: "a", version: fmt.Sprint(i)})
		b.settled()
		b.sameForms("main", "noarch/repodata.json")
		plain, packed := b.resolve("main", "noarch/repodata.json"), b.resolve("main", "noarch/repodata.json.gz")
		if !packed.GetUpdateTime().AsTime().After(plain.GetUpdateTime().AsTime()) {
			t.Errorf("gzip was made with the index: %v, %v", plain.GetUpdateTime(), packed.GetUpdateTime())
		}
	}
	b.refsAreExact()
}

func TestANewChannelHasAllIndexFiles(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.hosted("main")
	b.settled()
	for _, p := range []string{"noarch/repodata.json", "noarch/current_repodata.json", "noarch/run_exports.json", "channeldata.json"} {
		b.sameForms("main", p)
	}
	b.create(b.admin, &channelsv1.CreateChannelRequest{
		Name: "prox", Private: new(false),
		Mirror: &channelsv1.MirrorSettings{Url: "https://up.example/chan/"}, Kind: channelsv1.ChannelKind_CHANNEL_KIND_PROXY,
	})
	b.settled()
	if b.resolve("prox", "channeldata.json").GetFound() {
		t.Error("a proxy has an index of its own")
	}
}

func TestAMirrorsRunExportsAreNotGuessed(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.mirror("mir")
	known, data := entry("noarch", "known", "1", "")
	b.keepBytes(data)
	known.Record = append(known.Record[:len(known.Record)-1], `,"run_exports":{"strong":["known"]}}`...)
	inside, data := entry("noarch", "inside", "1", "")
	b.keepBytes(data)
	inside.Record = append(inside.Record[:len(inside.Record)-1], `,"run_exports":{},"license":"MIT","timestamp":1700000000}`...)
	unknown, data := entry("noarch", "unknown", "1", "")
	b.keepBytes(data)
	b.mustApply("mir", b.plan(nil, known, inside, unknown), 1, keep)
	b.settled()
	want := `{"info":{"arch":"noarch","platform":"noarch","subdir":"noarch","version":0},"packages":{},"packages.conda":{"inside-1-0.conda":{"run_exports":{}},` +
		`"known-1-0.conda":{"run_exports":{"strong":["known"]}}}}`
	if d := cmp.Diff(want, string(b.sameForms("mir", "noarch/run_exports.json"))); d != "" {
		t.Error(d)
	}
	if doc := b.sameForms("mir", "channeldata.json"); !bytes.Contains(doc, []byte(`"license":"MIT"`)) || !bytes.Contains(doc, []byte(`"timestamp":1700000000`)) {
		t.Errorf("%s", doc)
	}
}

func TestExtrasAreNotBuiltTwice(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.hosted("main")
	b.mustUpload("main", spec{name: "a"})
	b.settled()
	before := b.resolve("main", "noarch/repodata.json.bz2")
	if _, err := b.jobs.Enqueue(t.Context(), b.pool, jobs.EnqueueParams{
		Kind: channels.KindExtras, Args: &channelsv1.ExtrasJobArgs{ChannelId: before.GetChannel().GetId(), Subdir: "noarch"},
	}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if after := b.resolve("main", "noarch/repodata.json.bz2"); !after.GetUpdateTime().AsTime().Equal(before.GetUpdateTime().AsTime()) {
		t.Error("they were built again for nothing")
	}
	if _, err := b.api.RebuildIndex(b.as(b.alice), &channelsv1.RebuildIndexRequest{Channel: "main"}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if after := b.resolve("main", "noarch/repodata.json.bz2"); after.GetUpdateTime().AsTime().Equal(before.GetUpdateTime().AsTime()) {
		t.Error("they were not built when asked for")
	}
}
