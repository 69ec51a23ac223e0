package plane

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/services/sync"
)

// The families of index files.
const (
	familyFull   = "full"
	familyShards = "shards"
	familyFile   = "file"
)

// familyKey names a family of a channel.
type familyKey struct{ family, dir string }

func (k familyKey) String() string { return k.family + ":" + k.dir }

// document is a stored index file.
type document struct {
	Digest blob.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

// body is the document that others are made from, and how it is packed.
type body struct {
	document
	Encoding string `json:"encoding"`
}

// state is what was last read of a family.
type state struct {
	Settings     []byte
	Source       string
	ETag         string `db:"etag"`
	LastModified *time.Time
	SourceDigest []byte
	Generation   string
	Body         body
	Documents    map[string]document // by path below the channel
	Facts        []byte
	Former       []byte
	Base         string
	ShardsBase   string
	ModifiedAt   time.Time
	// Told: channels has taken note of the generation, and of the files that it made doubtful.
	Told bool
	// Age is how many seconds ago upstream was last known to have this; FailedAge since the last failure, if that is newer.
	Age       float64
	FailedAge *float64
	Error     string
}

func (s *state) age() time.Duration { return time.Duration(s.Age * float64(time.Second)) }

// failedWithin reports whether the last try failed and is no longer ago than d.
func (s *state) failedWithin(d time.Duration) bool {
	return s.FailedAge != nil && time.Duration(*s.FailedAge*float64(time.Second)) < d
}

// store has the queries, one method each.
type store struct{ pool *pgxpool.Pool }

// get returns the state of a family, nil if there is none.
func (s store) get(ctx context.Context, channel uuid.UUID, k familyKey) (*state, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT settings, source, etag, last_modified, source_digest, generation, body, documents, facts, former, base, shards_base, modified_at, told,
			extract(epoch FROM clock_timestamp() - checked_at)::float8 AS age,
			CASE WHEN failed_at > checked_at THEN extract(epoch FROM clock_timestamp() - failed_at)::float8 END AS failed_age, error
		FROM sync.proxy_indexes WHERE channel_id = $1 AND family = $2 AND dir = $3`, channel, k.family, k.dir)
	if err != nil {
		return nil, pg.Classify(err)
	}
	st, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[state])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return st, pg.Classify(err)
}

func refOwner(channel uuid.UUID, k familyKey) refs.Owner {
	return sync.ProxyOwner(channel, k.family, k.dir)
}

// put replaces the state of a family, and what it refers to.
func (s store) put(ctx context.Context, channel uuid.UUID, k familyKey, st *state) error {
	raw, err := json.Marshal(st.Body)
	if err != nil {
		return err
	}
	docs, err := json.Marshal(st.Documents)
	if err != nil {
		return err
	}
	return pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				INSERT INTO sync.proxy_indexes (channel_id, family, dir, settings, source, etag, last_modified, source_digest, generation, body,
					documents, facts, former, base, shards_base, modified_at, checked_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, clock_timestamp())
				ON CONFLICT (channel_id, family, dir) DO UPDATE SET settings = $4, source = $5, etag = $6, last_modified = $7, source_digest = $8,
					generation = $9, body = $10, documents = $11, facts = $12, former = $13, base = $14, shards_base = $15, modified_at = $16,
					told = false, checked_at = clock_timestamp(), failed_at = NULL, error = ''`,
				channel, k.family, k.dir, st.Settings, st.Source, st.ETag, st.LastModified, st.SourceDigest, st.Generation, raw, docs, st.Facts,
				st.Former, st.Base, st.ShardsBase, st.ModifiedAt)
			if err != nil {
				return pg.Classify(err)
			}
			if _, err := refs.RemoveOwner(ctx, tx, refOwner(channel, k)); err != nil {
				return err
			}
			return refs.Add(ctx, tx, st.refs(channel, k)...)
		})
	})
}

func (s *state) refs(channel uuid.UUID, k familyKey) []refs.Ref {
	list := []refs.Ref{{Digest: s.Body.Digest, Size: s.Body.Size, Owner: refOwner(channel, k)}}
	for _, d := range s.Documents {
		list = append(list, refs.Ref{Digest: d.Digest, Size: d.Size, Owner: refOwner(channel, k)})
	}
	for _, raw := range [][]byte{s.Facts, s.Former} {
		if len(raw) == len(blob.Digest{}) {
			list = append(list, refs.Ref{Digest: blob.Digest(raw), Owner: refOwner(channel, k)})
		}
	}
	return list
}

// drop forgets a family.
func (s store) drop(ctx context.Context, channel uuid.UUID, k familyKey) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM sync.proxy_indexes WHERE channel_id = $1 AND family = $2 AND dir = $3`, channel, k.family, k.dir); err != nil {
			return pg.Classify(err)
		}
		_, err := refs.RemoveOwner(ctx, tx, refOwner(channel, k))
		return err
	})
}

// touch notes that upstream still has what it had.
func (s store) touch(ctx context.Context, channel uuid.UUID, k familyKey, etag string, modified *time.Time) error {
	_, err := s.pool.Exec(ctx, `UPDATE sync.proxy_indexes SET checked_at = clock_timestamp(), failed_at = NULL, error = '', etag = $4,
		last_modified = $5 WHERE channel_id = $1 AND family = $2 AND dir = $3`, channel, k.family, k.dir, etag, modified)
	return pg.Classify(err)
}

// told notes that channels knows of a generation.
func (s store) told(ctx context.Context, channel uuid.UUID, k familyKey, generation string) error {
	_, err := s.pool.Exec(ctx, `UPDATE sync.proxy_indexes SET told = true WHERE channel_id = $1 AND family = $2 AND dir = $3 AND generation = $4`,
		channel, k.family, k.dir, generation)
	return pg.Classify(err)
}

// fail notes that upstream could not be asked.
func (s store) fail(ctx context.Context, channel uuid.UUID, k familyKey, why error) error {
	_, err := s.pool.Exec(ctx, `UPDATE sync.proxy_indexes SET failed_at = clock_timestamp(), error = $4 WHERE channel_id = $1 AND family = $2 AND dir = $3`,
		channel, k.family, k.dir, why.Error())
	return pg.Classify(err)
}

// addDocument adds a document that was made from the body, unless the family has moved on. It reports whether it did.
func (s store) addDocument(ctx context.Context, channel uuid.UUID, k familyKey, generation, path string, d document) (added bool, err error) {
	raw, err := json.Marshal(map[string]document{path: d})
	if err != nil {
		return false, err
	}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `UPDATE sync.proxy_indexes SET documents = documents || $5::jsonb
				WHERE channel_id = $1 AND family = $2 AND dir = $3 AND generation = $4`, channel, k.family, k.dir, generation, raw)
			if err != nil {
				return pg.Classify(err)
			}
			if added = tag.RowsAffected() == 1; !added {
				return nil
			}
			return refs.Add(ctx, tx, refs.Ref{Digest: d.Digest, Size: d.Size, Owner: refOwner(channel, k)})
		})
	})
	return added, err
}

// hold keeps a blob that was just put out of the hands of garbage collection for a while: equal bytes may have been stored
// long ago and be about to be deleted.
func (p *Plane) hold(ctx context.Context, b blob.Info) error {
	suspects, err := refs.Record(ctx, p.deps.Pool, refs.Blob{Digest: b.Digest, Size: b.Size})
	if err == nil && len(suspects) > 0 {
		err = fault.New(fault.LostRace, "blob %s was being garbage-collected, and is to be put again", b.Digest)
	}
	return err
}
