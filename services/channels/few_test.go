package channels_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// What is staged in memory leaves the same rows as what is staged in tables, also beside another process that publishes to
// the same channel, replacements and deletions.
func TestAFewFilesArePublishedAsManyAre(t *testing.T) {
	few, tables := setup(t), setup(t)
	both := []*bundle{few, tables}
	// Records tell the time at which they were made.
	now := time.Now().UTC().Truncate(time.Second)
	clocked := func(b *bundle, cfg channels.Config) *channels.Service {
		svc, err := channels.New(cfg, channels.Deps{Pool: b.pool, Blobs: b.store, Jobs: b.jobs, Identity: b.ident, Roles: b.id.Roles, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(svc.Stop)
		return svc
	}
	inMemory, inTables := channels.Config{BatchWindow: -1}, channels.Config{BatchWindow: -1}.WithStageAll()
	services := []*channels.Service{clocked(few, inMemory), clocked(tables, inTables)}
	others := []*channels.Service{clocked(few, inMemory), clocked(tables, inTables)}
	for _, b := range both {
		b.hosted("main")
		b.hosted("other")
	}
	rng := rand.New(rand.NewPCG(7, 7))
	random := func() spec {
		s := spec{
			name: fmt.Sprintf("p%d", rng.IntN(6)), version: fmt.Sprintf("1.%d", rng.IntN(30)), number: int64(rng.IntN(2)), content: fmt.Sprint(rng.IntN(4)),
			subdir: []string{"linux-64", "noarch", "osx-arm64"}[rng.IntN(3)], format: []dist.Format{dist.Conda, dist.TarBz2}[rng.IntN(2)],
			about: &archive.About{Summary: "says something"},
		}
		if s.subdir == "noarch" {
			s.noarch = archive.NoarchGeneric
		}
		if rng.IntN(2) == 0 {
			s.runExports = &archive.RunExports{Weak: archive.StringList{s.name}}
		}
		return s
	}
	for i := range 120 {
		now = now.Add(time.Second)
		channel := []string{"main", "main", "other"}[rng.IntN(3)]
		var specs []spec
		var packed [][]byte // they hold the time at which they were made
		for range 1 + rng.IntN(4) {
			specs = append(specs, random())
			packed = append(packed, specs[len(specs)-1].bytes(t))
		}
		force, elsewhere, remove := rng.IntN(4) == 0, rng.IntN(4) == 0, rng.IntN(10) == 0
		var outcome [2]string
		for k, b := range both {
			if remove {
				_, err := services[k].DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: channel, Package: specs[0].name})
				if err != nil && !fault.Is(err, fault.NotFound) {
					t.Fatal(err)
				}
				outcome[k] = fmt.Sprint(err)
				continue
			}
			req := &channelsv1.AddFilesRequest{Channel: channel, Force: force}
			for i, s := range specs {
				req.Files = append(req.Files, b.put(s.filename(), packed[i]))
			}
			var r *channelsv1.AddFilesResponse
			var err error
			if elsewhere {
				r, err = others[k].AddFiles(b.as(b.alice), req)
			} else {
				r, err = services[k].AddFiles(b.as(b.alice), req)
			}
			if err != nil && !fault.Is(err, fault.Conflict) {
				t.Fatal(err)
			}
			outcome[k] = fmt.Sprint(r.GetRevision(), len(r.GetFiles()), err != nil)
		}
		if outcome[0] != outcome[1] {
			t.Fatalf("step %d: in memory %s, in tables %s", i, outcome[0], outcome[1])
		}
	}
	for _, q := range []string{
		`SELECT c.name, path, added_rev, removed_rev, f.digest, md5, f.size, f.name, version, build, build_number, arch, convert_from(record, 'UTF8'), run_exports, redirect, url, uploader,
			abs(indexed_ms - extract(epoch FROM f.created_at) * 1000) <= 1 FROM channels.files f JOIN channels.channels c ON c.id = f.channel_id ORDER BY 1, 2, 3`,
		`SELECT c.name, s.subdir, s.name, s.digest, s.revision FROM channels.conda_shards s JOIN channels.channels c ON c.id = s.channel_id ORDER BY 1, 2, 3`,
		`SELECT c.name, s.subdir, s.revision, s.info, s.removed FROM channels.conda_subdirs s JOIN channels.channels c ON c.id = s.channel_id ORDER BY 1, 2`,
		`SELECT c.name, s.subdir, s.revision FROM channels.conda_changes s JOIN channels.channels c ON c.id = s.channel_id ORDER BY 1, 2, 3`,
		`SELECT c.name, r.path, r.revision, r.digest, r.size, r.replaced_at IS NULL FROM channels.renditions r JOIN channels.channels c ON c.id = r.channel_id ORDER BY 1, 2, 3`,
		`SELECT c.name, p.name, summary, p.description, url, p.file_count, current_version, subdirs, p.updated_at IS NULL FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id ORDER BY 1, 2`,
		`SELECT name, head, size, file_count, package_count FROM channels.channels ORDER BY 1`,
		`SELECT c.name, number, author, added, removed, cause FROM channels.revisions r JOIN channels.channels c ON c.id = r.channel_id ORDER BY 1, 2`,
		`SELECT c.name, r.digest FROM refs.refs r JOIN channels.channels c ON c.id::text = r.owner_id ORDER BY 1, 2`,
		`SELECT digest, size FROM refs.blobs ORDER BY 1`,
		`SELECT c.name, a.digest, a.facts FROM channels.conda_facts a JOIN channels.channels c ON c.id = a.channel_id ORDER BY 1, 2`,
		`SELECT action, resource, details - 'id' FROM outbox.audit ORDER BY id`,
		`SELECT kind, coalesce_key IS NULL, state IN ('queued', 'scheduled') FROM jobs.jobs ORDER BY 1, 2, 3`,
	} {
		var rows [2][]string
		for k, b := range both {
			found, err := b.pool.Query(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			rows[k], err = pgx.CollectRows(found, func(row pgx.CollectableRow) (string, error) {
				values, err := row.Values()
				return fmt.Sprintf("%x", values), err
			})
			if err != nil || len(rows[k]) == 0 {
				t.Fatalf("%s: %d rows, %v", q, len(rows[k]), err)
			}
		}
		if d := cmp.Diff(rows[1], rows[0]); d != "" {
			t.Errorf("%s (-in tables +in memory):\n%s", q, d)
		}
	}
}
