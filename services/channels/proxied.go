package channels

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

// What proxy channels have is kept here, and not with sync that fetches it, so that one question to this service tells
// the edge all that it needs: what was fetched once is served as any other file is, also while sync is down.

// proxiedRow is a stored file of a proxy channel.
type proxiedRow struct {
	Path       string
	Digest     blob.Digest
	Size       int64
	Want       []byte
	Family     string
	Generation string
	IsIndex    bool
	// FreshFor is in seconds by the database's clock, which all processes share; nil means until told otherwise.
	FreshFor   *float64
	ModifiedAt time.Time
	Idle       bool // for a day or more
}

const proxiedColumns = `path, digest, size, want, family, generation, is_index,
	extract(epoch FROM fresh_until - clock_timestamp())::float8 AS fresh_for, modified_at,
	used_at < clock_timestamp() - interval '1 day' AS idle`

// settingsOf is the digest that tells one state of a channel's mirror settings from another.
func settingsOf(c *channelRow) []byte {
	sum := sha256.Sum256(c.Mirror)
	return sum[:]
}

// resolveProxied says what a proxy channel has at a path. It keeps nothing of the past.
func (s *Service) resolveProxied(ctx context.Context, ch *channelRow, path string, req *channelsv1.ResolveRequest, out *channelsv1.ResolveResponse) error {
	if req.GetRevision() != 0 || req.GetAt() != nil {
		out.Missing = "a proxy channel keeps no revisions"
		return nil
	}
	m, err := ch.mirrorSettings()
	if err != nil {
		return err
	}
	out.Proxy = &channelsv1.ProxyState{Settings: settingsOf(ch)}
	if isPackagePath(path) {
		d, err := dist.ParseFilename(path[strings.LastIndexByte(path, '/')+1:])
		if err == nil && slices.Contains(m.GetProxylist(), d.Name) {
			out.Found, out.RedirectUrl = true, redirectURL(m.GetUrl(), &fileRow{Path: path})
			return nil
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT `+proxiedColumns+` FROM channels.proxied WHERE channel_id = $1 AND path = ANY($2)`,
		ch.ID, documentPaths(extraForms, path))
	if err != nil {
		return pg.Classify(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[proxiedRow])
	if err != nil {
		return pg.Classify(err)
	}
	i := slices.IndexFunc(found, func(r proxiedRow) bool { return r.Path == path })
	if i < 0 {
		return nil
	}
	r := found[i]
	if r.Idle {
		if err := s.touchProxied(ctx, ch.ID, path); err != nil { // it may be let go too early, and is fetched again
			s.log.WarnContext(ctx, "the use of a proxied file is not noted", "channel", ch.Name, "path", path, "error", err)
		}
	}
	out.Found, out.Index, out.Revision = true, r.IsIndex, ch.Head
	out.Sha256, out.Size, out.UpdateTime = r.Digest[:], r.Size, timestamppb.New(r.ModifiedAt)
	out.Proxy.Want, out.Proxy.Family, out.Proxy.Generation = r.Want, r.Family, r.Generation
	if r.FreshFor != nil {
		out.Proxy.FreshFor = durationpb.New(time.Duration(*r.FreshFor * float64(time.Second)))
	}
	for _, form := range extraForms {
		packed := slices.IndexFunc(found, func(p proxiedRow) bool {
			return p.Path == path+form.suffix && r.Family != "" && p.Family == r.Family && p.Generation == r.Generation
		})
		if form.coding != "" && packed >= 0 && strings.HasSuffix(path, ".json") {
			out.Encodings = append(out.Encodings, &channelsv1.Encoding{Coding: form.coding, Sha256: found[packed].Digest[:], Size: found[packed].Size})
		}
	}
	return nil
}

// RecordProxied takes what sync has fetched. Rows and references commit together.
func (s *Service) RecordProxied(ctx context.Context, req *channelsv1.RecordProxiedRequest) (*channelsv1.RecordProxiedResponse, error) {
	id, err := uuid.Parse(req.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is not a UUID")
	}
	files, err := proxiedOf(req)
	if err != nil {
		return nil, err
	}
	out := &channelsv1.RecordProxiedResponse{}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			// The lock keeps a change of settings, which drops everything, from being overtaken by what was fetched before it.
			ch, err := lockChannel(ctx, tx, id)
			if err != nil {
				return err
			}
			if ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
				return fault.New(fault.Precondition, "channel %s is not a proxy", ch.Name).WithReason("CHANNEL_KIND")
			}
			if !slices.Equal(settingsOf(ch), req.GetSettings()) {
				return fault.New(fault.LostRace, "the settings of channel %s have changed", ch.Name).WithReason("SETTINGS_CHANGED")
			}
			return recordProxied(ctx, tx, id, req, files, out)
		})
		if revived, rerr := s.revive(ctx, err); rerr != nil || revived {
			if rerr == nil {
				rerr = fault.New(fault.LostRace, "blobs were being garbage-collected, and are to be put again").WithReason("BLOB_GONE")
			}
			return rerr
		}
		return err
	})
	return out, err
}

func proxiedOf(req *channelsv1.RecordProxiedRequest) ([]proxiedRow, error) {
	rows := make([]proxiedRow, 0, len(req.GetFiles()))
	for _, f := range req.GetFiles() {
		path, err := names.CleanPath(f.GetPath())
		if err != nil {
			return nil, err
		}
		if len(f.GetSha256()) != len(blob.Digest{}) || f.GetSize() < 0 {
			return nil, fault.Field("files", "%s needs a digest and a size", path)
		}
		rows = append(rows, proxiedRow{
			Path: path, Digest: blob.Digest(f.GetSha256()), Size: f.GetSize(), Want: append([]byte{}, f.GetWant()...),
			IsIndex: f.GetIndex(), ModifiedAt: f.GetUpdateTime().AsTime(),
		})
	}
	return rows, nil
}

func recordProxied(ctx context.Context, tx pgx.Tx, id uuid.UUID, req *channelsv1.RecordProxiedRequest, files []proxiedRow, out *channelsv1.RecordProxiedResponse) error {
	family, generation := req.GetFamily(), req.GetGeneration()
	var gone []blob.Digest
	collect := func(sql string, args ...any) error {
		rows, err := tx.Query(ctx, sql, append([]any{id}, args...)...)
		if err != nil {
			return pg.Classify(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
		gone = append(gone, found...)
		return pg.Classify(err)
	}
	if family != "" {
		if _, err := tx.Exec(ctx, `INSERT INTO channels.proxied_families (channel_id, family, generation) VALUES ($1, $2, $3)
			ON CONFLICT (channel_id, family) DO UPDATE SET generation = excluded.generation WHERE proxied_families.generation <> excluded.generation`,
			id, family, generation); err != nil {
			return pg.Classify(err)
		}
		if err := collect(`DELETE FROM channels.proxied WHERE channel_id = $1 AND family = $2 AND family <> '' AND generation <> $3 RETURNING digest`,
			family, generation); err != nil {
			return err
		}
	}
	if len(req.GetDrop()) > 0 {
		if err := collect(`DELETE FROM channels.proxied WHERE channel_id = $1 AND path = ANY($2) RETURNING digest`, req.GetDrop()); err != nil {
			return err
		}
	}
	doubt := false
	if req.GetBasis() != "" {
		// The caller's lock on the channel keeps the family where it is until the files are in.
		if err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM channels.proxied_families WHERE channel_id = $1 AND family = $2 AND generation = $3)`,
			id, req.GetBasis(), req.GetBasisGeneration()).Scan(&doubt); err != nil {
			return pg.Classify(err)
		}
	}
	var list []newRendition
	for _, f := range files {
		if err := collect(`
			WITH old AS (SELECT digest FROM channels.proxied WHERE channel_id = $1 AND path = $2),
			put AS (
				INSERT INTO channels.proxied (channel_id, path, digest, size, want, family, generation, is_index, modified_at, fresh_until)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $10 THEN 'epoch'::timestamptz END)
				ON CONFLICT (channel_id, path) DO UPDATE SET digest = excluded.digest, size = excluded.size, want = excluded.want,
					family = excluded.family, generation = excluded.generation, is_index = excluded.is_index,
					modified_at = excluded.modified_at, fresh_until = excluded.fresh_until, used_at = clock_timestamp())
			SELECT digest FROM old WHERE digest <> $3`,
			f.Path, f.Digest[:], f.Size, f.Want, family, generation, f.IsIndex, f.ModifiedAt, doubt); err != nil {
			return err
		}
		list = append(list, newRendition{path: f.Path, digest: f.Digest, size: f.Size})
	}
	if family != "" && req.GetFreshFor() != nil {
		tag, err := tx.Exec(ctx, `UPDATE channels.proxied SET fresh_until = clock_timestamp() + make_interval(secs => $4)
			WHERE channel_id = $1 AND family = $2 AND generation = $3`, id, family, generation, req.GetFreshFor().AsDuration().Seconds())
		if err != nil {
			return pg.Classify(err)
		}
		out.FamilyFiles = tag.RowsAffected()
	}
	if len(req.GetStale()) > 0 {
		if _, err := tx.Exec(ctx, `UPDATE channels.proxied SET fresh_until = 'epoch' WHERE channel_id = $1 AND path = ANY($2) AND family = ''`,
			id, req.GetStale()); err != nil {
			return pg.Classify(err)
		}
	}
	if err := addRefs(ctx, tx, id, list); err != nil {
		return err
	}
	return dropProxiedRefs(ctx, tx, id, gone)
}

// dropProxiedRefs gives up the references to those of the digests that no path of the channel has any more.
func dropProxiedRefs(ctx context.Context, tx pgx.Tx, id uuid.UUID, digests []blob.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	unused, err := unnamed(ctx, tx, `NOT EXISTS (SELECT 1 FROM channels.proxied p WHERE p.channel_id = $1 AND p.digest = d)`, id, digests)
	if err != nil {
		return err
	}
	return removeRefs(ctx, tx, id, unused)
}

// forgetProxied drops all that a proxy channel has: its settings have changed. What its new index lists with the same
// digests is found in storage again.
func forgetProxied(ctx context.Context, tx pgx.Tx, ch *channelRow) error {
	if ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return nil
	}
	for _, table := range []string{"channels.proxied", "channels.proxied_families"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE channel_id = $1`, ch.ID); err != nil {
			return pg.Classify(err)
		}
	}
	_, err := refs.RemoveOwner(ctx, tx, owner(ch.ID))
	return err
}

// ListProxied lists the stored files of a proxy channel that belong to no family.
func (s *Service) ListProxied(ctx context.Context, req *channelsv1.ListProxiedRequest) (*channelsv1.ListProxiedResponse, error) {
	id, err := uuid.Parse(req.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is not a UUID")
	}
	limit := req.GetPageSize()
	if limit < 1 || limit > 10_000 {
		limit = 10_000
	}
	rows, err := s.pool.Query(ctx, `SELECT `+proxiedColumns+` FROM channels.proxied
		WHERE channel_id = $1 AND family = '' AND path > $2 AND starts_with(path, $3) ORDER BY path LIMIT $4`,
		id, max(req.GetAfter(), req.GetDirectory()), req.GetDirectory(), limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[proxiedRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := &channelsv1.ListProxiedResponse{}
	for _, r := range found {
		out.Files = append(out.Files, &channelsv1.ProxiedFile{
			Path: r.Path, Sha256: r.Digest[:], Size: r.Size, Want: r.Want, Index: r.IsIndex, UpdateTime: timestamppb.New(r.ModifiedAt),
		})
	}
	return out, nil
}
