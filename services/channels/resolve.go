package channels

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Resolve says what a channel serves at a path: an index file, a package file, a place upstream, or nothing.
func (s *Service) Resolve(ctx context.Context, req *channelsv1.ResolveRequest) (*channelsv1.ResolveResponse, error) {
	path, err := names.CleanPath(req.GetPath())
	if err != nil {
		return nil, err
	}
	if req.GetRevision() < 0 {
		return nil, fault.Field("revision", "must not be negative")
	}
	if at := req.GetAt(); at != nil && (req.GetRevision() != 0 || !at.IsValid()) {
		return nil, fault.Field("at", "must be a time, and not together with revision")
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ResolveResponse)
	if out.Channel, err = s.toProto(ch); err != nil {
		return nil, err
	}
	if ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return out, s.resolveProxied(ctx, ch, path, req, out)
	}
	past, missing, err := s.asked(ctx, ch, req)
	if err != nil || missing != "" {
		out.Missing = missing
		return out, err
	}
	// The queries may see a later head than the channel's row did; asking for that head gives one answer. Package files
	// come first: they are asked for far more often and their names are never those of index files.
	revision := past
	if revision == 0 {
		revision = ch.Head
	}
	if isPackagePath(path) {
		f, err := fileAt(ctx, s.pool, ch.ID, path, revision)
		if err == nil && f == nil && past == 0 {
			f, err = stillListed(ctx, s.pool, ch.ID, path)
		}
		if err == nil && past == 0 && (f == nil || !f.Redirect) {
			f, err = onlyProxied(ch, path, f)
		}
		if err != nil || f == nil {
			return out, err
		}
		return out, resolveFile(out, ch, f)
	}
	var r *rendition
	if past == 0 {
		r, err = newestRendition(ctx, s.pool, ch.ID, path, revision)
	} else {
		r, err = s.pastRendition(ctx, ch, path, revision)
	}
	if err != nil || r == nil {
		return out, err
	}
	out.Found, out.Index = true, true
	out.Sha256, out.Size, out.Revision = r.Digest[:], r.Size, r.Revision
	out.UpdateTime = timestamppb.New(r.CreatedAt)
	out.Encodings, err = encodingsOf(ctx, s.pool, ch.ID, r)
	return out, err
}

// encodingsOf returns the packed forms of a document that were stored with it.
func encodingsOf(ctx context.Context, db pg.DB, channel uuid.UUID, r *rendition) (out []*channelsv1.Encoding, err error) {
	if !strings.HasSuffix(r.Path, ".json") {
		return nil, nil
	}
	rows, err := db.Query(ctx, `SELECT path, digest, size FROM channels.renditions WHERE channel_id = $1 AND path = ANY($2) AND revision = $3`,
		channel, documentPaths(extraForms, r.Path), r.Revision)
	if err != nil {
		return nil, pg.Classify(err)
	}
	found := make(map[string]*channelsv1.Encoding)
	var path string
	var digest []byte
	var size int64
	if _, err := pgx.ForEachRow(rows, []any{&path, &digest, &size}, func() error {
		found[path] = &channelsv1.Encoding{Sha256: digest, Size: size}
		digest = nil
		return nil
	}); err != nil {
		return nil, pg.Classify(err)
	}
	for _, f := range extraForms {
		if e := found[r.Path+f.suffix]; e != nil && f.coding != "" {
			e.Coding = f.coding
			out = append(out, e)
		}
	}
	return out, nil
}

// onlyProxied sends clients of a mirror upstream for a package on its proxylist, also before the first sync and when the name
// came on the list after the file was stored, which the next sync lets go.
func onlyProxied(ch *channelRow, path string, f *fileRow) (*fileRow, error) {
	if ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_MIRROR {
		return f, nil
	}
	m, err := ch.mirrorSettings()
	if err != nil || len(m.GetProxylist()) == 0 {
		return f, err
	}
	d, err := dist.ParseFilename(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil || !slices.Contains(m.GetProxylist(), d.Name) {
		return f, nil
	}
	if f == nil {
		return &fileRow{Path: path, Redirect: true, Size: -1, AddedRev: ch.Head, CreatedAt: ch.UpdatedAt}, nil
	}
	sent := *f
	sent.Digest, sent.Redirect = nil, true
	return &sent, nil
}

func isPackagePath(path string) bool {
	return strings.HasSuffix(path, ".conda") || strings.HasSuffix(path, ".tar.bz2")
}

func resolveFile(out *channelsv1.ResolveResponse, ch *channelRow, f *fileRow) error {
	out.Found, out.Revision, out.UpdateTime = true, f.AddedRev, timestamppb.New(f.CreatedAt)
	out.Size = max(f.Size, 0)
	if f.Digest != nil {
		out.Sha256 = f.Digest[:]
		return nil
	}
	if !f.Redirect {
		return nil
	}
	m, err := ch.mirrorSettings()
	if err != nil {
		return err
	}
	out.RedirectUrl = redirectURL(m.GetUrl(), f)
	return nil
}

// redirectURL is where upstream has a file. Credentials of the upstream never leave the house.
func redirectURL(upstream string, f *fileRow) string {
	target := f.URL
	if target == "" {
		target = strings.TrimRight(upstream, "/") + "/" + escapePath(f.Path)
	} else if u, err := url.Parse(target); err != nil || !u.IsAbs() {
		target = strings.TrimRight(upstream, "/") + "/" + strings.TrimLeft(target, "/")
	}
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return ""
	}
	u.User = nil
	return u.String()
}

// escapePath keeps the signs of file names that mean something in a URL.
func escapePath(p string) string { return (&url.URL{Path: p}).EscapedPath() }
