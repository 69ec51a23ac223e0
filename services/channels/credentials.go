package channels

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// splitCredentials takes the credentials out of the upstream's URL of a new channel: user information, and conda's way
// to put a token in front of the path. They are sync's to keep, sealed; the channel's URL is shown to all who may read it.
// What is no URL comes back as it is, for checkMirror to refuse.
func splitCredentials(m *channelsv1.MirrorSettings) (*channelsv1.MirrorSettings, *syncv1.RemoteSettings) {
	u, err := url.Parse(m.GetUrl())
	if err != nil || u.Host == "" {
		return m, nil
	}
	creds := new(syncv1.RemoteSettings)
	if u.User != nil {
		creds.Username = u.User.Username()
		creds.Password, _ = u.User.Password()
		u.User = nil
	}
	if rest, ok := strings.CutPrefix(u.EscapedPath(), "/t/"); ok {
		token, path, _ := strings.Cut(rest, "/")
		plain, err := url.PathUnescape(token)
		decoded, err2 := url.PathUnescape(path)
		if err == nil && err2 == nil && plain != "" {
			creds.PathToken, u.Path, u.RawPath = plain, "/"+decoded, "/"+path
		}
	}
	if proto.Equal(creds, new(syncv1.RemoteSettings)) {
		return m, nil
	}
	m = proto.CloneOf(m)
	m.Url = u.String()
	return m, creds
}

// keepTimeout bounds the wait for sync: whoever makes a channel waits for it.
const keepTimeout = 10 * time.Second

// keepCredentials hands the credentials of a channel that is about to be made to sync: before the channel is there, so
// that there is no moment in which it is asked for without them.
func (s *Service) keepCredentials(ctx context.Context, ch *channelRow, m *channelsv1.MirrorSettings, creds *syncv1.RemoteSettings) error {
	if creds == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(authn.WithSelf(ctx), keepTimeout)
	defer cancel()
	_, err := s.upstreams.PutRemote(ctx, &syncv1.PutRemoteRequest{ChannelId: ch.ID.String(), Channel: ch.Name, Url: m.GetUrl(), Settings: creds})
	if fault.Is(err, fault.Invalid) {
		return fault.Field("mirror.url", "its credentials cannot be used: %w", err)
	}
	return err
}

// dropCredentials takes them back when the channel was not made. If that fails too, sync finds them later.
func (s *Service) dropCredentials(ctx context.Context, id uuid.UUID, creds *syncv1.RemoteSettings) error {
	if creds == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(authn.WithSelf(ctx)), keepTimeout) // the caller may be gone
	defer cancel()
	_, err := s.upstreams.PutRemote(ctx, &syncv1.PutRemoteRequest{ChannelId: id.String()})
	return err
}
