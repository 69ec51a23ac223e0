package channels

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// What most publications are is a few new files. For these the temporary tables of staging.go, which must be filled, joined
// and emptied, and whose every statement is planned anew, cost several times what is written in the end. So a few files
// that replace nothing are staged in memory; what becomes of them is the same, row for row.

// fewFiles is up to how many files are staged in memory.
const fewFiles = 64

// fewAdds is a publication of a few new files.
type fewAdds struct {
	files []plannedFile // by subdir, name and path
	// states are what follows for the package names, and had those which had files before.
	states map[string]*packageState
	had    map[string]bool
	// shards are the subdirs' shards as the publication leaves them, by subdir; replaced are the paths of those that they
	// no longer name.
	shards   map[string]*subdirShards
	replaced []string
}

// addFew stages files in memory if they are few, new and stored as they came. It reports whether it did.
func (st *staging) addFew(files []plannedFile, live map[string]*fileRow) bool {
	if len(files) == 0 || len(files) > fewFiles {
		return false
	}
	for _, f := range files {
		if live[f.path] != nil || f.keep || f.redirect || len(f.digest) != len(blob.Digest{}) || f.size < 0 {
			return false
		}
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b plannedFile) int {
		return cmp.Or(cmp.Compare(a.arch, b.arch), cmp.Compare(a.name, b.name), cmp.Compare(a.path, b.path))
	})
	st.adds, st.planned = &fewAdds{files: files}, int64(len(files))
	return true
}

// names are the package names of the files, sorted, each once.
func (a *fewAdds) names() (out []string) {
	for _, f := range a.files {
		out = append(out, f.name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checkFew is checkStored for files in memory.
func (s *Service) checkFew(ctx context.Context, a *fewAdds) error {
	page := make([]stagedDigest, len(a.files))
	for i, f := range a.files {
		d := blob.Digest(f.digest)
		page[i] = stagedDigest{f.path, &d, f.size}
	}
	var bad error
	err := eachStored(ctx, s.blobs, page, func(i int, stored bool, size int64) {
		if bad == nil {
			bad = checkOne(page[i], stored, size)
		}
	})
	return cmp.Or(err, bad)
}

func (a *fewAdds) summarize() (sum summary) {
	sum.Put, sum.Fresh = int64(len(a.files)), int64(len(a.files))
	for _, f := range a.files {
		sum.NewBytes += f.size
	}
	return sum
}

// fewContent is a file that the channel lists under one of the names.
type fewContent struct {
	Arch, Name, Path   string
	Record, RunExports []byte
	Version            string
	BuildNumber        int64
	CreatedAt          time.Time
}

// buildFew is buildShards for files in memory.
func (s *Service) buildFew(ctx context.Context, st *staging) (*shardBuild, error) {
	a := st.adds
	for _, f := range a.files {
		if !json.Valid(f.record) { // nothing may splice bytes into an index that are no JSON
			return nil, fault.New(fault.Invalid, "the record of %s is no JSON", f.path).WithReason(reasonRecord)
		}
	}
	old := make(map[string]subdirState)
	revisions := make(map[string]int64)
	var there []fewContent
	a.had = make(map[string]bool)
	id, names := st.channel.ID, a.names()
	var q pgx.Batch
	q.Queue(`SELECT subdir, info, removed, revision FROM channels.conda_subdirs WHERE channel_id = $1`, id).Query(func(rows pgx.Rows) error {
		var name string
		var x subdirState
		var revision int64
		_, err := pgx.ForEachRow(rows, []any{&name, &x.info, &x.removed, &revision}, func() error {
			old[name], revisions[name] = x, revision
			x = subdirState{}
			return nil
		})
		return err
	})
	q.Queue(`SELECT arch, name, path, record, run_exports, version, build_number, created_at FROM channels.files
		WHERE channel_id = $1 AND name = ANY($2) AND removed_rev IS NULL ORDER BY arch, name, path`, id, names).Query(func(rows pgx.Rows) (err error) {
		there, err = pgx.CollectRows(rows, pgx.RowToStructByPos[fewContent])
		return err
	})
	q.Queue(`SELECT name FROM channels.packages WHERE channel_id = $1 AND name = ANY($2) AND file_count > 0`, id, names).Query(func(rows pgx.Rows) error {
		var name string
		_, err := pgx.ForEachRow(rows, []any{&name}, func() error {
			a.had[name] = true
			return nil
		})
		return err
	})
	if err := st.tx.SendBatch(ctx, &q).Close(); err != nil {
		return nil, pg.Classify(err)
	}
	a.count(there, st.now)

	b := &shardBuild{subdirs: make(map[string]subdirState)}
	put := newPutter(s.blobs)
	defer put.abort()
	a.shards = make(map[string]*subdirShards)
	for part := range chunksBy(a.files, func(f plannedFile) string { return f.arch }) {
		subdir := part[0].arch
		state := old[subdir]
		b.subdirs[subdir] = state
		built := len(b.built)
		for files := range chunksBy(part, func(f plannedFile) string { return f.name }) {
			data, err := fewShard(files, there, state)
			if err != nil {
				return nil, err
			}
			if err := b.add(ctx, put, subdir, files[0].name, data); err != nil {
				return nil, err
			}
		}
		shards, err := s.shardsOf(ctx, st.tx, id, subdir, revisions[subdir])
		if err != nil {
			return nil, err
		}
		for _, sh := range b.built[built:] {
			if old, ok := shards.set(sh.name, sh.digest); ok && old != sh.digest {
				a.replaced = append(a.replaced, shardPath(subdir, old))
			}
		}
		a.shards[subdir] = shards
		if err := b.indexOf(ctx, put, subdir, state, shards); err != nil {
			return nil, fmt.Errorf("shard index of %s: %w", subdir, err)
		}
	}
	return b, put.commit(ctx)
}

// count works out the state of each package name with the new files.
func (a *fewAdds) count(there []fewContent, now time.Time) {
	a.states = make(map[string]*packageState)
	state := func(name string) *packageState {
		if a.states[name] == nil {
			a.states[name] = &packageState{subdirs: make(map[string]bool)}
		}
		return a.states[name]
	}
	for _, f := range there {
		state(f.Name).add(f.Version, f.BuildNumber, f.Arch, f.CreatedAt)
	}
	for _, f := range a.files {
		added := now
		if !f.created.IsZero() {
			added = f.created
		}
		state(f.name).add(f.version, f.buildNumber, f.arch, added)
	}
}

// fewShard builds the shard of the files' package from what is there and the files.
func fewShard(files []plannedFile, there []fewContent, state subdirState) ([]byte, error) {
	subdir, name := files[0].arch, files[0].name
	type entry struct {
		path               string
		record, runExports []byte
	}
	var all []entry
	for _, f := range there {
		if f.Arch == subdir && f.Name == name {
			all = append(all, entry{f.Path, f.Record, f.RunExports})
		}
	}
	for _, f := range files {
		all = append(all, entry{f.path, f.record, f.runExports})
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	var shard repodata.Shard
	for _, e := range all {
		bucket, filename, err := bucketOf(e.path)
		if err != nil {
			return nil, err
		}
		shard.Records = append(shard.Records, repodata.ShardRecord{Bucket: bucket, Key: filename, Raw: e.record, RunExports: e.runExports})
	}
	for _, filename := range state.removed {
		if d, err := dist.ParseFilename(filename); err == nil && d.Name == name {
			shard.Removed = append(shard.Removed, filename)
		}
	}
	data, _, err := repodata.BuildShard(shard)
	if err != nil {
		return nil, recordFault(subdir, name, err)
	}
	return data, nil
}

// chunksBy yields runs of equal keys.
func chunksBy[T any](list []T, key func(T) string) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for from := 0; from < len(list); {
			to := from + 1
			for to < len(list) && key(list[to]) == key(list[from]) {
				to++
			}
			if !yield(list[from:to]) {
				return
			}
			from = to
		}
	}
}

// writeFew writes the files, their shards, references and packages as of a revision. It returns by how many the number of
// names with files grew.
func (s *Service) writeFew(ctx context.Context, st *staging, b *shardBuild, texts map[string]packageText, revision int64) (delta int64, err error) {
	a, id := st.adds, st.channel.ID
	var q pgx.Batch
	a.queueFiles(&q, st, revision)
	queueShards(&q, st, b, revision)
	if err := st.tx.SendBatch(ctx, &q).Close(); err != nil {
		return 0, pg.Classify(err)
	}
	list := slices.Clone(b.renditions)
	for _, f := range a.files {
		list = append(list, newRendition{digest: blob.Digest(f.digest), size: f.size})
	}
	slices.SortFunc(list, func(a, b newRendition) int { return bytes.Compare(a.digest[:], b.digest[:]) })
	list = slices.CompactFunc(list, func(a, b newRendition) bool { return a.digest == b.digest })
	if err := addRefs(ctx, st.tx, id, list); err != nil {
		return 0, fmt.Errorf("write references: %w", err)
	}
	names := a.names()
	for _, name := range names {
		if !a.had[name] {
			delta++
		}
	}
	return delta, upsertPackages(ctx, st, names, a.states, texts)
}

func (a *fewAdds) queueFiles(q *pgx.Batch, st *staging, revision int64) {
	n := len(a.files)
	paths, names, versions, builds, arches := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	urls, uploaders := make([]string, n), make([]string, n)
	digests, md5s, records, exports := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	sizes, numbers, created := make([]int64, n), make([]int64, n), make([]*time.Time, n)
	for i, f := range a.files {
		paths[i], names[i], versions[i], builds[i], arches[i], urls[i], uploaders[i] = f.path, f.name, f.version, f.build, f.arch, f.url, f.uploader
		digests[i], md5s[i], records[i], exports[i] = f.digest, emptyIsNull(f.md5), notNull(f.record), emptyIsNull(f.runExports)
		sizes[i], numbers[i] = f.size, f.buildNumber
		if !f.created.IsZero() {
			created[i] = &f.created
		}
	}
	q.Queue(`
		INSERT INTO channels.files (channel_id, path, added_rev, id, digest, md5, size, name, version, build, build_number, arch, record,
			run_exports, redirect, url, indexed_ms, created_at, uploader)
		SELECT $1, path, $2, gen_random_uuid(), digest, md5, size, name, version, build, number, arch, record, exports, false, url,
			coalesce((extract(epoch FROM created) * 1000)::bigint, $3), coalesce(created, $4), uploader
		FROM unnest($5::text[], $6::bytea[], $7::bytea[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[],
			$14::bytea[], $15::bytea[], $16::text[], $17::timestamptz[], $18::text[])
			u(path, digest, md5, size, name, version, build, number, arch, record, exports, url, created, uploader)`,
		st.channel.ID, revision, st.now.UnixMilli(), st.now, paths, digests, md5s, sizes, names, versions, builds, numbers, arches, records, exports, urls, created, uploaders)
}

func emptyIsNull(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// queueShards is writeShards for files in memory.
func queueShards(q *pgx.Batch, st *staging, b *shardBuild, revision int64) {
	id := st.channel.ID
	var subdirs, names, paths []string
	var digests, blobs [][]byte
	var sizes []int64
	for _, sh := range b.built {
		subdirs, names, digests = append(subdirs, sh.subdir), append(names, sh.name), append(digests, sh.digest[:])
	}
	for _, r := range b.renditions {
		paths, blobs, sizes = append(paths, r.path), append(blobs, r.digest[:]), append(sizes, r.size)
	}
	if old := st.adds.replaced; len(old) > 0 { // they stay for clients with an older index, for a while
		q.Queue(`UPDATE channels.renditions SET replaced_at = $2 WHERE channel_id = $1 AND path = ANY($3)`, id, st.now, old)
	}
	q.Queue(`
		INSERT INTO channels.conda_shards AS s (channel_id, subdir, name, digest, revision)
		SELECT $1, subdir, name, digest, $2 FROM unnest($3::text[], $4::text[], $5::bytea[]) n(subdir, name, digest)
		ON CONFLICT (channel_id, subdir, name) DO UPDATE SET digest = excluded.digest, revision = excluded.revision`, id, revision, subdirs, names, digests)
	for subdir, state := range b.subdirs {
		queueSubdir(q, id, subdir, state, revision)
	}
	q.Queue(`
		INSERT INTO channels.renditions (channel_id, path, revision, digest, size, created_at)
		SELECT $1, path, $2, digest, size, $3 FROM unnest($4::text[], $5::bytea[], $6::bigint[]) n(path, digest, size)`, id, revision, st.now, paths, blobs, sizes)
}
