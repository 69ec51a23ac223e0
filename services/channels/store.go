package channels

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Queries about channels. Each function is one query and takes a pool or a transaction.

// notFound is what a caller is told of a channel that is not there, and of a private one by the edge.
func notFound(name string) error {
	return fault.New(fault.NotFound, "Channel %s not found", name).WithReason("CHANNEL_NOT_FOUND")
}

// channelByName finds a channel in any spelling of its name.
func channelByName(ctx context.Context, db pg.DB, name string) (*channelRow, error) {
	return oneChannel(ctx, db, name, `SELECT `+channelColumns+` FROM channels.channels WHERE name_key = $1`, strings.ToLower(name))
}

func channelByID(ctx context.Context, db pg.DB, id uuid.UUID) (*channelRow, error) {
	return oneChannel(ctx, db, id.String(), `SELECT `+channelColumns+` FROM channels.channels WHERE id = $1`, id)
}

func oneChannel(ctx context.Context, db pg.DB, shown, sql string, args ...any) (*channelRow, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, pg.Classify(err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[channelRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound(shown)
	}
	return c, pg.Classify(err)
}

// lockChannel waits for a publisher that is at work. In a repeatable read transaction it fails with a lost race if the
// row changed since the transaction began.
func lockChannel(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*channelRow, error) {
	return oneChannel(ctx, tx, id.String(), `SELECT `+channelColumns+` FROM channels.channels WHERE id = $1 FOR NO KEY UPDATE`, id)
}

func insertChannel(ctx context.Context, tx pgx.Tx, c *channelRow, author string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO channels.channels (id, namespace, name, name_key, description, private, kind, format, mirror, ttl,
			size_limit, head, created_at, updated_at, created_by)
		VALUES (@id, @namespace, @name, @name_key, @description, @private, @kind, @format, @mirror, @ttl, @size_limit, @head, @now, @now, @author)`,
		pgx.NamedArgs{
			"id": c.ID, "namespace": c.Namespace, "name": c.Name, "name_key": strings.ToLower(c.Name), "description": c.Description,
			"private": c.Private, "kind": c.Kind, "format": c.Format, "mirror": c.Mirror, "ttl": c.TTL, "size_limit": c.SizeLimit,
			"head": c.Head, "now": c.CreatedAt, "author": author,
		})
	if pg.IsUnique(err, "channels_name_key") {
		return fault.New(fault.Conflict, "Channel %s exists", c.Name).WithReason("CHANNEL_EXISTS")
	}
	return pg.Classify(err)
}

func updateSettings(ctx context.Context, tx pgx.Tx, c *channelRow) error {
	_, err := tx.Exec(ctx, `UPDATE channels.channels SET description = $2, private = $3, ttl = $4, size_limit = $5, mirror = $6 WHERE id = $1`,
		c.ID, c.Description, c.Private, c.TTL, c.SizeLimit, c.Mirror)
	return pg.Classify(err)
}

// moveHead is the compare-and-set that makes a revision visible.
func moveHead(ctx context.Context, tx pgx.Tx, c *channelRow, from int64) error {
	tag, err := tx.Exec(ctx, `
		UPDATE channels.channels SET head = $3, size = $4, file_count = $5, package_count = $6, updated_at = $7
		WHERE id = $1 AND head = $2`, c.ID, from, c.Head, c.Size, c.FileCount, c.PackageCount, c.UpdatedAt)
	if err != nil {
		return pg.Classify(err)
	}
	if tag.RowsAffected() != 1 {
		return lostRace(c.Name, from)
	}
	return nil
}

// touchChannel says that a channel's packages have changed without a revision, and returns when: what is kept of their names
// is looked at again, and what has no later time is taken for known.
func touchChannel(ctx context.Context, tx pgx.Tx, id uuid.UUID, now time.Time) (at time.Time, err error) {
	err = tx.QueryRow(ctx, `UPDATE channels.channels SET updated_at = greatest($2, updated_at + interval '1 microsecond') WHERE id = $1 RETURNING updated_at`, id, now).Scan(&at)
	return at, pg.Classify(err)
}

func lostRace(name string, expected int64) error {
	return fault.New(fault.LostRace, "channel %s is no longer at revision %d", name, expected).WithReason(reasonHeadMoved)
}

// deleteChannelRows removes all that a channel has in this schema.
func deleteChannelRows(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	b := &pgx.Batch{}
	for _, table := range []string{"conda_shards", "conda_subdirs", "conda_changes", "conda_facts", "packages", "renditions", "files", "revisions", "mirrors", "announcements", "proxied", "proxied_families", "applied", "conda_spans", "webhooks", "deliveries"} {
		b.Queue(`DELETE FROM channels.`+table+` WHERE channel_id = $1`, id)
	}
	b.Queue(`DELETE FROM channels.channels WHERE id = $1`, id)
	return pg.Classify(tx.SendBatch(ctx, b).Close())
}

// channelFilter narrows a list of channels to what its caller may see.
type channelFilter struct {
	query      string // lower case
	namespace  string
	all        bool
	public     bool
	ids        []uuid.UUID
	namespaces []string
}

func (f channelFilter) where() (string, pgx.NamedArgs) {
	return `(@query = '' OR strpos(name_key, @query) > 0) AND (@namespace = '' OR namespace = @namespace)
		AND (@all OR (@public AND NOT private) OR id = ANY(@ids) OR namespace = ANY(@namespaces))`,
		pgx.NamedArgs{"query": f.query, "namespace": f.namespace, "all": f.all, "public": f.public, "ids": nonNil(f.ids), "namespaces": nonNil(f.namespaces)}
}

// nonNil keeps a NULL array, to which nothing compares, out of a query.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func listChannels(ctx context.Context, db pg.DB, f channelFilter, after string, skip int64, limit int) ([]*channelRow, error) {
	where, args := f.where()
	args["after"], args["skip"], args["limit"] = after, skip, limit
	rows, err := db.Query(ctx, `SELECT `+channelColumns+` FROM channels.channels WHERE `+where+` AND name_key > @after
		ORDER BY name_key OFFSET @skip LIMIT @limit`, args)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[channelRow])
	return all, pg.Classify(err)
}

func countChannels(ctx context.Context, db pg.DB, f channelFilter) (n int64, err error) {
	where, args := f.where()
	err = db.QueryRow(ctx, `SELECT count(*) FROM channels.channels WHERE `+where, args).Scan(&n)
	return n, pg.Classify(err)
}

// revisionRow is a published state.
type revisionRow struct {
	Number    int64
	CreatedAt time.Time
	Author    string
	Added     int64
	Removed   int64
	Cause     string
}

func insertRevision(ctx context.Context, tx pgx.Tx, channel uuid.UUID, r revisionRow) error {
	_, err := tx.Exec(ctx, `INSERT INTO channels.revisions (channel_id, number, created_at, author, added, removed, cause)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, channel, r.Number, r.CreatedAt, r.Author, r.Added, r.Removed, r.Cause)
	return pg.Classify(err)
}

// listRevisions returns revisions below before, newest first.
func listRevisions(ctx context.Context, db pg.DB, channel uuid.UUID, before int64, limit int) ([]revisionRow, error) {
	rows, err := db.Query(ctx, `SELECT number, created_at, author, added, removed, cause FROM channels.revisions
		WHERE channel_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3`, channel, before, limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[revisionRow])
	return all, pg.Classify(err)
}
