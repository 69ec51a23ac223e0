package channels_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// A sequence of random plans is applied to a channel and to a map; after each, all that the channel tells must follow
// from the map, and every former revision must still be what it was.
func TestAChannelIsWhatItsPlansSay(t *testing.T) {
	b := setup(t)
	rng := rand.New(rand.NewPCG(1, 2))
	b.mirror("mir")
	type state map[string]*channelsv1.PlanEntry
	head, now := int64(1), state{}
	history := map[int64]state{1: {}}
	for range 25 {
		var entries []*channelsv1.PlanEntry
		next := maps.Clone(now)
		policy, listed, subdirs := keep, map[string]bool{}, map[string]bool{}
		if rng.IntN(2) == 0 {
			policy = prune
		}
		for i := range 12 {
			if rng.IntN(3) == 0 {
				continue
			}
			subdir := []string{"noarch", "linux-64"}[i%2]
			e, data := entry(subdir, fmt.Sprintf("p%d", i/4), fmt.Sprintf("%d.%d", i, i), fmt.Sprint(rng.IntN(3)))
			b.keepBytes(data)
			switch rng.IntN(6) {
			case 0:
				e = &channelsv1.PlanEntry{Path: e.Path, Keep: true, Arch: subdir}
			case 1:
				e.Redirect = true
			}
			entries = append(entries, e)
			listed[e.Path], subdirs[subdir] = true, true
			if !e.Keep {
				next[e.Path] = e
			}
		}
		if policy == prune {
			for path := range now {
				if subdir, _, _ := strings.Cut(path, "/"); subdirs[subdir] && !listed[path] {
					delete(next, path)
				}
			}
		}
		r := b.mustApply("mir", b.plan(nil, entries...), head, policy)
		changed := !maps.EqualFunc(now, next, func(x, y *channelsv1.PlanEntry) bool { return x.String() == y.String() })
		if changed != (r.GetRevision() == head+1) {
			t.Fatalf("revision %d after %d, changed: %t", r.GetRevision(), head, changed)
		}
		head, now = r.GetRevision(), next
		history[head] = next

		var size int64
		packages := map[string]bool{}
		want := map[string]string{}
		for path, e := range now {
			packages[e.Name] = true
			want[path] = string(e.Record)
			if !e.Redirect {
				size += e.Size
			}
		}
		got := map[string]string{}
		list, err := b.api.ListFiles(b.as(b.admin), &channelsv1.ListFilesRequest{Channel: "mir", PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list.GetFiles() {
			got[f.GetPath()] = f.GetRecord()
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("files at %d (-want +got):\n%s", head, d)
		}
		var shards []string
		for _, subdir := range []string{"noarch", "linux-64"} {
			for name := range b.shardRecords("mir", subdir) {
				shards = append(shards, subdir+"/"+name)
			}
		}
		slices.Sort(shards)
		if d := cmp.Diff(slices.Sorted(maps.Keys(want)), shards); d != "" && len(want)+len(shards) > 0 {
			t.Fatalf("shards at %d (-want +got):\n%s", head, d)
		}
		ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "mir"})
		if err != nil || ch.GetSize() != size || ch.GetFileCount() != int64(len(now)) || ch.GetPackageCount() != int64(len(packages)) {
			t.Fatalf("%d bytes, %d files, %d packages: %v, %v", size, len(now), len(packages), ch, err)
		}
	}
	for revision, st := range history {
		for i := range 12 {
			e, _ := entry([]string{"noarch", "linux-64"}[i%2], fmt.Sprintf("p%d", i/4), fmt.Sprintf("%d.%d", i, i), "")
			r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "mir", Path: e.Path, Revision: revision})
			if err != nil {
				t.Fatal(err)
			}
			want := st[e.Path]
			switch {
			case r.GetFound() != (want != nil):
				t.Errorf("%s at %d: found %t", e.Path, revision, r.GetFound())
			case want != nil && want.Redirect != (r.GetRedirectUrl() != ""):
				t.Errorf("%s at %d: redirected to %q", e.Path, revision, r.GetRedirectUrl())
			case want != nil && !want.Redirect && string(r.GetSha256()) != string(want.Sha256):
				t.Errorf("%s at %d: other bytes", e.Path, revision)
			}
		}
	}
	if head < 10 {
		t.Errorf("only %d revisions were made", head)
	}
}

// plainStore has none of a store's optional abilities, as an object store.
type plainStore struct{ blob.Store }

func TestAStoreWithoutBatchesWillDo(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	svc := b.newServiceOn(channels.Config{}, plainStore{b.blobs})
	req := &channelsv1.AddFilesRequest{Channel: "main"}
	for i := range 300 { // more than a batch of shards
		req.Files = append(req.Files, b.stage(spec{name: fmt.Sprintf("p%d", i)}))
	}
	if r, err := svc.AddFiles(b.as(b.alice), req); err != nil || len(r.GetFiles()) != 300 {
		t.Fatal(len(r.GetFiles()), err)
	}
	if got := len(b.shardRecords("main", "noarch")); got != 300 {
		t.Errorf("%d files in shards", got)
	}
}

func TestBytesThatWereAboutToBeCollectedAreKept(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	s := spec{name: "a"}
	condemn := func() {
		t.Helper()
		if _, err := b.pool.Exec(t.Context(), `UPDATE refs.blobs SET condemned_at = now() WHERE NOT EXISTS (SELECT FROM refs.refs r WHERE r.digest = blobs.digest)`); err != nil {
			t.Fatal(err)
		}
	}
	b.mustUpload("main", s)
	if _, err := b.api.DeleteChannel(b.as(b.alice), &channelsv1.DeleteChannelRequest{Channel: "main"}); err != nil {
		t.Fatal(err)
	}
	condemn() // nobody refers to the package, its shard or the empty index now
	b.hosted("main")
	b.mustUpload("main", s)
	var lost int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM refs.blobs b JOIN refs.refs r USING (digest) WHERE condemned_at IS NOT NULL`).Scan(&lost); err != nil || lost != 0 {
		t.Errorf("%d blobs are named and condemned (%v)", lost, err)
	}

	t.Run("unless they are gone", func(t *testing.T) {
		if _, err := b.api.DeleteChannel(b.as(b.alice), &channelsv1.DeleteChannelRequest{Channel: "main"}); err != nil {
			t.Fatal(err)
		}
		condemn()
		b.hosted("main")
		f := b.stage(s)
		n, err := refs.Sweep(t.Context(), b.pool, 0, 1000, b.blobs.Delete)
		if err != nil {
			t.Fatal(n, err)
		}
		if err := b.blobs.Delete(t.Context(), blob.Digest(f.GetSha256())); err != nil {
			t.Fatal(err)
		}
		_, err = b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}})
		if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Precondition) {
			t.Errorf("bytes that are not there were published: %v", err)
		}
		b.mustUpload("main", s)
		if b.shardRecords("main", "noarch")[s.filename()] == nil {
			t.Error("not listed")
		}
	})
}

func TestAKilledTransactionLeavesNothing(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	f := b.stage(spec{name: "a"})
	// The backend dies while the publisher stores the shard: blobs are there, the transaction is not.
	var killed atomic.Bool
	b.store.set(func(op string) error {
		if op != "put" || killed.Swap(true) {
			return nil
		}
		_, err := b.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'idle in transaction' AND datname = current_database()`)
		return err
	})
	_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}})
	b.store.set(nil)
	if !killed.Load() || !fault.Is(err, fault.Unavailable) {
		t.Fatalf("killed: %t, got %v", killed.Load(), err)
	}
	if b.resolve("main", spec{name: "a"}.path()).GetFound() || len(b.shardRecords("main", "noarch")) != 0 {
		t.Error("something became visible")
	}
	if _, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}}); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}
