package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// store is the SQL of this service; db is a pool or a transaction.
type store struct{ db pg.DB }

// usage counts what is stored, by whether something refers to it.
func (s store) usage(ctx context.Context) (*storagev1.GetUsageResponse, error) {
	out := &storagev1.GetUsageResponse{}
	err := s.db.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE used), coalesce(sum(size) FILTER (WHERE used), 0)::bigint,
			count(*) FILTER (WHERE NOT used), coalesce(sum(size) FILTER (WHERE NOT used), 0)::bigint,
			(SELECT count(*) FROM refs.refs), (SELECT count(*) FROM storage.findings WHERE resolved_at IS NULL)
		FROM (SELECT size, EXISTS (SELECT FROM refs.refs r WHERE r.digest = b.digest) AS used FROM refs.blobs b WHERE deleted_at IS NULL) b`).
		Scan(&out.BlobCount, &out.BlobBytes, &out.UnreferencedCount, &out.UnreferencedBytes, &out.ReferenceCount, &out.FindingCount)
	if err != nil {
		return nil, fmt.Errorf("storage usage: %w", pg.Classify(err))
	}
	return out, nil
}

// The problems, as the database has them.
const (
	corrupt    = "corrupt"
	missing    = "missing"
	unreadable = "unreadable"
)

// finding is a row of storage.findings.
type finding struct {
	Digest      blob.Digest
	Problem     string
	Size        int64
	Quarantined bool
	Detail      string
	FoundAt     time.Time
	LastAt      time.Time
	ResolvedAt  *time.Time
}

// findings returns at most limit findings whose digests sort after one.
func (s store) findings(ctx context.Context, after blob.Digest, resolved bool, limit int) ([]finding, error) {
	rows, err := s.db.Query(ctx, `
		SELECT digest, problem, size, quarantined, detail, found_at, last_at, resolved_at FROM storage.findings
		WHERE digest > $1 AND ($2 OR resolved_at IS NULL) ORDER BY digest LIMIT $3`, after, resolved, limit)
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", pg.Classify(err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[finding])
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", pg.Classify(err))
	}
	return found, nil
}

// openFindings counts findings that are not resolved, by problem.
func (s store) openFindings(ctx context.Context) (map[string]int64, error) {
	rows, err := s.db.Query(ctx, `SELECT problem, count(*) FROM storage.findings WHERE resolved_at IS NULL GROUP BY problem`)
	if err != nil {
		return nil, pg.Classify(err)
	}
	counts := map[string]int64{corrupt: 0, missing: 0, unreadable: 0}
	var (
		problem string
		n       int64
	)
	_, err = pgx.ForEachRow(rows, []any{&problem, &n}, func() error {
		counts[problem] = n
		return nil
	})
	return counts, pg.Classify(err)
}

// putFinding notes a finding. What was quarantined is missing ever after; it stays the corruption that it was.
func (s store) putFinding(ctx context.Context, f finding) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO storage.findings AS f (digest, problem, size, quarantined, detail) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (digest) DO UPDATE SET last_at = now(), resolved_at = NULL,
			found_at = CASE WHEN f.resolved_at IS NULL THEN f.found_at ELSE now() END,
			problem = CASE WHEN f.resolved_at IS NULL AND excluded.problem = 'missing' AND f.quarantined THEN f.problem ELSE excluded.problem END,
			detail = CASE WHEN f.resolved_at IS NULL AND excluded.problem = 'missing' AND f.quarantined THEN f.detail ELSE excluded.detail END,
			quarantined = excluded.quarantined OR f.resolved_at IS NULL AND f.quarantined,
			size = greatest(f.size, excluded.size)`,
		f.Digest, f.Problem, f.Size, f.Quarantined, f.Detail)
	if err != nil {
		return fmt.Errorf("note finding: %w", pg.Classify(err))
	}
	return nil
}

// resolve closes the findings about blobs that were found whole.
func (s store) resolve(ctx context.Context, digests []blob.Digest) (int64, error) {
	tag, err := s.db.Exec(ctx, `UPDATE storage.findings SET resolved_at = now() WHERE resolved_at IS NULL AND digest = ANY ($1)`, digests)
	if err != nil {
		return 0, fmt.Errorf("resolve findings: %w", pg.Classify(err))
	}
	return tag.RowsAffected(), nil
}

// purgeFindings removes findings that were resolved longer ago than keep; with dryRun it only counts them.
func (s store) purgeFindings(ctx context.Context, keep time.Duration, dryRun bool) (n int64, err error) {
	if dryRun {
		err = s.db.QueryRow(ctx, `SELECT count(*) FROM storage.findings WHERE resolved_at < now() - $1::interval`, keep).Scan(&n)
	} else {
		tag, derr := s.db.Exec(ctx, `DELETE FROM storage.findings WHERE resolved_at < now() - $1::interval`, keep)
		n, err = tag.RowsAffected(), derr
	}
	if err != nil {
		return 0, fmt.Errorf("remove old findings: %w", pg.Classify(err))
	}
	return n, nil
}

// pass is a row of storage.passes: how far a scrub has come.
type pass struct {
	Cursor                                   blob.Digest
	Checked, CheckedBytes                    int64
	Corrupt, Missing, Unreadable, ResolvedBy int64
}

// beginPass returns the pass of this mode that is under way, or begins one.
func (s store) beginPass(ctx context.Context, mode string) (p pass, err error) {
	err = s.db.QueryRow(ctx, `
		SELECT cursor, checked, checked_bytes, corrupt, missing, unreadable, resolved FROM storage.passes WHERE mode = $1 AND finished_at IS NULL`, mode).
		Scan(&p.Cursor, &p.Checked, &p.CheckedBytes, &p.Corrupt, &p.Missing, &p.Unreadable, &p.ResolvedBy)
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("begin scrub: %w", pg.Classify(err))
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO storage.passes (mode, cursor) VALUES ($1, $2)
		ON CONFLICT (mode) DO UPDATE SET cursor = $2, checked = 0, checked_bytes = 0, corrupt = 0, missing = 0, unreadable = 0, resolved = 0,
			started_at = now(), finished_at = NULL`, mode, blob.Digest{})
	if err != nil {
		return pass{}, fmt.Errorf("begin scrub: %w", pg.Classify(err))
	}
	return pass{}, nil
}

// savePass keeps how far a pass has come.
func (s store) savePass(ctx context.Context, mode string, p pass, finished bool) error {
	_, err := s.db.Exec(ctx, `
		UPDATE storage.passes SET cursor = $2, checked = $3, checked_bytes = $4, corrupt = $5, missing = $6, unreadable = $7, resolved = $8,
			finished_at = CASE WHEN $9 THEN now() END
		WHERE mode = $1`, mode, p.Cursor, p.Checked, p.CheckedBytes, p.Corrupt, p.Missing, p.Unreadable, p.ResolvedBy, finished)
	if err != nil {
		return fmt.Errorf("save scrub: %w", pg.Classify(err))
	}
	return nil
}

// resolveUnneeded closes the findings about blobs that nothing refers to any more, unless the pass that ends
// found one that lies there and cannot be read.
func (s store) resolveUnneeded(ctx context.Context) (int64, error) {
	tag, err := s.db.Exec(ctx, `
		UPDATE storage.findings f SET resolved_at = now()
		WHERE resolved_at IS NULL AND NOT EXISTS (SELECT FROM refs.refs r WHERE r.digest = f.digest)
			AND (problem <> 'unreadable' OR last_at < (SELECT started_at FROM storage.passes WHERE mode = $1))`, modeScrub)
	if err != nil {
		return 0, fmt.Errorf("resolve findings: %w", pg.Classify(err))
	}
	return tag.RowsAffected(), nil
}
