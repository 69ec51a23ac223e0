package channels_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// generate asks for all index files anew.
func (b *bundle) generate(channel string) {
	b.t.Helper()
	if _, err := b.api.StartAction(b.as(b.alice), &channelsv1.StartActionRequest{Channel: channel, Action: "generate_indexes"}); err != nil {
		b.t.Fatal(err)
	}
}

// causes are the causes of a channel's revisions, oldest first.
func (b *bundle) causes(channel string) (out []string) {
	b.t.Helper()
	r, err := b.api.ListRevisions(b.as(b.alice), &channelsv1.ListRevisionsRequest{Channel: channel})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, rev := range r.GetRevisions() {
		out = append([]string{rev.GetCause()}, out...)
	}
	return out
}

// sortedFiles are the files that a subdir's shards list.
func (b *bundle) sortedFiles(channel, subdir string) []string {
	b.t.Helper()
	all := make(map[string]bool)
	for name := range b.shardRecords(channel, subdir) {
		all[name] = true
	}
	return sorted(all)
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	return sortedCopy(out)
}

// TestGenerateIndexes: all index files are made anew beside what goes on.
func TestGenerateIndexes(t *testing.T) {
	t.Run("uploads and deletions do not wait for it, and it takes nothing of them away", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a"}, spec{name: "b"}, spec{name: "gone"}, spec{name: "c", subdir: "linux-64"})
		b.startJobs()
		b.settled()
		late := b.stage(spec{name: "late"})
		second := b.stage(spec{name: "b", version: "2.0"})
		begun, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		b.store.set(func(op string) error {
			first := false
			if op == "put" {
				once.Do(func() { first = true })
			}
			if first {
				close(begun)
				<-release
			}
			return nil
		})
		b.generate("main")
		<-begun
		ctx, cancel := context.WithTimeout(b.as(b.alice), 10*time.Second)
		defer cancel()
		_, err := b.api.AddFiles(ctx, &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{late, second}})
		if err == nil {
			_, err = b.api.DeletePackage(ctx, &channelsv1.DeletePackageRequest{Channel: "main", Package: "gone"})
		}
		close(release)
		if err != nil {
			t.Fatal(err)
		}
		b.settled()
		if d := cmp.Diff([]string{"create", "upload", "upload", "delete", "generate"}, b.causes("main")); d != "" {
			t.Errorf("revisions (-want +got):\n%s", d)
		}
		want := []string{"a-1.0-h0_0.conda", "b-1.0-h0_0.conda", "b-2.0-h0_0.conda", "late-1.0-h0_0.conda"}
		if d := cmp.Diff(want, b.sortedFiles("main", "noarch")); d != "" {
			t.Errorf("shards (-want +got):\n%s", d)
		}
		if d := cmp.Diff(want, sortedCopy(b.repodata("main", "noarch").filenames())); d != "" {
			t.Errorf("repodata.json (-want +got):\n%s", d)
		}
		b.refsAreExact()
	})

	t.Run("wrong shards are replaced, lost ones come back, and others go", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a"}, spec{name: "b"}, spec{name: "c"}, spec{name: "d"})
		want := b.sortedFiles("main", "noarch")
		for _, sql := range []string{
			`UPDATE channels.conda_shards SET digest = (SELECT digest FROM channels.conda_shards WHERE name = 'd') WHERE name = 'a'`,
			`DELETE FROM channels.conda_shards WHERE name = 'b'`,
			`INSERT INTO channels.conda_shards (channel_id, subdir, name, digest, revision) SELECT channel_id, subdir, 'ghost', digest, revision FROM channels.conda_shards WHERE name = 'd'`,
		} {
			if _, err := b.pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		var digest blob.Digest
		if err := b.pool.QueryRow(t.Context(), `SELECT digest FROM channels.conda_shards WHERE name = 'c'`).Scan(&digest); err != nil {
			t.Fatal(err)
		}
		if err := b.blobs.Delete(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
		b.generate("main")
		b.startJobs()
		b.settled()
		if d := cmp.Diff(want, b.sortedFiles("main", "noarch")); d != "" {
			t.Errorf("shards (-want +got):\n%s", d)
		}
		var names []string
		if err := b.pool.QueryRow(t.Context(), `SELECT array_agg(name ORDER BY name) FROM channels.conda_shards WHERE subdir = 'noarch'`).Scan(&names); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"a", "b", "c", "d"}, names); d != "" {
			t.Errorf("rows (-want +got):\n%s", d)
		}
	})

	t.Run("an attempt after the one that published makes no further revision", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a"})
		b.startJobs()
		b.settled()
		var once sync.Once
		failed := false
		b.store.set(func(op string) (err error) {
			var n int
			if op == "put" && b.pool.QueryRow(context.Background(), `SELECT count(*) FROM channels.revisions WHERE cause = 'generate'`).Scan(&n) == nil && n > 0 {
				once.Do(func() { failed, err = true, fault.New(fault.Unavailable, "the disk is away") })
			}
			return err
		})
		b.generate("main")
		b.settled()
		if d := cmp.Diff([]string{"create", "upload", "generate"}, b.causes("main")); d != "" || !failed {
			t.Errorf("revisions (-want +got), failed %v:\n%s", failed, d)
		}
		b.generate("main") // another job does make one
		b.settled()
		if d := cmp.Diff([]string{"create", "upload", "generate", "generate"}, b.causes("main")); d != "" {
			t.Errorf("revisions (-want +got):\n%s", d)
		}
	})

	t.Run("it ends although another process publishes all the time", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		var specs []spec
		for i := range 40 {
			specs = append(specs, spec{name: fmt.Sprintf("p%02d", i)})
		}
		b.mustUpload("main", specs...)
		other := b.newService(channels.Config{})
		done := make(chan struct{})
		var g sync.WaitGroup
		uploads := 0
		g.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				req := &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{b.stage(spec{name: fmt.Sprintf("q%03d", uploads)})}}
				if _, err := other.AddFiles(b.as(b.alice), req); err != nil {
					t.Error(err)
					return
				}
				uploads++
			}
		})
		b.generate("main")
		b.startJobs()
		b.settledKind(channels.KindGenerate)
		close(done)
		g.Wait()
		b.settled()
		if got := b.sortedFiles("main", "noarch"); len(got) != 40+uploads {
			t.Errorf("%d files in shards, want %d", len(got), 40+uploads)
		}
		if got := b.repodata("main", "noarch").filenames(); len(got) != 40+uploads {
			t.Errorf("%d files in repodata.json, want %d", len(got), 40+uploads)
		}
	})
}
