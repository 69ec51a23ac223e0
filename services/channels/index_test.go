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

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/services/channels"
)

func TestTheLargeIndexFollows(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.hosted("main")
	b.mustUpload("main", spec{name: "b", subdir: "linux-64"}, spec{name: "a", subdir: "linux-64", format: dist.TarBz2}, spec{name: "a-b", subdir: "linux-64"})
	b.settled()
	plain, packed := b.resolve("main", "linux-64/repodata.json"), b.resolve("main", "linux-64/repodata.json.zst")
	if !plain.GetFound() || plain.GetRevision() != 2 || packed.GetRevision() != 2 || !plain.GetIndex() {
		t.Fatalf("plain %v, packed %v", plain, packed)
	}
	doc := b.repodata("main", "linux-64")
	if d := cmp.Diff([]string{"a-1.0-h0_0.tar.bz2", "a-b-1.0-h0_0.conda", "b-1.0-h0_0.conda"}, doc.filenames()); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	if !bytes.Equal(unpack(t, b.read("main", "linux-64/repodata.json.zst")), b.read("main", "linux-64/repodata.json")) {
		t.Error("the two forms differ")
	}
	for name, rec := range doc.Conda {
		var fromShard map[string]any
		if err := json.Unmarshal(b.shardRecords("main", "linux-64")[name], &fromShard); err != nil {
			t.Fatal(err)
		}
		delete(fromShard, "run_exports")
		var fromDoc map[string]any
		if err := json.Unmarshal(rec, &fromDoc); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fromDoc, fromShard); d != "" {
			t.Errorf("%s in repodata and shard:\n%s", name, d)
		}
	}
	if r := b.resolve("main", "noarch/repodata.json"); r.GetRevision() != 1 {
		t.Errorf("noarch was built for nothing: %v", r)
	}

	t.Run("a build of what is built does nothing, a forced one builds", func(t *testing.T) {
		r, err := b.api.RebuildIndex(b.as(b.alice), &channelsv1.RebuildIndexRequest{Channel: "main"})
		if err != nil || r.GetJobId() == "" {
			t.Fatal(r, err)
		}
		b.settled()
		again := b.resolve("main", "linux-64/repodata.json")
		if !bytes.Equal(again.GetSha256(), plain.GetSha256()) || again.GetUpdateTime().AsTime().Equal(plain.GetUpdateTime().AsTime()) {
			t.Errorf("before %v, after %v", plain, again)
		}
		_, err = b.api.RebuildIndex(b.as(b.bob), &channelsv1.RebuildIndexRequest{Channel: "main"})
		wantFault(t, err, fault.Denied, "", "")
	})

	t.Run("the past is served from its own index", func(t *testing.T) {
		b.mustUpload("main", spec{name: "c", subdir: "linux-64"})
		b.settled()
		old, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "linux-64/repodata.json", Revision: 2})
		if err != nil || !bytes.Equal(old.GetSha256(), plain.GetSha256()) || len(b.repodata("main", "linux-64").filenames()) != 4 {
			t.Error(old, err)
		}
		future, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "linux-64/repodata.json", Revision: 99})
		if err != nil || future.GetFound() {
			t.Error(future, err)
		}
		if r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "linux-64/nothing"}); err != nil || r.GetFound() || r.GetChannel().GetName() != "main" {
			t.Error(r, err)
		}
		for _, p := range []string{"", "/noarch/repodata.json", "noarch/../x", "noarch/%2e%2e/x", "a\\b", "noarch//x"} {
			if _, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: p}); !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", p, err)
			}
		}
	})
}

// Whatever a reader sees while others write: one revision per file, and everything that is listed can be had.
func TestAReaderNeverSeesAMix(t *testing.T) {
	b := setup(t)
	b.startJobs()
	b.hosted("main")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failures := make(chan error, 1)
	reads := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := b.check("main", "noarch"); err != nil {
				failures <- err
				return
			}
			reads++
		}
	}()
	for i := range 12 {
		b.mustUpload("main", spec{name: fmt.Sprintf("p%d", i%4), version: fmt.Sprint(i)})
	}
	b.settled()
	stop()
	<-done
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	if reads == 0 {
		t.Error("nothing was read meanwhile")
	}
	if got := len(b.repodata("main", "noarch").filenames()); got != 12 || len(b.shardRecords("main", "noarch")) != 12 {
		t.Errorf("%d files in the end", got)
	}
}

// check reads a subdir's repodata.json and verifies each file that it lists. Nothing is deleted meanwhile.
func (b *bundle) check(channel, subdir string) error {
	ctx := context.WithoutCancel(b.target())
	get := func(path string) ([]byte, *channelsv1.ResolveResponse, error) {
		r, err := b.api.Resolve(ctx, &channelsv1.ResolveRequest{Channel: channel, Path: path})
		if err != nil || !r.GetFound() {
			return nil, r, err
		}
		data, err := blob.ReadAll(ctx, b.blobs, blob.Digest(r.GetSha256()), 1<<30)
		return data, r, err
	}
	data, at, err := get(subdir + "/repodata.json")
	if err != nil {
		return err
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	// Revision n+1 has n files here: uploads come one by one.
	if int64(len(doc.Conda)) > at.GetRevision()-1 {
		return fmt.Errorf("revision %d lists %d files", at.GetRevision(), len(doc.Conda))
	}
	for name, raw := range doc.Conda {
		var rec struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		}
		if err := json.Unmarshal(raw, &rec); err != nil {
			return err
		}
		data, _, err := get(subdir + "/" + name)
		if err != nil {
			return err
		}
		if blob.Sum(data).String() != rec.SHA256 || int64(len(data)) != rec.Size {
			return fmt.Errorf("%s is not what is listed", name)
		}
	}
	return nil
}

func TestOldIndexFilesAndFilesAreLetGo(t *testing.T) {
	b := setupConfig(t, channels.Config{KeepHistory: time.Millisecond, KeepShards: time.Millisecond, BatchWindow: time.Millisecond})
	b.startJobs()
	b.hosted("main")
	for i := range 14 {
		b.mustUpload("main", spec{name: "p", version: fmt.Sprint(i)})
		b.settled()
	}
	gone := spec{name: "q"}
	b.mustUpload("main", gone)
	if _, err := b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: gone.path()}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	time.Sleep(5 * time.Millisecond)
	b.mustUpload("main", spec{name: "last"})
	b.settled()
	var monoliths, shards, closed int
	err := b.pool.QueryRow(t.Context(), `SELECT
		(SELECT count(*) FROM channels.renditions WHERE path = 'noarch/repodata.json'), (SELECT count(*) FROM channels.renditions WHERE path LIKE '%/shards/%'),
		(SELECT count(*) FROM channels.files WHERE removed_rev IS NOT NULL)`).Scan(&monoliths, &shards, &closed)
	if err != nil || monoliths != 3 || shards > 3 || closed != 0 {
		t.Errorf("%d monoliths, %d shards, %d closed files (%v)", monoliths, shards, closed, err)
	}
	b.refsAreExact()
	if got := len(b.shardRecords("main", "noarch")); got != 15 {
		t.Errorf("%d files are listed", got)
	}
}

func TestAJobOfADeletedChannelEnds(t *testing.T) {
	b := setup(t)
	ch := b.hosted("main")
	b.mustUpload("main", spec{name: "a"})
	if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.jobs SET resource = 'elsewhere'`); err != nil { // so that it is not cancelled with the channel
		t.Fatal(err)
	}
	if _, err := b.api.DeleteChannel(b.as(b.alice), &channelsv1.DeleteChannelRequest{Channel: "main"}); err != nil {
		t.Fatal(err)
	}
	b.startJobs()
	b.settled()
	all, _, err := b.jobs.List(t.Context(), jobs.Filter{Kinds: []string{channels.KindIndex}}, jobs.Page{})
	if err != nil || len(all) == 0 || slices.ContainsFunc(all, func(j jobs.Info) bool { return j.State != jobs.Cancelled }) {
		t.Errorf("jobs of %s: %+v, %v", ch.GetId(), all, err)
	}
}
