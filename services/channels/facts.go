package channels

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/index"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// factsOf returns what channeldata.json says about a package, as JSON; nil if that is nothing.
func (s *Service) factsOf(info *archive.Info) []byte {
	f := index.Facts(info, s.cfg.Archive)
	if f == (repodata.PackageFacts{}) {
		return nil
	}
	out, err := json.Marshal(f)
	if err != nil {
		return nil // cannot happen: strings and booleans
	}
	return out
}

// boundedText makes a stranger's text fit for lists.
func boundedText(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

func parseFacts(raw []byte) *repodata.PackageFacts {
	if len(raw) == 0 {
		return nil
	}
	f := new(repodata.PackageFacts)
	if json.Unmarshal(raw, f) != nil {
		return nil // nothing is known, as of a mirrored file
	}
	return f
}

// putFacts keeps what uploads say of themselves. The same bytes always say the same.
func putFacts(ctx context.Context, tx pgx.Tx, channel uuid.UUID, files []inspected) error {
	var digests [][]byte
	var facts [][]byte
	for _, in := range files {
		if in.facts != nil {
			digests, facts = append(digests, in.file.digest), append(facts, in.facts)
		}
	}
	if len(digests) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO channels.conda_facts (channel_id, digest, facts)
		SELECT DISTINCT ON (digest) $1::uuid, digest, facts FROM unnest($2::bytea[], $3::bytea[]) u(digest, facts)
		ON CONFLICT (channel_id, digest) DO UPDATE SET facts = excluded.facts`, channel, digests, facts)
	return pg.Classify(err)
}

// dropFacts forgets files whose bytes the channel has no more.
func dropFacts(ctx context.Context, tx pgx.Tx, channel uuid.UUID, digests []blob.Digest) error {
	_, err := tx.Exec(ctx, `DELETE FROM channels.conda_facts WHERE channel_id = $1 AND digest = ANY($2)`, channel, digests)
	return pg.Classify(err)
}
