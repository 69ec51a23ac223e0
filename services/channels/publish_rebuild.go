package channels

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// All shards of a channel are made anew in two steps, for uploads shall not wait for a hundred thousand of them. First they
// are built from a snapshot, at the gate of nobody; they are named by their content, and harm nobody before something lists
// them. Then a publication like any other takes in those that differ from what is listed. What was published meanwhile
// made its own shards of newer rows, and these stay: so however often the head moves, nothing is built twice.

// shardName names a shard within a channel: its subdir and its package.
type shardName [2]string

// rebuilt is all shards of a channel as of a revision. Their blobs are durable.
type rebuilt struct {
	revision int64
	shards   map[shardName]newRendition
}

// shardMaker makes shards of records that come by subdir, name and path.
type shardMaker struct {
	// removed are the file names that the shards say are gone; what was used is taken out.
	removed map[shardName][]string
	put     func(key shardName, data []byte) error

	key   shardName
	shard repodata.Shard
}

func newShardMaker(subdirs map[string]subdirState, put func(shardName, []byte) error) *shardMaker {
	m := &shardMaker{removed: make(map[shardName][]string), put: put}
	for subdir, state := range subdirs {
		for _, filename := range state.removed {
			if d, err := dist.ParseFilename(filename); err == nil {
				key := shardName{subdir, d.Name}
				m.removed[key] = append(m.removed[key], filename)
			}
		}
	}
	return m
}

// add takes the next record. It keeps the slices.
func (m *shardMaker) add(subdir, name, path string, record, runExports []byte) error {
	if next := (shardName{subdir, name}); next != m.key {
		if err := m.flush(); err != nil {
			return err
		}
		m.key = next
	}
	bucket, filename, err := bucketOf(path)
	if err != nil {
		return err
	}
	m.shard.Records = append(m.shard.Records, repodata.ShardRecord{Bucket: bucket, Key: filename, Raw: record, RunExports: runExports})
	return nil
}

// bare makes the shard of a name that has nothing but removed files.
func (m *shardMaker) bare(key shardName) error {
	m.key = key
	return m.flush()
}

// flush makes the shard of the records that came, unless it would hold nothing.
func (m *shardMaker) flush() error {
	m.shard.Removed = m.removed[m.key]
	delete(m.removed, m.key)
	if len(m.shard.Records) == 0 && len(m.shard.Removed) == 0 {
		return nil
	}
	data, _, err := repodata.BuildShard(m.shard)
	if err != nil {
		return recordFault(m.key[0], m.key[1], err)
	}
	m.shard = repodata.Shard{}
	return m.put(m.key, data)
}

// rebuildShards makes all shards of a channel from one snapshot of its rows. It holds no locks.
func (s *Service) rebuildShards(ctx context.Context, channel uuid.UUID) (*rebuilt, error) {
	out := &rebuilt{shards: make(map[shardName]newRendition)}
	put := newPutter(s.blobs)
	defer put.abort()
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
		ch, err := channelByID(ctx, tx, channel)
		if err != nil {
			return err
		}
		out.revision = ch.Head
		subdirs, err := subdirsOf(ctx, tx, channel)
		if err != nil {
			return err
		}
		m := newShardMaker(subdirs, func(key shardName, data []byte) error {
			d, err := put.add(ctx, data)
			out.shards[key] = newRendition{shardPath(key[0], d), d, int64(len(data))}
			return err
		})
		if _, err := tx.Exec(ctx, `SET LOCAL work_mem = '64MB'`); err != nil { // it sorts all records
			return err
		}
		rows, err := tx.Query(ctx, `SELECT arch, name, path, record, run_exports FROM channels.files
			WHERE channel_id = $1 AND removed_rev IS NULL ORDER BY arch, name, path`, channel)
		if err != nil {
			return err
		}
		var arch, name, path string
		var record, runExports []byte
		if _, err := pgx.ForEachRow(rows, []any{&arch, &name, &path, &record, &runExports}, func() error {
			err := m.add(arch, name, path, record, runExports)
			record, runExports = nil, nil
			return err
		}); err != nil {
			return err
		}
		if err := m.flush(); err != nil {
			return err
		}
		for _, key := range slices.SortedFunc(maps.Keys(m.removed), compareKeys) {
			if err := m.bare(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	return out, put.commit(ctx)
}

func compareKeys(a, b shardName) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
}

// splice has those of the shards taken in that differ from what the channel lists and are not older than that.
func (r *rebuilt) splice(ctx context.Context, st *staging, b *shardBuild, put *putter) error {
	rows, err := st.tx.Query(ctx, `
		SELECT s.subdir, s.name, s.digest, s.revision, EXISTS (SELECT 1 FROM channels.renditions r
			WHERE r.channel_id = s.channel_id AND r.path = s.subdir || '/`+shardsDir+`' || encode(s.digest, 'hex') || '.msgpack.zst' AND r.replaced_at IS NULL)
		FROM channels.conda_shards s WHERE s.channel_id = $1`, st.channel.ID)
	if err != nil {
		return pg.Classify(err)
	}
	var key shardName
	var digest blob.Digest
	var revision int64
	var served bool
	listed := make(map[shardName]bool)
	var other []shardName
	if _, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &digest, &revision, &served}, func() error {
		listed[key] = true
		if n, ok := r.shards[key]; revision <= r.revision && (!ok || n.digest != digest || !served) {
			other = append(other, key)
		}
		return nil
	}); err != nil {
		return pg.Classify(err)
	}
	// What is not listed at all may have been published and deleted since: only the rows tell.
	var missing []shardName
	for key := range r.shards {
		if !listed[key] {
			missing = append(missing, key)
		}
	}
	if err := st.touchShards(ctx, missing); err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := b.shards(ctx, st, put); err != nil {
			return err
		}
	}
	for _, key := range other {
		if n, ok := r.shards[key]; ok {
			b.built, b.renditions = append(b.built, builtShard{key[0], key[1], n.digest}), append(b.renditions, n)
		}
	}
	return st.touchShards(ctx, other)
}

// touchShards has shards taken for changed.
func (s *staging) touchShards(ctx context.Context, keys []shardName) error {
	if len(keys) == 0 {
		return nil
	}
	subdirs, names := make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		subdirs[i], names[i] = key[0], key[1]
	}
	_, err := s.tx.Exec(ctx, `INSERT INTO channels_touched (arch, name) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING`, subdirs, names)
	if err == nil && len(keys) >= analyzeFrom {
		_, err = s.tx.Exec(ctx, `ANALYZE channels_touched`)
	}
	return pg.Classify(err)
}

// generatedBy returns the revision that a job made on an earlier attempt; 0 if it made none.
func generatedBy(ctx context.Context, db pg.DB, channel, job uuid.UUID) (revision int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(max(number), 0) FROM channels.revisions WHERE channel_id = $1 AND job = $2`, channel, job).Scan(&revision)
	return revision, pg.Classify(err)
}

// errRevived is why shards that were built before have to be built once more.
func errRevived() error {
	return fault.New(fault.Unavailable, "shards that were built are not stored any more, try again")
}
