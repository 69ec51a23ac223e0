package channels_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/plan"
)

const (
	keep  = channelsv1.RemovalPolicy_REMOVAL_POLICY_KEEP
	prune = channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE
)

func (b *bundle) keepBytes(datas ...[]byte) {
	b.t.Helper()
	for _, data := range datas {
		if _, err := b.blobs.Put(context.Background(), bytes.NewReader(data), blob.PutOptions{}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bundle) diff(channel string, planned []byte, policy channelsv1.RemovalPolicy) (*channelsv1.DiffResponse, []string) {
	b.t.Helper()
	r, err := b.api.Diff(b.target(), &channelsv1.DiffRequest{Channel: channel, Plan: planned, RemovalPolicy: policy})
	if err != nil {
		b.t.Fatal(err)
	}
	pr, err := plan.Open(context.Background(), b.blobs, blob.Digest(r.GetMissing()), plan.Limits{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer pr.Close()
	var missing []string
	for e, err := range pr.All() {
		if err != nil {
			b.t.Fatal(err)
		}
		missing = append(missing, e.GetPath())
	}
	if int64(len(missing)) != r.GetMissingCount() {
		b.t.Fatalf("%d entries, %d counted", len(missing), r.GetMissingCount())
	}
	r.Missing = nil
	return r, missing
}

func (b *bundle) apply(channel string, planned []byte, head int64, policy channelsv1.RemovalPolicy) (*channelsv1.ApplyResponse, error) {
	return b.api.Apply(b.target(), &channelsv1.ApplyRequest{Channel: channel, Plan: planned, ExpectedHead: head, RemovalPolicy: policy})
}

func (b *bundle) mustApply(channel string, planned []byte, head int64, policy channelsv1.RemovalPolicy) *channelsv1.ApplyResponse {
	b.t.Helper()
	r, err := b.apply(channel, planned, head, policy)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func TestImport(t *testing.T) {
	t.Run("what is missing is fetched, then the plan is the next revision", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		e1, d1 := entry("noarch", "a", "1", "")
		e2, d2 := entry("linux-64", "b", "1", "")
		p := b.plan(&channelsv1.PlanHeader{Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Info: []byte(`{"subdir":"noarch","base_url":"https://up.example/","x":1}`), Removed: []string{"a-0-0.conda", "gone-1-0.tar.bz2"}}}}, e1, e2)
		b.keepBytes(d1)
		got, missing := b.diff("mir", p, keep)
		want := &channelsv1.DiffResponse{Head: 1, MissingCount: 1, MissingBytes: int64(len(d2)), Changed: 2}
		if d := cmp.Diff(want.String(), got.String()); d != "" || !slices.Equal(missing, []string{e2.Path}) {
			t.Errorf("missing %v, (-want +got):\n%s", missing, d)
		}
		_, err := b.apply("mir", p, 1, keep)
		wantFault(t, err, fault.Precondition, "BLOB_MISSING", "")
		b.keepBytes(d2)
		r := b.mustApply("mir", p, 1, keep)
		if r.GetRevision() != 2 || r.GetAdded() != 2 || r.GetUnchanged() != 0 || r.GetRemoved() != 0 {
			t.Errorf("got %v", r)
		}
		if got := b.shardRecords("mir", "linux-64"); len(got) != 1 || got["b-1-0.conda"] == nil {
			t.Errorf("linux-64 has %v", got)
		}
		ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "mir"})
		if err != nil || ch.GetFileCount() != 2 || ch.GetPackageCount() != 2 || ch.GetSize() != int64(len(d1)+len(d2)) {
			t.Errorf("%v, %v", ch, err)
		}

		t.Run("the same again moves nothing", func(t *testing.T) {
			got, missing := b.diff("mir", p, prune)
			if got.GetUnchanged() != 2 || got.GetChanged() != 0 || len(missing) != 0 {
				t.Errorf("diff %v", got)
			}
			r := b.mustApply("mir", p, 2, prune)
			if r.GetRevision() != 2 || r.GetUnchanged() != 2 || r.GetAdded()+r.GetRemoved() != 0 {
				t.Errorf("apply %v", r)
			}
		})
		t.Run("another head is a lost race", func(t *testing.T) {
			_, err := b.apply("mir", p, 1, keep)
			wantFault(t, err, fault.LostRace, "HEAD_MOVED", "")
		})
		t.Run("info, and removed names, are carried without upstream's places", func(t *testing.T) {
			b.startJobs()
			b.settled()
			doc := b.repodata("mir", "noarch")
			want := document{
				Info: map[string]any{"subdir": "noarch", "x": 1.0}, Packages: map[string]json.RawMessage{},
				Conda: map[string]json.RawMessage{"a-1-0.conda": e1.Record}, Removed: []string{"a-0-0.conda", "gone-1-0.tar.bz2"}, Version: 1,
			}
			if d := cmp.Diff(want, doc); d != "" {
				t.Errorf("repodata (-want +got):\n%s", d)
			}
		})
	})

	t.Run("records, policies, kept and redirected files", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		stay, d1 := entry("noarch", "stay", "1", "")
		drop, d2 := entry("noarch", "drop", "1", "")
		miss, d3 := entry("noarch", "miss", "1", "")
		far, d4 := entry("osx-64", "far", "1", "")
		b.keepBytes(d1, d2, d3, d4)
		b.mustApply("mir", b.plan(nil, stay, drop, miss, far), 1, keep)

		patched, _ := entry("noarch", "stay", "1", "")
		patched.Record = bytes.Replace(patched.Record, []byte(`{`), []byte(`{"depends":["x"],`), 1)
		kept := &channelsv1.PlanEntry{Path: miss.Path, Keep: true}
		nowhere := &channelsv1.PlanEntry{Path: "noarch/nowhere-1-0.conda", Keep: true}
		sent, _ := entry("noarch", "sent", "1+2", "")
		sent.Sha256, sent.Redirect = nil, true
		elsewhere, _ := entry("noarch", "elsewhere", "1", "")
		elsewhere.Redirect, elsewhere.Url = true, "https://user:secret@cdn.example/x/elsewhere-1-0.conda"
		p := b.plan(nil, patched, kept, nowhere, sent, elsewhere)
		got, missing := b.diff("mir", p, prune)
		if got.GetChanged() != 3 || got.GetRemoved() != 1 || got.GetUnchanged() != 1 || len(missing) != 0 {
			t.Errorf("diff %v, missing %v", got, missing)
		}
		r := b.mustApply("mir", p, 2, prune)
		if r.GetAdded() != 3 || r.GetRemoved() != 1 || r.GetUnchanged() != 1 {
			t.Errorf("apply %v", r)
		}
		if b.resolve("mir", drop.Path).GetFound() || !b.resolve("mir", miss.Path).GetFound() || b.resolve("mir", nowhere.Path).GetFound() {
			t.Error("pruned or kept the wrong ones")
		}
		if !b.resolve("mir", far.Path).GetFound() {
			t.Error("a subdir that the plan does not speak of was pruned")
		}
		if got := b.shardRecords("mir", "noarch")["stay-1-0.conda"]; !bytes.Contains(got, []byte(`"x"`)) {
			t.Errorf("record %s", got)
		}
		if got := b.resolve("mir", sent.Path); !got.GetFound() || got.GetRedirectUrl() != "https://up.example/chan/noarch/sent-1+2-0.conda" || len(got.GetSha256()) != 0 {
			t.Errorf("redirected: %v", got)
		}
		if got := b.resolve("mir", elsewhere.Path).GetRedirectUrl(); got != "https://cdn.example/x/elsewhere-1-0.conda" {
			t.Errorf("redirected to %q", got)
		}
		ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "mir"})
		if err != nil || ch.GetFileCount() != 5 || ch.GetSize() != int64(len(d1)+len(d3)+len(d4)) {
			t.Errorf("%v, %v", ch, err)
		}
		// A name on the proxylist later drops the stored copy.
		proxied, _ := entry("noarch", "miss", "1", "")
		proxied.Redirect = true
		b.mustApply("mir", b.plan(nil, proxied), 3, keep)
		if got := b.resolve("mir", miss.Path); len(got.GetSha256()) != 0 || got.GetRedirectUrl() == "" {
			t.Errorf("still stored: %v", got)
		}
		// A plan that names a subdir and nothing in it empties it.
		b.mustApply("mir", b.plan(&channelsv1.PlanHeader{Subdirs: []*channelsv1.PlanSubdir{{Subdir: "osx-64"}}}), 4, prune)
		if b.resolve("mir", far.Path).GetFound() || !b.resolve("mir", stay.Path).GetFound() || b.shardRecords("mir", "osx-64") == nil {
			t.Error("an emptied subdir keeps an empty index, and no other is touched")
		}
	})

	t.Run("without a SHA-256 in the index an equal MD5 is unchanged, and a patched record keeps its bytes", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		e, data := entry("noarch", "a", "1", "")
		b.keepBytes(data)
		b.mustApply("mir", b.plan(nil, e), 1, keep)
		e.Sha256 = nil
		if got, _ := b.diff("mir", b.plan(nil, e), keep); got.GetUnchanged() != 1 {
			t.Errorf("diff %v", got)
		}
		e.Record = []byte(`{"name":"a","version":"1","patched":true}`)
		if r := b.mustApply("mir", b.plan(nil, e), 2, keep); r.GetAdded() != 1 || !bytes.Equal(b.read("mir", e.Path), data) {
			t.Errorf("apply %v", r)
		}
		e.Md5 = bytes.Repeat([]byte{1}, 16)
		got, missing := b.diff("mir", b.plan(nil, e), keep)
		if got.GetChanged() != 1 || len(missing) != 1 {
			t.Errorf("changed bytes of unknown digest: %v, %v", got, missing)
		}
		_, err := b.apply("mir", b.plan(nil, e), 3, keep)
		wantFault(t, err, fault.Invalid, plan.Reason, "")
	})

	t.Run("a claim that is not current is refused, a current one is not", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		e, data := entry("noarch", "a", "1", "")
		b.keepBytes(data)
		p := b.plan(nil, e)
		job := uuid.New()
		_, err := b.pool.Exec(t.Context(), `INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, claim) VALUES ($1, 'sync.channel', 'x', '', 'running', 1, 'default', 2)`, job)
		if err != nil {
			t.Fatal(err)
		}
		apply := func(claim int64) (*channelsv1.ApplyResponse, error) {
			c := authn.Service("sync-worker")
			c.JobID, c.Claim = job.String(), claim
			return b.api.Apply(b.as(c), &channelsv1.ApplyRequest{Channel: "mir", Plan: p, ExpectedHead: 1})
		}
		if _, err := apply(1); err == nil || b.resolve("mir", e.Path).GetFound() {
			t.Fatalf("a stale claim published: %v", err)
		}
		if r, err := apply(2); err != nil || r.GetRevision() != 2 {
			t.Fatalf("%v, %v", r, err)
		}
	})

	t.Run("bad plans change nothing", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		b.hosted("local")
		mutate := func(f func(*channelsv1.PlanEntry)) []byte {
			e, data := entry("noarch", "a", "1", "")
			b.keepBytes(data)
			f(e)
			return b.plan(nil, e)
		}
		for name, p := range map[string][]byte{
			"no package":          mutate(func(e *channelsv1.PlanEntry) { e.Path = "noarch/repodata.json" }),
			"a subdir too deep":   mutate(func(e *channelsv1.PlanEntry) { e.Path = "a/b/a-1-0.conda" }),
			"a label of nobody":   mutate(func(e *channelsv1.PlanEntry) { e.Path = "No Arch/a-1-0.conda" }),
			"another subdir":      mutate(func(e *channelsv1.PlanEntry) { e.Arch = "linux-64" }),
			"a name that walks":   mutate(func(e *channelsv1.PlanEntry) { e.Name = "../a" }),
			"no record":           mutate(func(e *channelsv1.PlanEntry) { e.Record = nil }),
			"a record of garbage": mutate(func(e *channelsv1.PlanEntry) { e.Record = []byte(`{"a":}`) }),
			"another size":        mutate(func(e *channelsv1.PlanEntry) { e.Size++ }),
			"NUL in a text":       mutate(func(e *channelsv1.PlanEntry) { e.Version = "1\x00" }),
			"a removed path":      b.plan(&channelsv1.PlanHeader{Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Removed: []string{"../x"}}}}),
			"an unknown digest":   bytes.Repeat([]byte{9}, 32),
			"a short digest":      {1},
		} {
			if _, err := b.apply("mir", p, 1, prune); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "mir"}); err != nil || ch.GetHead() != 1 {
			t.Errorf("%v, %v", ch, err)
		}
		_, err := b.apply("local", b.plan(nil), 1, keep)
		wantFault(t, err, fault.Precondition, "CHANNEL_KIND", "This method is not implemented for local channels")
		_, err = b.api.Apply(b.as(b.eve), &channelsv1.ApplyRequest{Channel: "mir", Plan: b.plan(nil), ExpectedHead: 1})
		wantFault(t, err, fault.Denied, "", "")
	})

	t.Run("quota holds for syncs", func(t *testing.T) {
		b := setup(t)
		limit := int64(10)
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "mir", SizeLimit: &limit, Mirror: &channelsv1.MirrorSettings{Url: "http://up.example"}})
		e, data := entry("noarch", "a", "1", "")
		b.keepBytes(data)
		_, err := b.apply("mir", b.plan(nil, e), 1, keep)
		wantFault(t, err, fault.Exhausted, "QUOTA", "mir is above quota of 10 bytes")
	})
}

// manyEntries are n files of n/5 packages in one subdir, with records of a realistic size.
func manyEntries(n int) []*channelsv1.PlanEntry {
	depends, err := json.Marshal(slices.Repeat([]string{"libsomething-with-a-name >=1.2.3,<2.0a0"}, 10))
	if err != nil {
		panic(err) // strings are always JSON
	}
	out := make([]*channelsv1.PlanEntry, n)
	for i := range out {
		e, _ := entry("linux-64", fmt.Sprintf("package-%05d", i/5), fmt.Sprintf("1.%d", i%5), "")
		e.Record = append(e.Record[:len(e.Record)-1], fmt.Sprintf(`,"depends":%s,"license":"MIT","timestamp":%d}`, depends, 1600000000000+i)...)
		out[i] = e
	}
	return out
}

func TestTwoThousandRowsAreComparedAndAppliedQuickly(t *testing.T) {
	b := setup(t)
	b.mirror("mir")
	entries := manyEntries(2000)
	for i := range entries {
		_, data := entry("linux-64", fmt.Sprintf("package-%05d", i/5), fmt.Sprintf("1.%d", i%5), "")
		b.keepBytes(data)
	}
	p := b.plan(nil, entries...)
	start := time.Now()
	b.mustApply("mir", p, 1, keep)
	applied := time.Since(start)
	start = time.Now()
	got, _ := b.diff("mir", p, prune)
	compared := time.Since(start)
	if got.GetUnchanged() != 2000 {
		t.Errorf("%v", got)
	}
	t.Logf("first import of 2000 files in %s, no-op comparison in %s", applied, compared)
	if compared > 2*time.Second || applied > 10*time.Second { // far above what it takes: this guards against another order
		t.Errorf("applied in %s, compared in %s", applied, compared)
	}
}
