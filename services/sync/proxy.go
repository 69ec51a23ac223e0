package sync

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// What mirrors and proxies of upstream channels have in common; the fetch plane (services/sync/plane) uses it.

// IndexNames are the forms of a full index, in the order in which they are asked for.
func IndexNames() []string {
	return []string{"repodata.json.zst", "repodata.json.bz2", "repodata.json"}
}

// Wanted reports whether includelist and excludelist let a file name in.
func Wanted(settings *channelsv1.MirrorSettings, filename string) bool {
	return wanted(settings, filename)
}

// JoinBase resolves a base URL of an index (CEP 15, CEP 16), which may be relative to it. The result ends in a slash.
func JoinBase(remote, indexPath, base string) (*url.URL, error) {
	return joinBase(remote, indexPath, base)
}

// MayDiffer reports whether another file of the same server may be had although this one failed.
func MayDiffer(err error) bool { return mayDiffer(err) }

// ProxyOwner owns the blobs of what was read of a proxied upstream's family of index files.
func ProxyOwner(channel uuid.UUID, family, dir string) refs.Owner {
	return refs.Owner{Kind: "sync.proxy", ID: channel.String() + "/" + family + ":" + dir}
}

// forgetProxy drops all that is known of a proxied upstream.
func forgetProxy(ctx context.Context, tx pgx.Tx, channel uuid.UUID) error {
	rows, err := tx.Query(ctx, `DELETE FROM sync.proxy_indexes WHERE channel_id = $1 RETURNING family, dir`, channel)
	if err != nil {
		return pg.Classify(err)
	}
	var owners []refs.Owner
	var family, dir string
	if _, err := pgx.ForEachRow(rows, []any{&family, &dir}, func() error {
		owners = append(owners, ProxyOwner(channel, family, dir))
		return nil
	}); err != nil {
		return pg.Classify(err)
	}
	if _, err := refs.RemoveOwner(ctx, tx, owners...); err != nil {
		return fmt.Errorf("forget proxy %s: %w", channel, err)
	}
	_, err = tx.Exec(ctx, `DELETE FROM sync.proxy_leases WHERE channel_id = $1`, channel)
	return pg.Classify(err)
}

// PurgeDocuments forgets documents of proxied upstreams that stand alone and that upstream was not asked for since keep: they
// are not used, or they would have been. It returns how many there were; with dryRun it only counts them.
func PurgeDocuments(ctx context.Context, db pg.DB, keep time.Duration, dryRun bool) (n int64, err error) {
	const old = ` FROM sync.proxy_indexes WHERE family = 'file' AND greatest(checked_at, failed_at) < clock_timestamp() - $1::interval`
	if dryRun {
		return n, pg.Classify(db.QueryRow(ctx, `SELECT count(*)`+old, keep).Scan(&n))
	}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `DELETE`+old+` RETURNING channel_id, dir`, keep)
			if err != nil {
				return pg.Classify(err)
			}
			var owners []refs.Owner
			var channel uuid.UUID
			var dir string
			if _, err := pgx.ForEachRow(rows, []any{&channel, &dir}, func() error {
				owners = append(owners, ProxyOwner(channel, "file", dir))
				return nil
			}); err != nil {
				return pg.Classify(err)
			}
			n = int64(len(owners))
			_, err = refs.RemoveOwner(ctx, tx, owners...)
			return err
		})
	})
	return n, err
}
