package channels

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Queries about files and packages.

// fileAt returns what a revision lists at a path; nil if nothing. Revision 0 is the head.
func fileAt(ctx context.Context, db pg.DB, channel uuid.UUID, path string, revision int64) (*fileRow, error) {
	sql := `SELECT ` + fileColumns + ` FROM channels.files WHERE channel_id = $1 AND path = $2 AND removed_rev IS NULL AND ($3 = 0 OR added_rev <= $3)`
	if revision != 0 {
		// Two branches, one for each partial index.
		sql += ` UNION ALL SELECT ` + fileColumns + ` FROM channels.files
			WHERE channel_id = $1 AND path = $2 AND removed_rev IS NOT NULL AND added_rev <= $3 AND removed_rev > $3`
	}
	rows, err := db.Query(ctx, sql, channel, path, revision)
	if err != nil {
		return nil, pg.Classify(err)
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[fileRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return f, pg.Classify(err)
}

// stillListed returns a file that has left the channel, as long as the newest repodata.json of its subdir lists it: that
// index lags by one build, and what an index lists can be had.
func stillListed(ctx context.Context, db pg.DB, channel uuid.UUID, path string) (*fileRow, error) {
	subdir, _, _ := strings.Cut(path, "/")
	rows, err := db.Query(ctx, `
		WITH shown AS (
			SELECT revision FROM channels.renditions WHERE channel_id = $1 AND path = $3 ORDER BY revision DESC LIMIT 1
		)
		SELECT `+fileColumns+` FROM channels.files, shown
		WHERE channel_id = $1 AND path = $2 AND removed_rev IS NOT NULL AND added_rev <= shown.revision AND removed_rev > shown.revision`,
		channel, path, subdir+"/repodata.json")
	if err != nil {
		return nil, pg.Classify(err)
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[fileRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return f, pg.Classify(err)
}

// filesAt returns the files at head that stand at the paths, by path.
func filesAt(ctx context.Context, db pg.DB, channel uuid.UUID, paths []string) (map[string]*fileRow, error) {
	rows, err := db.Query(ctx, `SELECT `+fileColumns+` FROM channels.files WHERE channel_id = $1 AND path = ANY($2) AND removed_rev IS NULL`, channel, paths)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[fileRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := make(map[string]*fileRow, len(all))
	for _, f := range all {
		out[f.Path] = f
	}
	return out, nil
}

// fileFilter narrows a list of the files at head.
type fileFilter struct {
	channel uuid.UUID
	name    string
	subdir  string
}

func (f fileFilter) where() (string, pgx.NamedArgs) {
	where := `channel_id = @channel AND removed_rev IS NULL`
	if f.name != "" {
		where += ` AND name = @name`
	}
	if f.subdir != "" {
		where += ` AND arch = @subdir`
	}
	return where, pgx.NamedArgs{"channel": f.channel, "name": f.name, "subdir": f.subdir}
}

func listFiles(ctx context.Context, db pg.DB, f fileFilter, after string, skip int64, limit int) ([]*fileRow, error) {
	where, args := f.where()
	args["after"], args["skip"], args["limit"] = after, skip, limit
	rows, err := db.Query(ctx, `SELECT `+fileColumns+` FROM channels.files WHERE `+where+` AND path > @after
		ORDER BY path OFFSET @skip LIMIT @limit`, args)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[fileRow])
	return all, pg.Classify(err)
}

func countFiles(ctx context.Context, db pg.DB, f fileFilter) (n int64, err error) {
	where, args := f.where()
	err = db.QueryRow(ctx, `SELECT count(*) FROM channels.files WHERE `+where, args).Scan(&n)
	return n, pg.Classify(err)
}

// fileVersion is what the order of a package's files is made of.
type fileVersion struct {
	Path        string
	Version     string
	Build       string
	BuildNumber int64
	CreatedAt   time.Time
}

func listFileVersions(ctx context.Context, db pg.DB, f fileFilter) ([]fileVersion, error) {
	where, args := f.where()
	rows, err := db.Query(ctx, `SELECT path, version, build, build_number, created_at FROM channels.files WHERE `+where, args)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[fileVersion])
	return all, pg.Classify(err)
}

func packageByName(ctx context.Context, db pg.DB, channel *channelRow, name string) (*packageRow, error) {
	rows, err := db.Query(ctx, `SELECT `+packageColumns+` FROM channels.packages WHERE channel_id = $1 AND name = $2`, channel.ID, name)
	if err != nil {
		return nil, pg.Classify(err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[packageRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "Package %s/%s not found", channel.Name, name).WithReason("PACKAGE_NOT_FOUND")
	}
	return p, pg.Classify(err)
}

// packageOrders are the orders of a list of packages. Names break ties, so that every order is total.
var packageOrders = map[string]string{
	"":             "name",
	"name":         "name",
	"-name":        "name DESC",
	"update_time":  "updated_at NULLS FIRST, name",
	"-update_time": "updated_at DESC NULLS LAST, name",
}

func listPackages(ctx context.Context, db pg.DB, channel uuid.UUID, query, order string, skip int64, limit int) ([]*packageRow, error) {
	rows, err := db.Query(ctx, fmt.Sprintf(`SELECT %s FROM channels.packages WHERE channel_id = $1 AND ($2 = '' OR strpos(name, $2) > 0)
		ORDER BY %s OFFSET $3 LIMIT $4`, packageColumns, packageOrders[order]), channel, query, skip, limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[packageRow])
	return all, pg.Classify(err)
}

func countPackages(ctx context.Context, db pg.DB, channel uuid.UUID, query string) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT count(*) FROM channels.packages WHERE channel_id = $1 AND ($2 = '' OR strpos(name, $2) > 0)`, channel, query).Scan(&n)
	return n, pg.Classify(err)
}

// deletePackageRow removes a package that has no files; who calls it has taken them out.
func deletePackageRow(ctx context.Context, tx pgx.Tx, channel uuid.UUID, name string) error {
	_, err := tx.Exec(ctx, `DELETE FROM channels.packages WHERE channel_id = $1 AND name = $2 AND file_count = 0`, channel, name)
	return pg.Classify(err)
}

// newestRendition returns what a path serves at a revision; nil if nothing. Revision 0 is the newest.
func newestRendition(ctx context.Context, db pg.DB, channel uuid.UUID, path string, revision int64) (*rendition, error) {
	rows, err := db.Query(ctx, `SELECT path, revision, digest, size, created_at FROM channels.renditions
		WHERE channel_id = $1 AND path = $2 AND ($3 = 0 OR revision <= $3) ORDER BY revision DESC LIMIT 1`, channel, path, revision)
	if err != nil {
		return nil, pg.Classify(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[rendition])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return r, pg.Classify(err)
}
