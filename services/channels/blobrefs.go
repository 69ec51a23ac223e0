package channels

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

// A channel as a whole refers to each of its blobs once, however many of its rows name it: a sync of two hundred
// thousand files writes short references, and a deletion takes them all by their owner. Whoever removes rows therefore
// looks whether others name the same bytes; see retire.
func owner(channel uuid.UUID) refs.Owner {
	return refs.Owner{Kind: "channels.channel", ID: channel.String()}
}

func addRefs(ctx context.Context, tx pgx.Tx, channel uuid.UUID, files []newRendition) error {
	list := make([]refs.Ref, 0, len(files))
	for _, f := range files {
		list = append(list, refs.Ref{Digest: f.digest, Size: f.size, Owner: owner(channel)})
	}
	return refs.Add(ctx, tx, list...)
}

func removeRefs(ctx context.Context, tx pgx.Tx, channel uuid.UUID, digests []blob.Digest) error {
	list := make([]refs.Ref, 0, len(digests))
	for _, d := range digests {
		list = append(list, refs.Ref{Digest: d, Owner: owner(channel)})
	}
	return refs.Remove(ctx, tx, list...)
}

func removeAllRefs(ctx context.Context, tx pgx.Tx, channel uuid.UUID) error {
	_, err := refs.RemoveOwner(ctx, tx, owner(channel), planOwner(channel))
	return err
}

// writeRefs refers to all that a publication names anew: its files, page by page, and its index files.
func (s *Service) writeRefs(ctx context.Context, st *staging, b *shardBuild) error {
	err := st.eachDigest(ctx, func(page []stagedDigest) error {
		list := make([]newRendition, 0, len(page))
		for _, f := range page {
			if f.Digest != nil {
				list = append(list, newRendition{digest: *f.Digest, size: max(f.Size, 0)})
			}
		}
		return addRefs(ctx, st.tx, st.channel.ID, list)
	})
	if err != nil {
		return err
	}
	return addRefs(ctx, st.tx, st.channel.ID, b.renditions)
}

// revive takes blobs that garbage collection was about to delete out of its hands, so that the next attempt, which puts
// or looks for them again, can refer to them. It reports whether err was about such blobs.
func (s *Service) revive(ctx context.Context, err error) (bool, error) {
	var gone *refs.GoneError
	if !errors.As(err, &gone) {
		return false, nil
	}
	list := make([]refs.Blob, 0, len(gone.Digests))
	for _, d := range gone.Digests {
		list = append(list, refs.Blob{Digest: d})
		if st, err := s.blobs.Stat(ctx, d); err == nil {
			list[len(list)-1].Size = st.Size
		}
	}
	_, err = refs.Record(ctx, s.pool, list...)
	return true, pg.Classify(err)
}
