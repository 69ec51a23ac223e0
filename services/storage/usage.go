package storage

import (
	"context"
	"fmt"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// usage counts what references hold. Blobs that nothing refers to are the garbage collector's business.
func usage(ctx context.Context, db pg.DB) (*storagev1.GetUsageResponse, error) {
	out := &storagev1.GetUsageResponse{}
	err := db.QueryRow(ctx, `
		SELECT count(*), coalesce(sum(b.size), 0), (SELECT count(*) FROM refs.refs)
		FROM refs.blobs b WHERE EXISTS (SELECT 1 FROM refs.refs r WHERE r.digest = b.digest)`).
		Scan(&out.BlobCount, &out.BlobBytes, &out.ReferenceCount)
	if err != nil {
		return nil, fmt.Errorf("storage usage: %w", pg.Classify(err))
	}
	return out, nil
}
