package channels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Paths of index files below a channel.
const (
	fileRepodata    = "repodata.json"
	fileShards      = "repodata_shards.msgpack.zst"
	shardsDir       = "shards/"
	fileCurrent     = "current_repodata.json"
	fileRunExports  = "run_exports.json"
	fileChannelData = "channeldata.json"
)

func shardPath(subdir string, d blob.Digest) string {
	return subdir + "/" + shardsDir + repodata.ShardPath(d)
}

// shardBuild is the shards and shard indexes that a publication makes. Their blobs are durable.
type shardBuild struct {
	// subdirs have changed; the value is their new state.
	subdirs map[string]subdirState
	// built are the touched shards that hold something.
	built []builtShard
	// renditions are the new index files: shards, then shard indexes.
	renditions []newRendition
}

type builtShard struct {
	subdir, name string
	digest       blob.Digest
}

type newRendition struct {
	path   string
	digest blob.Digest
	size   int64
}

// buildShards works out which shards the staged changes concern, builds these and no others, splices them into their
// subdirs' shard indexes, and stores all of it. With shards that were built before it takes these in, and builds every shard index.
func (s *Service) buildShards(ctx context.Context, st *staging, sum summary, before *rebuilt) (*shardBuild, error) {
	old, err := subdirsOf(ctx, st.tx, st.channel.ID)
	if err != nil {
		return nil, err
	}
	b := &shardBuild{subdirs: make(map[string]subdirState)}
	extra := make(map[string][]string)
	for name, state := range st.subdirs {
		was, known := old[name]
		if known && bytes.Equal(was.info, state.info) && slices.Equal(was.removed, state.removed) {
			continue
		}
		b.subdirs[name] = state
		extra[name] = packageNames(symmetricDifference(was.removed, state.removed))
	}
	if before != nil {
		for name, state := range old {
			if _, ok := b.subdirs[name]; !ok {
				b.subdirs[name] = state
			}
		}
	}
	if sum.Put+sum.Removed == 0 && len(b.subdirs) == 0 {
		return b, nil
	}
	if err := st.touch(ctx, sum, extra); err != nil {
		return nil, err
	}
	put := newPutter(s.blobs)
	defer put.abort()
	if before != nil {
		if err := before.splice(ctx, st, b, put); err != nil {
			return nil, err
		}
	}
	rows, err := st.tx.Query(ctx, `SELECT DISTINCT arch FROM channels_touched`)
	if err != nil {
		return nil, pg.Classify(err)
	}
	touched, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, pg.Classify(err)
	}
	for _, subdir := range touched {
		if _, ok := b.subdirs[subdir]; !ok {
			b.subdirs[subdir] = old[subdir]
		}
	}
	if before == nil {
		if err := b.shards(ctx, st, put); err != nil {
			return nil, err
		}
	}
	for subdir, state := range b.subdirs {
		if err := b.index(ctx, st, put, subdir, state); err != nil {
			return nil, fmt.Errorf("shard index of %s: %w", subdir, err)
		}
	}
	return b, put.commit(ctx)
}

// contentSQL is what the touched shards will hold: what stays and what is put.
const contentSQL = `
SELECT arch, name, path, record, run_exports, fresh FROM (
	SELECT f.arch, f.name, f.path, f.record, f.run_exports, false AS fresh
	FROM channels_touched t JOIN channels.files f ON f.channel_id = $1 AND f.name = t.name AND f.arch = t.arch AND f.removed_rev IS NULL
	WHERE NOT EXISTS (SELECT 1 FROM channels_change c WHERE c.path = f.path)
	UNION ALL
	SELECT arch, name, path, record, run_exports, true FROM channels_change WHERE op = 1
) s ORDER BY arch, name, path`

// shards builds the touched shards, one at a time as the rows come.
func (b *shardBuild) shards(ctx context.Context, st *staging, put *putter) error {
	m := newShardMaker(b.subdirs, func(key shardName, data []byte) error { return b.add(ctx, put, key[0], key[1], data) })
	rows, err := st.tx.Query(ctx, contentSQL, st.channel.ID)
	if err != nil {
		return pg.Classify(err)
	}
	var arch, name, path string
	var record, runExports []byte
	var fresh bool
	_, err = pgx.ForEachRow(rows, []any{&arch, &name, &path, &record, &runExports, &fresh}, func() error {
		if fresh && !json.Valid(record) { // nothing may splice bytes into an index that are no JSON
			return fault.New(fault.Invalid, "the record of %s is no JSON", path).WithReason(reasonRecord)
		}
		err := m.add(arch, name, path, record, runExports)
		record, runExports = nil, nil
		return err
	})
	if err != nil {
		return pg.Classify(err)
	}
	if err := m.flush(); err != nil {
		return err
	}
	// Names that are touched and have nothing but removed files. Untouched ones keep their shard.
	rows, err = st.tx.Query(ctx, `SELECT arch, name FROM channels_touched`)
	if err != nil {
		return pg.Classify(err)
	}
	var bare []shardName
	_, err = pgx.ForEachRow(rows, []any{&arch, &name}, func() error {
		if key := (shardName{arch, name}); m.removed[key] != nil {
			bare = append(bare, key)
		}
		return nil
	})
	if err != nil {
		return pg.Classify(err)
	}
	for _, key := range bare {
		if err := m.bare(key); err != nil {
			return err
		}
	}
	return nil
}

func (b *shardBuild) add(ctx context.Context, put *putter, subdir, name string, data []byte) error {
	d, err := put.add(ctx, data)
	if err != nil {
		return err
	}
	b.built = append(b.built, builtShard{subdir, name, d})
	b.renditions = append(b.renditions, newRendition{shardPath(subdir, d), d, int64(len(data))})
	return nil
}

// shardIndex returns an index without shards. All it refers to lies beside it, so clients stay with us.
func shardIndex(subdir string) repodata.ShardIndex {
	return repodata.ShardIndex{Subdir: subdir, BaseURL: "./", ShardsBaseURL: "./" + shardsDir, Shards: make(map[string][32]byte)}
}

// index splices the built shards into the rows of the subdir's others.
func (b *shardBuild) index(ctx context.Context, st *staging, put *putter, subdir string, state subdirState) error {
	shards := make(map[string][32]byte)
	rows, err := st.tx.Query(ctx, `
		SELECT s.name, s.digest FROM channels.conda_shards s WHERE s.channel_id = $1 AND s.subdir = $2
			AND NOT EXISTS (SELECT 1 FROM channels_touched t WHERE t.arch = s.subdir AND t.name = s.name)`, st.channel.ID, subdir)
	if err != nil {
		return pg.Classify(err)
	}
	var name string
	var digest blob.Digest
	_, err = pgx.ForEachRow(rows, []any{&name, &digest}, func() error {
		shards[name] = digest
		return nil
	})
	if err != nil {
		return pg.Classify(err)
	}
	for _, sh := range b.built {
		if sh.subdir == subdir {
			shards[sh.name] = sh.digest
		}
	}
	return b.indexOf(ctx, put, subdir, state, &subdirShards{digests: shards})
}

// indexOf builds a subdir's shard index.
func (b *shardBuild) indexOf(ctx context.Context, put *putter, subdir string, state subdirState, shards *subdirShards) error {
	ix := shardIndex(subdir)
	ix.Shards, ix.Names = shards.digests, shards.names
	var err error
	if ix.Extra, ix.ChannelRelations, err = infoExtra(state.info); err != nil {
		return err
	}
	data, err := repodata.BuildIndex(ix)
	if err != nil {
		return recordFault(subdir, "", err)
	}
	d, err := put.add(ctx, data)
	if err != nil {
		return err
	}
	b.renditions = append(b.renditions, newRendition{subdir + "/" + fileShards, d, int64(len(data))})
	return nil
}

// writeShards records the built index files as of a revision.
func (s *Service) writeShards(ctx context.Context, st *staging, b *shardBuild, revision int64) error {
	id := st.channel.ID
	var subdirs, names []string
	var digests []blob.Digest
	for _, sh := range b.built {
		subdirs, names, digests = append(subdirs, sh.subdir), append(names, sh.name), append(digests, sh.digest)
	}
	batch := &pgx.Batch{}
	// Shards that no index names from now on stay for clients with an older index, for a while.
	batch.Queue(`
		UPDATE channels.renditions r SET replaced_at = $2
		FROM channels_touched t JOIN channels.conda_shards s ON s.channel_id = $1 AND s.subdir = t.arch AND s.name = t.name
		LEFT JOIN unnest($3::text[], $4::text[], $5::bytea[]) n(subdir, name, digest) ON n.subdir = s.subdir AND n.name = s.name
		WHERE n.digest IS DISTINCT FROM s.digest AND r.channel_id = $1
			AND r.path = s.subdir || '/`+shardsDir+`' || encode(s.digest, 'hex') || '.msgpack.zst'`, id, st.now, nonNil(subdirs), nonNil(names), nonNil(digests))
	batch.Queue(`
		DELETE FROM channels.conda_shards s USING channels_touched t
		WHERE s.channel_id = $1 AND s.subdir = t.arch AND s.name = t.name`, id)
	batch.Queue(`
		INSERT INTO channels.conda_shards (channel_id, subdir, name, digest, revision)
		SELECT $1, subdir, name, digest, $2 FROM unnest($3::text[], $4::text[], $5::bytea[]) n(subdir, name, digest)`,
		id, revision, nonNil(subdirs), nonNil(names), nonNil(digests))
	for subdir, state := range b.subdirs {
		queueSubdir(batch, id, subdir, state, revision)
	}
	if err := st.tx.SendBatch(ctx, batch).Close(); err != nil {
		return pg.Classify(err)
	}
	_, err := st.tx.CopyFrom(ctx, pgx.Identifier{"channels", "renditions"},
		[]string{"channel_id", "path", "revision", "digest", "size", "created_at"},
		pgx.CopyFromSlice(len(b.renditions), func(i int) ([]any, error) {
			r := b.renditions[i]
			return []any{id, r.path, revision, r.digest, r.size, st.now}, nil
		}))
	return pg.Classify(err)
}

// queueSubdir records a change of a subdir.
func queueSubdir(batch *pgx.Batch, id uuid.UUID, subdir string, state subdirState, revision int64) {
	batch.Queue(`
		INSERT INTO channels.conda_subdirs (channel_id, subdir, revision, info, removed) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (channel_id, subdir) DO UPDATE SET revision = excluded.revision, info = excluded.info, removed = excluded.removed`,
		id, subdir, revision, nullBytes(state.info), nonNil(state.removed))
	batch.Queue(`INSERT INTO channels.conda_changes (channel_id, subdir, revision) VALUES ($1, $2, $3)`, id, subdir, revision)
}

// bucketOf splits the path of a package file.
func bucketOf(path string) (repodata.Bucket, string, error) {
	_, filename, _ := strings.Cut(path, "/")
	switch _, format, _ := dist.SplitExtension(filename); format {
	case dist.Conda:
		return repodata.Conda, filename, nil
	case dist.TarBz2:
		return repodata.TarBz2, filename, nil
	}
	return "", "", fault.New(fault.Internal, "%s is no conda package", path)
}

// recordFault gives an error of the index its kind: records are strangers' data.
func recordFault(subdir, name string, err error) error {
	var e *repodata.Error
	if errors.As(err, &e) {
		return fault.New(fault.Invalid, "index of %s in %s: %w", name, subdir, err).WithReason(reasonRecord)
	}
	return err
}

// infoExtra returns the keys of upstream's `info` that we pass on: not those that say where things are, since clients
// shall come to us, and not those that we write ourselves.
func infoExtra(info []byte) (extra []repodata.Member, relations []byte, err error) {
	if len(info) == 0 {
		return nil, nil, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(info, &members); err != nil {
		return nil, nil, fault.New(fault.Invalid, "info of the index is no JSON object: %w", err)
	}
	for key, raw := range members {
		switch key {
		case "subdir", "base_url", "shards_base_url", "created_at", "repodata_revisions":
		case "channel_relations":
			relations = raw
		default:
			extra = append(extra, repodata.Member{Key: key, Raw: []byte(raw)})
		}
	}
	slices.SortFunc(extra, func(a, b repodata.Member) int { return strings.Compare(a.Key, b.Key) })
	return extra, relations, nil
}

// symmetricDifference returns what only one of two sorted lists has.
func symmetricDifference(a, b []string) (out []string) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || b[0] < a[0]:
			out, b = append(out, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// packageNames returns the names in file names, sorted, each once.
func packageNames(filenames []string) (out []string) {
	for _, f := range filenames {
		if d, err := dist.ParseFilename(f); err == nil {
			out = append(out, d.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
