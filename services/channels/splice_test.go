package channels_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// An index made from the one before must be the one that is written from the rows.
func TestASplicedIndexIsTheOneMadeFromTheRows(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1}.WithSpliceFrom(1).WithExtrasPause(time.Millisecond))
	b.startJobs()
	b.mirror("mir")
	rng := rand.New(rand.NewPCG(3, 4))
	head := int64(1)
	bases := 0
	for round := range 12 {
		var entries []*channelsv1.PlanEntry
		for i := range 30 {
			if rng.IntN(4) == 0 {
				continue
			}
			e, data := entry("linux-64", fmt.Sprintf("p%02d", i), "1", fmt.Sprint(rng.IntN(2)))
			b.keepBytes(data)
			entries = append(entries, e)
		}
		head = b.mustApply("mir", b.plan(nil, entries...), head, prune).GetRevision()
		b.settled()
		spliced := b.read("mir", "linux-64/repodata.json")
		if n := len(parseDocument(t, spliced).filenames()); n != len(entries) {
			t.Fatalf("round %d: %d files are listed, %d are there", round, n, len(entries))
		}
		var have bool
		if err := b.pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM channels.conda_spans s JOIN channels.renditions r USING (channel_id, revision, digest))`).Scan(&have); err != nil {
			t.Fatal(err)
		}
		if have {
			bases++
		}
		ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "mir"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := channels.BuildMonoliths(t.Context(), b.svc, ch.GetId(), "linux-64"); err != nil { // from the rows
			t.Fatal(err)
		}
		if _, err := b.api.RebuildIndex(b.as(b.admin), &channelsv1.RebuildIndexRequest{Channel: "mir"}); err != nil {
			t.Fatal(err)
		}
		b.settled()
		if d := cmp.Diff(string(b.read("mir", "linux-64/repodata.json")), string(spliced)); d != "" {
			t.Fatalf("round %d:\n%s", round, d)
		}
	}
	if bases < 12 {
		t.Errorf("only %d indexes could be made from the one before", bases)
	}
}

func TestALostIndexIsMadeFromTheRows(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1}.WithSpliceFrom(1).WithExtrasPause(time.Millisecond))
	b.startJobs()
	b.hosted("main")
	b.mustUpload("main", spec{name: "a"})
	b.settled()
	if err := b.blobs.Delete(t.Context(), blob.Digest(b.resolve("main", "noarch/repodata.json").GetSha256())); err != nil {
		t.Fatal(err)
	}
	b.mustUpload("main", spec{name: "b"})
	b.settled()
	if got := parseDocument(t, b.read("main", "noarch/repodata.json")).filenames(); !slices.Equal(got, []string{spec{name: "a"}.filename(), spec{name: "b"}.filename()}) {
		t.Errorf("the index lists %v", got)
	}
}

// What does not differ from the plan before is not looked at: a row that went behind the back of the service stays away
// as long as nothing else asks for all of the plan.
func TestOnlyWhatDiffersFromTheFormerPlanIsStaged(t *testing.T) {
	b := setup(t)
	b.mirror("mir")
	entries := manyEntries(20)
	for i := range entries {
		_, data := entry("linux-64", fmt.Sprintf("package-%05d", i/5), fmt.Sprintf("1.%d", i%5), "")
		b.keepBytes(data)
	}
	first := b.plan(nil, entries[:19]...)
	b.mustApply("mir", first, 1, prune)
	if r := b.mustApply("mir", first, 2, prune); r.GetRevision() != 2 || r.GetUnchanged() != 19 || r.GetAdded() != 0 {
		t.Errorf("the same plan once more: %v", r)
	}
	if _, err := b.pool.Exec(t.Context(), `DELETE FROM channels.files WHERE path = $1`, entries[0].Path); err != nil {
		t.Fatal(err)
	}
	next := b.plan(nil, entries[1:]...)
	if r, _ := b.diff("mir", next, prune); r.GetUnchanged() != 18 || r.GetChanged() != 1 || r.GetRemoved() != 0 {
		t.Errorf("the difference was not taken between the plans: %v", r)
	}
	again := b.plan(nil, entries...)
	if r := b.mustApply("mir", again, 2, prune); r.GetAdded() != 1 || r.GetUnchanged() != 19 {
		t.Errorf("the row was looked at: %v", r)
	}
	t.Run("a former plan that is lost costs only time", func(t *testing.T) {
		if err := b.blobs.Delete(t.Context(), blob.Digest(again)); err != nil {
			t.Fatal(err)
		}
		rest := b.plan(nil, entries[:18]...)
		if r, _ := b.diff("mir", rest, prune); r.GetUnchanged() != 17 || r.GetChanged() != 1 || r.GetRemoved() != 2 {
			t.Errorf("%v", r)
		}
		if r := b.mustApply("mir", rest, 3, prune); r.GetAdded() != 1 || r.GetRemoved() != 2 {
			t.Errorf("%v", r)
		}
		b.refsAreExact()
	})
	t.Run("another policy looks at all", func(t *testing.T) {
		if r, _ := b.diff("mir", b.plan(nil, entries[:17]...), keep); r.GetUnchanged() != 17 || r.GetRemoved() != 0 {
			t.Errorf("%v", r)
		}
	})
}

func TestExtrasOfManyPublicationsAreBuiltOnceInAWhile(t *testing.T) {
	b := setupConfig(t, channels.Config{BatchWindow: -1}.WithExtrasPause(2*time.Second))
	b.startJobs()
	b.hosted("main")
	b.settled()
	begin := time.Now()
	const n = 8
	for i := range n {
		b.mustUpload("main", spec{name: "a", version: fmt.Sprint(i)})
		for b.resolve("main", "noarch/repodata.json").GetRevision() != int64(i+2) { // each has its index
			time.Sleep(5 * time.Millisecond)
		}
	}
	published := time.Since(begin)
	b.settled()
	var built int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM jobs.jobs WHERE kind = $1`, channels.KindExtras).Scan(&built); err != nil {
		t.Fatal(err)
	}
	if most := 2 * (3 + int(published/(2*time.Second))); built > most {
		t.Errorf("%d jobs for the extras of %d publications in %v", built, n, published)
	}
	for _, p := range []string{"noarch/current_repodata.json", "channeldata.json", "noarch/repodata.json.bz2"} {
		if r := b.resolve("main", p); r.GetRevision() != n+1 {
			t.Errorf("%s is of revision %d: the last publication was forgotten", p, r.GetRevision())
		}
	}
}
