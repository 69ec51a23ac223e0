package channels

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// GetChannel returns a channel.
func (s *Service) GetChannel(ctx context.Context, req *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
	ch, err := s.channel(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	return s.withMembers(ctx, ch)
}

// withMembers converts a channel and counts its members.
func (s *Service) withMembers(ctx context.Context, ch *channelRow) (*channelsv1.Channel, error) {
	out, err := s.toProto(ch)
	if err != nil {
		return nil, err
	}
	return out, s.countMembers(ctx, out)
}

// ListChannels returns a page of channels by name: the public ones and those that the caller has a role on. People who
// may read everything see no more than that here, as in Quetz: a list of thousands of others' channels helps nobody.
func (s *Service) ListChannels(ctx context.Context, req *channelsv1.ListChannelsRequest) (*channelsv1.ListChannelsResponse, error) {
	p, err := parsePage(req.GetPageSize(), req.GetSkip(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	f, err := s.visible(ctx, authn.FromContext(ctx), req.GetMemberOnly())
	if err != nil {
		return nil, err
	}
	f.query, f.namespace = strings.ToLower(likePart(req.GetQuery())), likePart(req.GetNamespace())
	rows, err := listChannels(ctx, s.pool, f, p.after, p.skip, p.size+1)
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListChannelsResponse)
	if out.TotalSize, err = countChannels(ctx, s.pool, f); err != nil {
		return nil, err
	}
	if len(rows) > p.size {
		rows = rows[:p.size]
		out.NextPageToken = tokenOf(strings.ToLower(rows[len(rows)-1].Name))
	}
	for _, row := range rows {
		ch, err := s.toProto(row)
		if err != nil {
			return nil, err
		}
		out.Channels = append(out.Channels, ch)
	}
	return out, s.countMembers(ctx, out.Channels...)
}

func (s *Service) visible(ctx context.Context, c authn.Caller, memberOnly bool) (f channelFilter, err error) {
	readable, err := s.roles.Readable(ctx, c)
	if err != nil {
		return f, err
	}
	f.public = !memberOnly
	f.all = readable.All && c.UserID == "" // a part of the platform
	f.namespaces = readable.Namespaces
	for _, id := range readable.Channels {
		if u, err := uuid.Parse(id); err == nil {
			f.ids = append(f.ids, u)
		}
	}
	if readable.All && c.UserID != "" {
		for res := range s.roles.Snapshot().RolesOn(c.UserID, "channel/") {
			if u, err := uuid.Parse(strings.TrimPrefix(res, "channel/")); err == nil {
				f.ids = append(f.ids, u)
			}
		}
	}
	return f, nil
}

// CreateChannel makes a channel whose first revision has the empty index of noarch: clients ask for that in any channel,
// and an absent one is an error to them.
func (s *Service) CreateChannel(ctx context.Context, req *channelsv1.CreateChannelRequest) (*channelsv1.Channel, error) {
	var creds *syncv1.RemoteSettings
	if s.upstreams != nil && req.GetMirror() != nil {
		req = proto.CloneOf(req)
		req.Mirror, creds = splitCredentials(req.GetMirror())
	}
	ch, err := s.newChannel(req)
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	if err := s.mayCreate(ctx, caller, ch, req); err != nil {
		return nil, err
	}
	if _, err := channelByName(ctx, s.pool, ch.Name); err == nil {
		return nil, channelExists(ch.Name)
	} else if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if ch.ID, err = uuid.NewV7(); err != nil {
		return nil, fmt.Errorf("create channel: %w", err)
	}
	if err := s.keepCredentials(ctx, ch, req.GetMirror(), creds); err != nil {
		return nil, fmt.Errorf("create channel %s: %w", ch.Name, err)
	}
	// The role comes before the row, so that there is no moment in which nobody owns the channel.
	roles, err := s.grantOwner(ctx, caller, ch.ID)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create channel %s: %w", ch.Name, err), s.dropCredentials(ctx, ch.ID, creds))
	}
	ch.credentials = creds != nil
	err = s.publishFirst(ctx, ch, caller)
	if err != nil {
		return nil, errors.Join(err, s.revokeAll(ctx, ch.ID), s.dropCredentials(ctx, ch.ID, creds))
	}
	s.heeded(ctx, roles)
	s.announce(ctx, ch, false)
	return s.withMembers(ctx, ch)
}

// newChannel checks a request in full before anything is done.
func (s *Service) newChannel(req *channelsv1.CreateChannelRequest) (*channelRow, error) {
	name, err := names.ParseChannel(req.GetName())
	if err != nil {
		return nil, err
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	ch := &channelRow{
		Name: name.String(), Namespace: authz.DefaultNamespace, Description: req.GetDescription(), Private: true, Format: formatConda,
		TTL: defaultTTL, SizeLimit: req.SizeLimit, Head: 1, CreatedAt: now, UpdatedAt: now,
	}
	if req.Private != nil {
		ch.Private = req.GetPrivate()
	}
	if ch.SizeLimit == nil && s.cfg.DefaultQuota > 0 {
		ch.SizeLimit = new(s.cfg.DefaultQuota)
	}
	if req.Ttl != nil {
		ch.TTL = req.GetTtl()
	}
	if req.GetNamespace() != "" {
		ns, err := names.ParseNamespace(req.GetNamespace())
		if err != nil {
			return nil, err
		}
		ch.Namespace = ns.String()
	}
	if err := errors.Join(checkDescription(ch.Description), checkTTL(ch.TTL), checkSizeLimit(req.GetSizeLimit())); err != nil {
		return nil, err
	}
	kind := req.GetKind()
	m := req.GetMirror()
	switch {
	case kind == channelsv1.ChannelKind_CHANNEL_KIND_UNSPECIFIED && m == nil:
		kind = channelsv1.ChannelKind_CHANNEL_KIND_HOSTED
	case kind == channelsv1.ChannelKind_CHANNEL_KIND_UNSPECIFIED:
		kind = channelsv1.ChannelKind_CHANNEL_KIND_MIRROR
	case channelsv1.ChannelKind_name[int32(kind)] == "":
		return nil, fault.Field("kind", "is not known")
	}
	ch.Kind = int16(kind)
	if kind == channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
		if m != nil {
			return nil, fault.Field("mirror", "hosted channels have no upstream")
		}
		return ch, nil
	}
	if m == nil {
		return nil, fault.Field("mirror", "mirrors and proxies need an upstream")
	}
	if len(m.GetIncludelist()) > 0 && len(m.GetExcludelist()) > 0 {
		return nil, fault.Field("mirror", "Cannot use both `includelist` and `excludelist` together.").WithReason("INCLUDE_AND_EXCLUDE")
	}
	if err := checkMirror(m); err != nil {
		return nil, err
	}
	ch.Mirror, err = proto.Marshal(m)
	return ch, err
}

// mayCreate asks for what the access option of CreateChannel does not.
func (s *Service) mayCreate(ctx context.Context, c authn.Caller, ch *channelRow, req *channelsv1.CreateChannelRequest) error {
	ns := authz.NamespaceOf(ch.Namespace)
	if ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
		if err := s.roles.Allow(ctx, c, authz.ChannelsCreateMirror, ns); err != nil {
			return serverRole(err, "this operation requires owner or maintainer roles")
		}
	}
	if req.SizeLimit != nil {
		if err := s.roles.Allow(ctx, c, authz.ChannelsLimit, ns); err != nil {
			return serverRole(err, textLimitRole)
		}
	}
	return s.checkNamespace(ctx, ch.Namespace)
}

const textLimitRole = "only server maintainer or owner can set channel size limit"

// serverRole says which role a refused caller lacks.
func serverRole(err error, text string) error {
	if fault.Is(err, fault.Denied) {
		return fault.New(fault.Denied, "%s", text).WithReason("SERVER_ROLE")
	}
	return err
}

func channelExists(name string) error {
	return fault.New(fault.Conflict, "Channel %s exists", name).WithReason("CHANNEL_EXISTS")
}

// publishFirst inserts a channel with its first revision. The blobs of an empty index are shared by all channels, and
// garbage collection may be about to take them while no channel has one.
func (s *Service) publishFirst(ctx context.Context, ch *channelRow, caller authn.Caller) error {
	for attempt := 1; ; attempt++ {
		var files []newRendition
		if ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_PROXY { // whose index is upstream's
			var err error
			if files, err = s.emptyIndex(ctx, "noarch"); err != nil {
				return fmt.Errorf("create channel %s: %w", ch.Name, err)
			}
		}
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.insert(ctx, tx, ch, files, caller) })
		if err == nil {
			return nil
		}
		revived, rerr := s.revive(ctx, err)
		if rerr != nil {
			return rerr
		}
		if !(revived || pg.IsLostRace(err)) || attempt == publishAttempts {
			return pg.Classify(err)
		}
	}
}

func (s *Service) insert(ctx context.Context, tx pgx.Tx, ch *channelRow, files []newRendition, caller authn.Caller) error {
	if err := insertChannel(ctx, tx, ch, caller.Actor()); err != nil {
		return err
	}
	if err := insertRevision(ctx, tx, ch.ID, revisionRow{Number: 1, CreatedAt: ch.CreatedAt, Author: caller.Actor(), Cause: causeCreate}); err != nil {
		return err
	}
	if len(files) > 0 {
		for _, table := range []string{"conda_subdirs", "conda_changes"} {
			if _, err := tx.Exec(ctx, `INSERT INTO channels.`+table+` (channel_id, subdir, revision) VALUES ($1, 'noarch', 1)`, ch.ID); err != nil {
				return pg.Classify(err)
			}
		}
		if err := s.enqueueExtras(ctx, tx, ch, "noarch", false); err != nil {
			return err
		}
		if err := s.putRenditions(ctx, tx, ch, built{revision: 1, files: files}); err != nil {
			return err
		}
	}
	details := map[string]any{"kind": ch.kind().String(), "private": ch.Private}
	if ch.credentials {
		details["credentials"] = true
	}
	return s.record(ctx, tx, caller, "channel.create", ch, details)
}

// UpdateChannel changes the settings that the mask names.
func (s *Service) UpdateChannel(ctx context.Context, req *channelsv1.UpdateChannelRequest) (*channelsv1.Channel, error) {
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		return nil, fault.Field("update_mask", "must name what to change")
	}
	caller := authn.FromContext(ctx)
	found, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if p == "size_limit" {
			if err := s.roles.Allow(ctx, caller, authz.ChannelsLimit, authz.NamespaceOf(found.Namespace)); err != nil {
				return nil, serverRole(err, textLimitRole)
			}
		}
	}
	var ch *channelRow
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if ch, err = lockChannel(ctx, tx, found.ID); err != nil {
			return err
		}
		if err := change(ch, req.GetSettings(), paths); err != nil {
			return err
		}
		if err := updateSettings(ctx, tx, ch); err != nil {
			return err
		}
		if slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, "mirror") }) {
			if err := forgetProxied(ctx, tx, ch); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, caller, "channel.update", ch, map[string]any{"fields": strings.Join(paths, ",")})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	s.announce(ctx, ch, false)
	return s.withMembers(ctx, ch)
}

// change sets the named settings of a channel and checks them.
func change(ch *channelRow, to *channelsv1.Channel, paths []string) error {
	m, err := ch.mirrorSettings()
	if err != nil {
		return err
	}
	from := to.GetMirror()
	for _, p := range paths {
		if strings.HasPrefix(p, "mirror") && m == nil {
			return fault.Field("update_mask", "attribute '%s' of channel can not be changed", p)
		}
		switch p {
		case "description":
			ch.Description = to.GetDescription()
		case "private":
			ch.Private = to.GetPrivate()
		case "ttl":
			ch.TTL = to.GetTtl()
		case "size_limit":
			ch.SizeLimit = nil
			if to != nil && to.SizeLimit != nil {
				ch.SizeLimit = new(to.GetSizeLimit())
			}
		case "mirror":
			m = proto.CloneOf(from)
			if m == nil {
				m = new(channelsv1.MirrorSettings)
			}
		case "mirror.url":
			m.Url = from.GetUrl()
		case "mirror.removal_policy":
			m.RemovalPolicy = from.GetRemovalPolicy()
		case "mirror.includelist":
			m.Includelist = from.GetIncludelist()
		case "mirror.excludelist":
			m.Excludelist = from.GetExcludelist()
		case "mirror.proxylist":
			m.Proxylist = from.GetProxylist()
		case "mirror.subdirs":
			m.Subdirs = from.GetSubdirs()
		default:
			return fault.Field("update_mask", "attribute '%s' of channel can not be changed", shown(p))
		}
	}
	if err := errors.Join(checkDescription(ch.Description), checkTTL(ch.TTL)); err != nil {
		return err
	}
	if ch.SizeLimit != nil {
		if err := checkSizeLimit(*ch.SizeLimit); err != nil {
			return err
		}
	}
	if m == nil {
		return nil
	}
	if err := checkMirror(m); err != nil {
		return err
	}
	ch.Mirror, err = proto.Marshal(m)
	return err
}
