package channels

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Staging. What shall be published is first copied into temporary tables of the publishing transaction, so that one
// row and two hundred thousand rows take the same few set-wise statements:
//
//	channels_plan     the files that shall be there, as they came: from an upload or a plan
//	channels_change   what that means for this channel: rows to put (op 1) and to remove (op 2)
//	channels_touched  the shards that have to be built anew
//
// The tables belong to the connection and are emptied at every commit, so the catalog does not grow with each upload.
const stagingSQL = `
CREATE TEMP TABLE IF NOT EXISTS channels_plan (
	path text COLLATE "C" NOT NULL, digest bytea, md5 bytea, size bigint NOT NULL, name text COLLATE "C" NOT NULL,
	version text NOT NULL, build text NOT NULL, build_number bigint NOT NULL, arch text COLLATE "C" NOT NULL,
	record bytea NOT NULL, run_exports bytea, keep boolean NOT NULL, redirect boolean NOT NULL, url text NOT NULL,
	uploader text NOT NULL, created_at timestamptz
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS channels_change (
	path text COLLATE "C" PRIMARY KEY, op smallint NOT NULL, id uuid, digest bytea, md5 bytea, size bigint,
	name text COLLATE "C" NOT NULL, version text, build text, build_number bigint, arch text COLLATE "C" NOT NULL,
	record bytea, run_exports bytea, redirect boolean, url text, indexed_ms bigint, created_at timestamptz, uploader text,
	old_size bigint, old_name text COLLATE "C", old_arch text COLLATE "C", missing boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS channels_touched (
	arch text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, PRIMARY KEY (arch, name)
) ON COMMIT DELETE ROWS;`

// staging is the temporary tables within a publishing transaction.
type staging struct {
	tx      pgx.Tx
	channel *channelRow // as the transaction's snapshot has it
	now     time.Time
	planned int64
	// same are files of the plan that are not staged, because the plan before had them as they are.
	same int64
	// whole stages all of a plan, whatever was applied before.
	whole bool
	// fresh are the package names that the publication brings into the channel.
	fresh []string
	// subdirs are what a plan says of whole subdirs; nil for other publications.
	subdirs map[string]subdirState
	// adds is the publication if it is staged in memory; see few.go.
	adds *fewAdds
	// made says that the tables are there.
	made bool
}

// subdirState is what a subdir's index says beside its records.
type subdirState struct {
	info    []byte
	removed []string // sorted
}

func newStaging(tx pgx.Tx, c *channelRow, now time.Time) *staging {
	return &staging{tx: tx, channel: c, now: now}
}

// tables makes the temporary tables, unless they are there.
func (s *staging) tables(ctx context.Context) error {
	if s.made {
		return nil
	}
	s.made = true
	_, err := s.tx.Exec(ctx, stagingSQL)
	return pg.Classify(err)
}

// plannedFile is a row of channels_plan.
type plannedFile struct {
	path        string
	digest      []byte
	md5         []byte
	size        int64
	name        string
	version     string
	build       string
	buildNumber int64
	arch        string
	record      []byte
	runExports  []byte
	keep        bool
	redirect    bool
	url         string
	uploader    string
	created     time.Time // when another server listed it first; zero: now
}

var planColumns = []string{
	"path", "digest", "md5", "size", "name", "version", "build", "build_number", "arch", "record", "run_exports",
	"keep", "redirect", "url", "uploader", "created_at",
}

// plan copies files into channels_plan; next returns false after the last one.
func (s *staging) plan(ctx context.Context, next func() (plannedFile, bool, error)) error {
	if err := s.tables(ctx); err != nil {
		return err
	}
	var source error // what went wrong on our side: the server only says that the copy was given up
	n, err := s.tx.CopyFrom(ctx, pgx.Identifier{"channels_plan"}, planColumns, pgx.CopyFromFunc(func() ([]any, error) {
		f, ok, err := next()
		if err != nil || !ok {
			source = err
			return nil, err
		}
		return []any{
			f.path, nullBytes(f.digest), nullBytes(f.md5), f.size, f.name, f.version, f.build, f.buildNumber, f.arch, notNull(f.record),
			nullBytes(f.runExports), f.keep, f.redirect, f.url, f.uploader, nullTime(f.created),
		}, nil
	}))
	if source != nil {
		return source
	}
	if err != nil {
		return pg.Classify(err)
	}
	s.planned += n
	return nil
}

// notNull: an entry that keeps what is there has no record of its own.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func nullTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func nullBytes(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// few reports whether so little is staged that its files are looked up one by one, by their path.
func (s *staging) few() bool {
	return s.planned < analyzeFrom || s.planned*10 < s.channel.FileCount
}

// listed is what the channel ($1) lists at the paths of a staged table, to be joined as f.
func (s *staging) listed(table string) string {
	if s.few() { // OFFSET keeps the planner, who may know nothing of the table, from turning this into another join
		return `LATERAL (SELECT * FROM channels.files l WHERE l.channel_id = $1 AND l.path = ` + table + `.path AND l.removed_rev IS NULL OFFSET 0) f ON true`
	}
	return `(SELECT * FROM channels.files WHERE channel_id = $1 AND removed_rev IS NULL) f ON f.path = ` + table + `.path`
}

// bulk makes the planner join large plans by hashing until done is called. Of a channel whose first files came a moment
// ago it has no statistics, expects one row, and would compare each with each.
func (s *staging) bulk(ctx context.Context) (done func(*error), err error) {
	if s.few() {
		return func(*error) {}, nil
	}
	if _, err := s.tx.Exec(ctx, `SET LOCAL enable_nestloop = off`); err != nil {
		return nil, pg.Classify(err)
	}
	return func(err *error) {
		if *err == nil { // else the transaction is over
			_, *err = s.tx.Exec(ctx, `SET LOCAL enable_nestloop = on`)
			*err = pg.Classify(*err)
		}
	}, nil
}

// analyzeFrom is the number of staged rows from which the planner needs their statistics.
const analyzeFrom = 500

// diff turns the plan into changes. A file is unchanged if its record, its way of being served and its bytes are: by
// SHA-256, or by MD5 where an old index knows no SHA-256. Replaced files keep their id and the time of their first listing.
func (s *staging) diff(ctx context.Context) (err error) {
	if s.planned >= analyzeFrom {
		// Sorting and hashing hundreds of megabytes of records in the default 4 MiB would go through the disk.
		if _, err := s.tx.Exec(ctx, `SET LOCAL work_mem = '64MB'; ANALYZE channels_plan`); err != nil {
			return pg.Classify(err)
		}
	}
	done, err := s.bulk(ctx)
	if err != nil {
		return err
	}
	defer done(&err)
	_, err = s.tx.Exec(ctx, `
		INSERT INTO channels_change (path, op, id, digest, md5, size, name, version, build, build_number, arch, record, run_exports,
			redirect, url, indexed_ms, created_at, uploader, old_size, old_name, old_arch)
		SELECT p.path, 1, coalesce(f.id, gen_random_uuid()),
			CASE WHEN p.redirect THEN NULL ELSE coalesce(p.digest, CASE WHEN f.md5 = p.md5 THEN f.digest END) END,
			coalesce(p.md5, CASE WHEN f.digest = p.digest THEN f.md5 END),
			CASE WHEN p.size < 0 AND f.digest = p.digest THEN f.size ELSE p.size END,
			p.name, p.version, p.build, p.build_number, p.arch, p.record, p.run_exports, p.redirect, p.url,
			coalesce(f.indexed_ms, (extract(epoch FROM p.created_at) * 1000)::bigint, $2), coalesce(f.created_at, p.created_at, $3), p.uploader, f.size, f.name, f.arch
		FROM channels_plan p LEFT JOIN `+s.listed("p")+`
		WHERE NOT p.keep AND (f.path IS NULL OR NOT (
			f.redirect = p.redirect AND f.record = p.record AND f.url = p.url
			AND (p.redirect OR coalesce(f.digest = p.digest, p.digest IS NULL AND f.digest IS NOT NULL AND f.md5 = p.md5, false))))`,
		s.channel.ID, s.now.UnixMilli(), s.now)
	return pg.Classify(err)
}

// prune stages the removal of what the plan lacks, in the subdirs that the plan speaks of: a subdir that could not be
// read is absent from the plan, and keeps its files.
func (s *staging) prune(ctx context.Context) (err error) {
	rows, err := s.tx.Query(ctx, `SELECT DISTINCT arch FROM channels_plan`)
	if err != nil {
		return pg.Classify(err)
	}
	subdirs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return pg.Classify(err)
	}
	for name := range s.subdirs {
		subdirs = append(subdirs, name)
	}
	done, err := s.bulk(ctx)
	if err != nil {
		return err
	}
	defer done(&err)
	return s.remove(ctx, `f.arch = ANY($2) AND NOT EXISTS (SELECT 1 FROM channels_plan p WHERE p.path = f.path)`, nonNil(subdirs))
}

// removePath stages the removal of one file.
func (s *staging) removePath(ctx context.Context, path string) error {
	return s.remove(ctx, `f.path = $2`, path)
}

// removePackage stages the removal of a package's files in all subdirs.
func (s *staging) removePackage(ctx context.Context, name string) error {
	return s.remove(ctx, `f.name = $2`, name)
}

func (s *staging) remove(ctx context.Context, where string, arg any) error {
	if err := s.tables(ctx); err != nil {
		return err
	}
	_, err := s.tx.Exec(ctx, `
		INSERT INTO channels_change (path, op, name, arch, redirect, old_size, old_name, old_arch)
		SELECT f.path, 2, f.name, f.arch, f.redirect, f.size, f.name, f.arch FROM channels.files f
		WHERE f.channel_id = $1 AND f.removed_rev IS NULL AND `+where, s.channel.ID, arg)
	return pg.Classify(err)
}

// summary is what the staged changes come to.
type summary struct {
	Put      int64
	Fresh    int64 // of Put: where nothing stood before
	Removed  int64
	Kept     int64 // planned, but no change
	NewBytes int64
	OldBytes int64
}

func (s *staging) summarize(ctx context.Context) (sum summary, err error) {
	err = s.tx.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE op = 1), count(*) FILTER (WHERE op = 1 AND old_name IS NULL), count(*) FILTER (WHERE op = 2),
			coalesce(sum(greatest(c.size, 0)) FILTER (WHERE op = 1 AND NOT c.redirect), 0)::bigint,
			coalesce(sum(greatest(f.size, 0)) FILTER (WHERE NOT f.redirect), 0)::bigint
		FROM channels_change c LEFT JOIN `+s.listed("c")+` AND c.old_name IS NOT NULL`,
		s.channel.ID).Scan(&sum.Put, &sum.Fresh, &sum.Removed, &sum.NewBytes, &sum.OldBytes)
	sum.Kept = s.planned + s.same - sum.Put
	return sum, pg.Classify(err)
}

// touch finds the shards that the changes concern; extra are further names by subdir.
func (s *staging) touch(ctx context.Context, sum summary, extra map[string][]string) error {
	_, err := s.tx.Exec(ctx, `
		INSERT INTO channels_touched (arch, name)
		SELECT arch, name FROM channels_change UNION SELECT old_arch, old_name FROM channels_change WHERE old_name IS NOT NULL`)
	if err != nil {
		return pg.Classify(err)
	}
	for subdir, names := range extra {
		_, err := s.tx.Exec(ctx, `INSERT INTO channels_touched (arch, name) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING`, subdir, names)
		if err != nil {
			return pg.Classify(err)
		}
	}
	if sum.Put+sum.Removed >= analyzeFrom {
		if _, err := s.tx.Exec(ctx, `ANALYZE channels_change, channels_touched`); err != nil {
			return pg.Classify(err)
		}
	}
	return nil
}

// stagedDigest is a staged file whose bytes have to be stored.
type stagedDigest struct {
	Path   string
	Digest *blob.Digest
	Size   int64
}

// digestPage is how many staged files are checked against blob storage between two queries.
const digestPage = 4096

// eachDigest calls fn with pages of the files to put that are not redirected, by path.
func (s *staging) eachDigest(ctx context.Context, fn func([]stagedDigest) error) error {
	after := ""
	for {
		rows, err := s.tx.Query(ctx, `SELECT path, digest, size FROM channels_change WHERE op = 1 AND NOT redirect AND path > $1 ORDER BY path LIMIT $2`, after, digestPage)
		if err != nil {
			return pg.Classify(err)
		}
		page, err := pgx.CollectRows(rows, pgx.RowToStructByName[stagedDigest])
		if err != nil {
			return pg.Classify(err)
		}
		if len(page) == 0 {
			return nil
		}
		if err := fn(page); err != nil {
			return err
		}
		if len(page) < digestPage {
			return nil
		}
		after = page[len(page)-1].Path
	}
}

// writeFiles closes the rows that the changes replace or remove and inserts the new ones, as of a revision.
func (s *staging) writeFiles(ctx context.Context, revision int64) error {
	b := &pgx.Batch{}
	b.Queue(`
		UPDATE channels.files f SET removed_rev = $2, removed_at = $3 FROM channels_change c
		WHERE f.channel_id = $1 AND f.removed_rev IS NULL AND f.path = c.path`, s.channel.ID, revision, s.now)
	b.Queue(`
		INSERT INTO channels.files (channel_id, path, added_rev, id, digest, md5, size, name, version, build, build_number, arch, record,
			run_exports, redirect, url, indexed_ms, created_at, uploader)
		SELECT $1, path, $2, id, digest, md5, size, name, version, build, build_number, arch, record,
			run_exports, redirect, url, indexed_ms, created_at, uploader
		FROM channels_change WHERE op = 1`, s.channel.ID, revision)
	return pg.Classify(s.tx.SendBatch(ctx, b).Close())
}

// subdirsOf returns what the channel's subdirs say beside their records, by name.
func subdirsOf(ctx context.Context, db pg.DB, channel uuid.UUID) (map[string]subdirState, error) {
	rows, err := db.Query(ctx, `SELECT subdir, info, removed FROM channels.conda_subdirs WHERE channel_id = $1`, channel)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := make(map[string]subdirState)
	var name string
	var st subdirState
	_, err = pgx.ForEachRow(rows, []any{&name, &st.info, &st.removed}, func() error {
		out[name] = st
		st = subdirState{}
		return nil
	})
	return out, pg.Classify(err)
}
