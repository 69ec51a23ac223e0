package channels_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// at returns what a channel served at a path at a revision, with its bytes.
func (b *bundle) at(channel, path string, revision int64) (*channelsv1.ResolveResponse, []byte) {
	b.t.Helper()
	r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: channel, Path: path, Revision: revision})
	if err != nil {
		b.t.Fatalf("%s@%d: %v", path, revision, err)
	}
	if !r.GetFound() {
		return r, nil
	}
	data, err := blob.ReadAll(context.Background(), b.blobs, blob.Digest(r.GetSha256()), 1<<30)
	if err != nil {
		b.t.Fatal(err)
	}
	return r, data
}

// listedAt reads what a revision lists, from repodata.json and from the shards, which must agree.
func (b *bundle) listedAt(channel, subdir string, revision int64) []string {
	b.t.Helper()
	_, doc := b.at(channel, subdir+"/repodata.json", revision)
	_, index := b.at(channel, subdir+"/repodata_shards.msgpack.zst", revision)
	if doc == nil || index == nil {
		b.t.Fatalf("%s@%d has no index", subdir, revision)
	}
	_, packed := b.at(channel, subdir+"/repodata.json.zst", revision)
	if !bytes.Equal(unpack(b.t, packed), doc) {
		b.t.Errorf("%s@%d: the two forms differ", subdir, revision)
	}
	ix, err := repodata.ParseIndex(index, repodata.ParseOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	sharded := map[string]bool{}
	for name, digest := range ix.Shards {
		_, data := b.at(channel, subdir+"/shards/"+repodata.ShardPath(digest), revision)
		if data == nil {
			b.t.Fatalf("%s@%d: the shard of %s is not served", subdir, revision, name)
		}
		sh, err := repodata.ParseShard(data, repodata.ParseOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, r := range sh.Records {
			sharded[r.Key] = true
		}
	}
	files := parseDocument(b.t, doc).filenames()
	for _, f := range files {
		if !sharded[f] {
			b.t.Errorf("%s@%d: %s is in no shard", subdir, revision, f)
		}
		if r, _ := b.at(channel, subdir+"/"+f, revision); !r.GetFound() {
			b.t.Errorf("%s@%d: %s is listed and not served", subdir, revision, f)
		}
	}
	if len(files) != len(sharded) {
		b.t.Errorf("%s@%d: %d files, %d in shards", subdir, revision, len(files), len(sharded))
	}
	return files
}

// Every revision must be served as it was, whatever retention has taken, again and again.
func TestThePastIsServedAsItWas(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1, KeepShards: 50 * time.Millisecond})
	b.startJobs()
	b.hosted("main")
	want := map[int64][]string{1: nil}
	var now []string
	for i := range 14 {
		s := spec{name: fmt.Sprintf("p%d", i%3), version: fmt.Sprintf("%02d", i)}
		if i%5 == 4 { // another subdir: noarch stays as it is
			b.mustUpload("main", spec{name: "other", version: fmt.Sprint(i), subdir: "linux-64"})
		} else if i%5 == 3 {
			_, err := b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: "noarch/" + now[0]})
			if err != nil {
				t.Fatal(err)
			}
			now = append([]string(nil), now[1:]...)
		} else {
			b.mustUpload("main", s)
			now = append(append([]string(nil), now...), s.filename())
		}
		if i%3 == 0 { // not every revision gets its index
			b.settled()
		}
		want[int64(i+2)] = now
	}
	b.settled()
	time.Sleep(60 * time.Millisecond)
	b.mustUpload("main", spec{name: "q"})
	b.settled() // lets go of what is older
	head := b.resolve("main", "noarch/repodata.json")
	for round := range 2 {
		for n, files := range want {
			got := b.listedAt("main", "noarch", n)
			if d := cmp.Diff(sortedCopy(files), sortedCopy(got)); d != "" {
				t.Errorf("round %d, revision %d:\n%s", round, n, d)
			}
		}
	}
	if after := b.resolve("main", "noarch/repodata.json"); !bytes.Equal(after.GetSha256(), head.GetSha256()) || after.GetRevision() != head.GetRevision() {
		t.Error("the head was changed by those who read the past")
	}
	if _, doc := b.at("main", "channeldata.json", 3); doc != nil {
		t.Error("channeldata.json of another revision is served")
	}
	for _, p := range []string{"noarch/shards/" + strings.Repeat("ab", 32) + ".msgpack.zst", "linux-64/repodata.json", "noarch/nothing.json", "win-64/repodata.json"} {
		if r, _ := b.at("main", p, 2); r.GetFound() {
			t.Errorf("%s is served", p)
		}
	}

	t.Run("what was built for readers is let go of", func(t *testing.T) {
		time.Sleep(60 * time.Millisecond)
		b.mustUpload("main", spec{name: "r"})
		b.settled()
		var n int
		if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM channels.renditions WHERE path = 'noarch/repodata.json'`).Scan(&n); err != nil || n != 3 {
			t.Errorf("%d stay (%v)", n, err)
		}
		b.refsAreExact()
		if got := b.listedAt("main", "noarch", 4); len(got) != len(want[4]) {
			t.Errorf("afterwards: %v", got)
		}
		b.refsAreExact()
	})
}

func sortedCopy(in []string) []string {
	m := map[string]bool{}
	for _, s := range in {
		m[s] = true
	}
	out := []string{}
	for s := range m {
		out = append(out, s)
	}
	for i := range out {
		for j := i; j > 0 && out[j] < out[j-1]; j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

// refsAreExact: what is named has a reference, and nothing else has.
func (b *bundle) refsAreExact() {
	b.t.Helper()
	rows, err := b.pool.Query(b.t.Context(), `
		SELECT encode(coalesce(n.digest, r.digest), 'hex') || CASE WHEN r.digest IS NULL THEN ' is named without reference' ELSE ' is referred to for nothing' END
		FROM (SELECT digest FROM channels.files WHERE digest IS NOT NULL UNION SELECT digest FROM channels.renditions UNION SELECT plan FROM channels.applied) n
		FULL JOIN (SELECT digest FROM refs.refs) r ON r.digest = n.digest WHERE n.digest IS NULL OR r.digest IS NULL`)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			b.t.Fatal(err)
		}
		b.t.Error(s)
	}
}

func TestAPastThatIsGoneIsSaidToBe(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1, KeepHistory: time.Millisecond})
	b.startJobs()
	b.hosted("main")
	gone := spec{name: "gone"}
	b.mustUpload("main", gone)
	if _, err := b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: gone.path()}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	b.mustUpload("main", spec{name: "new"}) // revision 4
	b.settled()
	for n, missing := range map[int64]string{
		1: "revision 1 of channel main is no longer kept: the oldest is 3",
		2: "revision 2 of channel main is no longer kept: the oldest is 3",
		3: "", 4: "", 5: "channel main has no revision 5",
	} {
		for _, p := range []string{"noarch/repodata.json", gone.path()} {
			r, _ := b.at("main", p, n)
			if r.GetMissing() != missing || r.GetChannel().GetName() != "main" || (missing != "" && r.GetFound()) {
				t.Errorf("%s@%d: %v", p, n, r)
			}
		}
	}
	if got := b.listedAt("main", "noarch", 3); len(got) != 0 {
		t.Errorf("revision 3 lists %v", got)
	}
	var facts int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM channels.conda_facts f WHERE NOT EXISTS (SELECT 1 FROM channels.files x WHERE x.digest = f.digest)`).Scan(&facts); err != nil || facts != 0 {
		t.Errorf("%d facts are kept for nothing (%v)", facts, err)
	}
	// Of the changes up to the oldest revision that is kept, only the one that it shows.
	rows, err := b.pool.Query(t.Context(), `SELECT revision FROM channels.conda_changes WHERE subdir = 'noarch' ORDER BY revision`)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if diff := cmp.Diff([]int64{3, 4}, changes); diff != "" || err != nil {
		t.Errorf("changes: %s (%v)", diff, err)
	}
}

func TestADateIsItsRevision(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1})
	b.startJobs()
	b.hosted("main")
	b.mustUpload("main", spec{name: "a"})
	b.mustUpload("main", spec{name: "b"})
	b.settled()
	revs, err := b.api.ListRevisions(b.as(b.alice), &channelsv1.ListRevisionsRequest{Channel: "main"})
	if err != nil {
		t.Fatal(err)
	}
	at := func(when time.Time) *channelsv1.ResolveResponse {
		t.Helper()
		r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "noarch/repodata_shards.msgpack.zst", At: timestamppb.New(when)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, rev := range revs.GetRevisions() {
		when := rev.GetCreateTime().AsTime()
		if r := at(when); r.GetRevision() != rev.GetNumber() {
			t.Errorf("at its own time revision %d is %v", rev.GetNumber(), r)
		}
		if r := at(when.Add(-time.Microsecond)); r.GetRevision() != rev.GetNumber()-1 {
			t.Errorf("just before, revision %d is %v", rev.GetNumber(), r)
		}
	}
	if r := at(time.Now().Add(time.Hour)); r.GetFound() || !strings.HasSuffix(r.GetMissing(), "lies in the future") {
		t.Errorf("the future: %v", r)
	}
	if r := at(time.Unix(0, 0)); r.GetFound() || r.GetMissing() != "channel main did not exist on 1970-01-01T00:00:00Z" {
		t.Errorf("before the beginning: %v", r)
	}
	_, err = b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "x", Revision: 1, At: timestamppb.Now()})
	wantFault(t, err, fault.Invalid, "", "")
}

func TestALargePastIsBuiltByAJob(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1}.WithPastRecords(2))
	b.hosted("main")
	b.mustUpload("main", spec{name: "a"}, spec{name: "b"}, spec{name: "c"})
	b.mustUpload("main", spec{name: "d"})
	for range 3 { // nothing is built yet; all who ask share a job
		_, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "noarch/repodata.json", Revision: 2})
		wantFault(t, err, fault.Unavailable, "BUILDING", "")
	}
	var n int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM jobs.jobs WHERE kind = $1`, channels.KindPast).Scan(&n); err != nil || n != 1 {
		t.Fatalf("%d jobs, %v", n, err)
	}
	b.startJobs()
	b.settled()
	if got := b.listedAt("main", "noarch", 2); len(got) != 3 {
		t.Errorf("revision 2 lists %v", got)
	}
	b.refsAreExact()
}

func TestManyReadersOfThePastBuildItOnce(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1})
	b.hosted("main")
	b.mustUpload("main", spec{name: "a"})
	b.mustUpload("main", spec{name: "b"})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "noarch/repodata.json", Revision: int64(2 + i%2)})
			if err != nil || r.GetRevision() != int64(2+i%2) {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	wg.Wait()
	b.refsAreExact()

	t.Run("the newest one is the head's", func(t *testing.T) {
		if r := b.resolve("main", "noarch/repodata.json"); r.GetRevision() != 3 {
			t.Errorf("the head serves revision %d", r.GetRevision())
		}
		b.startJobs()
		b.settled()
		b.sameForms("main", "noarch/repodata.json")
		b.sameForms("main", "noarch/current_repodata.json")
		var kept bool
		err := b.pool.QueryRow(t.Context(), `SELECT replaced_at IS NULL FROM channels.renditions WHERE path = 'noarch/repodata.json' AND revision = 3`).Scan(&kept)
		if err != nil || !kept {
			t.Errorf("it would be let go of (%v)", err)
		}
	})
}

func TestAMirrorsPastKeepsNoNewerRemovals(t *testing.T) {
	b := setup(t)
	b.mirror("mir")
	a, data := entry("noarch", "a", "1", "")
	b.keepBytes(data)
	c, data := entry("noarch", "c", "1", "")
	b.keepBytes(data)
	b.mustApply("mir", b.plan(nil, a, c), 1, keep)
	header := &channelsv1.PlanHeader{Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Removed: []string{"a-1-0.conda"}}}}
	b.mustApply("mir", b.plan(header, c), 2, prune)
	var doc document
	_, raw := b.at("mir", "noarch/repodata.json", 2)
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Conda) != 2 || len(doc.Removed) != 0 {
		t.Errorf("revision 2: %s, %v", raw, err)
	}
	_, raw = b.at("mir", "noarch/repodata.json", 3)
	doc = document{}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Conda) != 1 || len(doc.Removed) != 1 {
		t.Errorf("revision 3: %s, %v", raw, err)
	}
}
