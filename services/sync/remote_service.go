package sync

import (
	"context"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// upstreamOf returns the channel if it has an upstream, and its id.
func (s *Service) upstreamOf(ctx context.Context, name string) (*channelsv1.Channel, uuid.UUID, error) {
	ch, err := s.channel(ctx, name)
	if err != nil {
		return nil, uuid.Nil, err
	}
	if ch.GetMirror().GetUrl() == "" {
		return nil, uuid.Nil, fault.New(fault.Precondition, "channel %s has no upstream", ch.GetName()).WithReason("CHANNEL_KIND")
	}
	id, err := uuid.Parse(ch.GetId())
	return ch, id, err
}

// GetRemote says how a channel's upstream is reached. It shows no secrets.
func (s *Service) GetRemote(ctx context.Context, req *syncv1.GetRemoteRequest) (*syncv1.Remote, error) {
	ch, id, err := s.upstreamOf(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	row, err := s.store.remoteRow(ctx, s.deps.Pool, id)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return toRemote(ch, nil, time.Time{}), nil
	}
	st, err := openStored(s.deps.Master, id, row.Sealed)
	if err != nil {
		return nil, err
	}
	return toRemote(ch, st, row.UpdatedAt), nil
}

// UpdateRemote sets how a channel's upstream is reached. Every process goes by it from its next request on.
func (s *Service) UpdateRemote(ctx context.Context, req *syncv1.UpdateRemoteRequest) (*syncv1.Remote, error) {
	ch, id, err := s.upstreamOf(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	var out *syncv1.Remote
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) (err error) {
			out, err = s.updateRemote(ctx, tx, ch, id, req)
			return err
		})
	})
	return out, err
}

func (s *Service) updateRemote(ctx context.Context, tx pgx.Tx, ch *channelsv1.Channel, id uuid.UUID, req *syncv1.UpdateRemoteRequest) (*syncv1.Remote, error) {
	row, err := s.store.lockRemote(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	st := new(syncv1.StoredRemote)
	if row != nil {
		st, err = openStored(s.deps.Master, id, row.Sealed)
		switch {
		case err == nil:
		case clears(req):
			st = new(syncv1.StoredRemote) // what cannot be read any more can still be replaced
		default:
			return nil, err
		}
	}
	old := st.GetSettings()
	settings, changed, err := merge(old, req.GetSettings(), req.GetUpdateMask().GetPaths())
	if err != nil {
		return nil, err
	}
	if err := checkSettings(settings); err != nil {
		return nil, err
	}
	if err := checkWay(old, settings, changed); err != nil {
		return nil, err
	}
	if err := checkOrigin(st, settings, changed, ch.GetMirror().GetUrl()); err != nil {
		return nil, err
	}
	st.Settings = settings
	switch {
	case !hasCredentials(settings):
		st.Origin = ""
	case gives(settings, changed):
		st.Origin = fetch.Origin(ch.GetMirror().GetUrl())
	}
	at := time.Time{}
	if proto.Equal(settings, new(syncv1.RemoteSettings)) {
		err = s.store.deleteRemote(ctx, tx, id)
	} else {
		var sealed []byte
		if sealed, err = sealStored(s.deps.Master, id, st); err == nil {
			at, err = s.store.putRemote(ctx, tx, id, sealed, "")
		}
	}
	if err != nil {
		return nil, err
	}
	err = audit.Record(ctx, tx, audit.Event{
		Action: "channel.remote.update", Resource: "channel/" + ch.GetName(), Details: map[string]any{"fields": changed},
	})
	return toRemote(ch, st, at), err
}

// clears reports whether a request replaces all there is.
func clears(req *syncv1.UpdateRemoteRequest) bool {
	return slices.Contains(req.GetUpdateMask().GetPaths(), "*")
}

// gives reports whether a change gives a credential, and not only takes some away.
func gives(now *syncv1.RemoteSettings, changed []string) bool {
	given := credentialsOnly(now)
	for _, name := range changed {
		if f := given.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil && given.ProtoReflect().Has(f) {
			return true
		}
	}
	return false
}

// checkOrigin wants all credentials again, and not only some of them, once the URL is at another origin than they were
// given for.
func checkOrigin(st *syncv1.StoredRemote, now *syncv1.RemoteSettings, changed []string, url string) error {
	if st.GetOrigin() == "" || st.GetOrigin() == fetch.Origin(url) || !gives(now, changed) {
		return nil
	}
	kept := credentialsOnly(now)
	for _, name := range changed {
		if f := kept.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil {
			kept.ProtoReflect().Clear(f)
		}
	}
	kept.Username, kept.Header, kept.ClientCert = "", "", ""
	if hasCredentials(kept) {
		return fault.Field("settings", "the credentials were given for %s: give all of them again, or clear them", st.GetOrigin()).WithReason(ReasonRemoteOrigin)
	}
	return nil
}

func credentialsOnly(s *syncv1.RemoteSettings) *syncv1.RemoteSettings {
	return &syncv1.RemoteSettings{
		Username: s.GetUsername(), Password: s.GetPassword(), BearerToken: s.GetBearerToken(), Header: s.GetHeader(),
		HeaderValue: s.GetHeaderValue(), PathToken: s.GetPathToken(), ClientCert: s.GetClientCert(), ClientKey: s.GetClientKey(),
	}
}

const (
	// reservationAge is how long a channel may be about to be made.
	reservationAge = time.Hour
	// sweepLimit bounds how many of them are looked at in one call.
	sweepLimit = 10
)

// PutRemote keeps the credentials that came with the URL of a new channel, before the channel is there: so none is ever
// there without them. The channels service calls it, once more without settings if it could not make the channel.
func (s *Service) PutRemote(ctx context.Context, req *syncv1.PutRemoteRequest) (*emptypb.Empty, error) {
	id, err := uuid.Parse(req.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "not a UUID")
	}
	if req.GetSettings() == nil {
		return &emptypb.Empty{}, s.store.deleteRemote(ctx, s.deps.Pool, id)
	}
	s.sweep(ctx)
	if err := checkSettings(req.GetSettings()); err != nil {
		return nil, err
	}
	sealed, err := sealStored(s.deps.Master, id, &syncv1.StoredRemote{Settings: req.GetSettings(), Origin: fetch.Origin(req.GetUrl())})
	if err != nil {
		return nil, err
	}
	_, err = s.store.putRemote(ctx, s.deps.Pool, id, sealed, req.GetChannel())
	return &emptypb.Empty{}, err
}

// sweep drops credentials of channels that were never made, because the process that was about to was killed. What
// cannot be decided now is looked at the next time.
func (s *Service) sweep(ctx context.Context) {
	old, err := s.store.reservations(ctx, reservationAge, sweepLimit)
	if err != nil {
		return
	}
	for _, r := range old {
		ch, err := s.channel(authn.WithSelf(ctx), r.Name)
		switch {
		case err == nil && ch.GetId() == r.ChannelID.String():
			err = s.store.confirm(ctx, r.ChannelID)
		case err == nil || fault.Is(err, fault.NotFound):
			err = s.store.deleteRemote(ctx, s.deps.Pool, r.ChannelID)
		}
		if err != nil && s.deps.Log != nil {
			s.deps.Log.WarnContext(ctx, "credentials of a channel that was never made are left", "channel", r.Name, "error", err)
		}
	}
}

// toRemote shows settings without their secrets.
func toRemote(ch *channelsv1.Channel, st *syncv1.StoredRemote, at time.Time) *syncv1.Remote {
	s := st.GetSettings()
	out := &syncv1.Remote{
		Channel: ch.GetName(), Url: ch.GetMirror().GetUrl(), Username: s.GetUsername(), PasswordSet: s.GetPassword() != "",
		BearerTokenSet: s.GetBearerToken() != "", Header: s.GetHeader(), HeaderValueSet: s.GetHeaderValue() != "", PathTokenSet: s.GetPathToken() != "",
		CaBundle: s.GetCaBundle(), ClientCert: s.GetClientCert(), ClientKeySet: s.GetClientKey() != "",
		RateBytes: s.GetRateBytes(), RateRequests: s.GetRateRequests(), Origin: st.GetOrigin(),
	}
	if u, err := url.Parse(s.GetProxyUrl()); err == nil && s.GetProxyUrl() != "" {
		out.ProxyCredentialsSet = u.User != nil
		u.User = nil
		out.ProxyUrl = u.String()
	}
	if !at.IsZero() {
		out.UpdateTime = timestamppb.New(at)
	}
	return out
}
