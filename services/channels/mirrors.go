package channels

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Registered mirrors are other servers' copies of a channel. Whoever registers one names its API, which is asked whether
// it is a mirror at all; that it copies this very channel is noted, not demanded. A mirror on this server is asked
// without a request, as whoever registers it.

const (
	// probeTimeout bounds the question to a mirror, and probeSize its answer, in bytes.
	probeTimeout = 10 * time.Second
	probeSize    = 1 << 20
	maxMirrors   = 1000
)

// mirrorRow is a row of channels.mirrors.
type mirrorRow struct {
	ID              uuid.UUID
	URL             string `db:"url"`
	APIEndpoint     string `db:"api_endpoint"`
	MetricsEndpoint string `db:"metrics_endpoint"`
	Confirmed       bool
	CreatedAt       time.Time
}

func (m *mirrorRow) toProto() *channelsv1.RegisteredMirror {
	return &channelsv1.RegisteredMirror{
		Id: m.ID.String(), Url: m.URL, ApiEndpoint: m.APIEndpoint, MetricsEndpoint: m.MetricsEndpoint,
		Confirmed: m.Confirmed, CreateTime: timestamppb.New(m.CreatedAt),
	}
}

func mirrorsOf(ctx context.Context, db pg.DB, channel uuid.UUID) ([]*mirrorRow, error) {
	rows, err := db.Query(ctx, `SELECT id, url, api_endpoint, metrics_endpoint, confirmed, created_at FROM channels.mirrors
		WHERE channel_id = $1 ORDER BY created_at, id`, channel)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[mirrorRow])
	return all, pg.Classify(err)
}

// ListMirrors returns the registered mirrors.
func (s *Service) ListMirrors(ctx context.Context, req *channelsv1.ListMirrorsRequest) (*channelsv1.ListMirrorsResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	all, err := mirrorsOf(ctx, s.pool, ch.ID)
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListMirrorsResponse)
	for _, m := range all {
		out.Mirrors = append(out.Mirrors, m.toProto())
	}
	return out, nil
}

// DeleteMirror forgets a registered mirror.
func (s *Service) DeleteMirror(ctx context.Context, req *channelsv1.DeleteMirrorRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "Mirror %s not found", shown(req.GetId())).WithReason("MIRROR_NOT_FOUND")
	id, err := uuid.Parse(req.GetId())
	if err != nil {
		return nil, missing
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var was string
		err := tx.QueryRow(ctx, `DELETE FROM channels.mirrors WHERE channel_id = $1 AND id = $2 RETURNING url`, ch.ID, id).Scan(&was)
		if errors.Is(err, pgx.ErrNoRows) {
			return missing
		}
		if err != nil {
			return err
		}
		return s.record(ctx, tx, authn.FromContext(ctx), "channel.mirror.delete", ch, map[string]any{"url": was})
	})
	return &emptypb.Empty{}, pg.Classify(err)
}

// RegisterMirror adds another server's copy of a channel. The same URL twice changes its endpoints.
func (s *Service) RegisterMirror(ctx context.Context, req *channelsv1.RegisterMirrorRequest) (*channelsv1.RegisteredMirror, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	return s.register(ctx, ch, authn.FromContext(ctx), req)
}

// register is RegisterMirror for a caller whose right has been decided.
func (s *Service) register(ctx context.Context, ch *channelRow, caller authn.Caller, req *channelsv1.RegisterMirrorRequest) (*channelsv1.RegisteredMirror, error) {
	m := &mirrorRow{URL: req.GetUrl(), APIEndpoint: req.GetApiEndpoint(), MetricsEndpoint: req.GetMetricsEndpoint()}
	if err := m.complete(); err != nil {
		return nil, err
	}
	upstream, err := s.probe(ctx, caller, m.APIEndpoint, req.GetRequestOrigin())
	if err != nil {
		return nil, err
	}
	m.Confirmed = s.isOurs(upstream, ch.Name, req.GetRequestOrigin())
	if m.ID, err = uuid.NewV7(); err != nil {
		return nil, err
	}
	m.CreatedAt = s.now().UTC().Truncate(time.Microsecond)
	pulled, err := s.pullsCounts(ctx, ch)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		locked, err := lockChannel(ctx, tx, ch.ID)
		if err != nil {
			return err
		}
		var others int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM channels.mirrors WHERE channel_id = $1 AND url <> $2`, ch.ID, m.URL).Scan(&others); err != nil {
			return err
		}
		if others >= maxMirrors {
			return fault.Field("url", "a channel has at most %d mirrors", maxMirrors)
		}
		if err := tx.QueryRow(ctx, `
			INSERT INTO channels.mirrors AS m (id, channel_id, url, api_endpoint, metrics_endpoint, confirmed, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (channel_id, url) DO UPDATE SET api_endpoint = excluded.api_endpoint, metrics_endpoint = excluded.metrics_endpoint, confirmed = excluded.confirmed
			RETURNING id, created_at`, m.ID, ch.ID, m.URL, m.APIEndpoint, m.MetricsEndpoint, m.Confirmed, m.CreatedAt).Scan(&m.ID, &m.CreatedAt); err != nil {
			return err
		}
		if !pulled {
			if err := s.pullCounts(ctx, tx, locked); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, caller, "channel.mirror.register", locked, map[string]any{"url": m.URL, "confirmed": m.Confirmed})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	return m.toProto(), nil
}

// complete fills in the endpoints that were not given and checks all three URLs.
func (m *mirrorRow) complete() error {
	if strings.Contains(m.URL, "${") {
		return fault.Field("url", "%s holds a variable that the shell did not expand: it stands in single quotes", shown(m.URL))
	}
	if err := checkEndpoint("url", m.URL); err != nil {
		return err
	}
	if m.APIEndpoint == "" {
		m.APIEndpoint = mirrorEndpoint(m.URL, "api/channels")
	}
	if m.MetricsEndpoint == "" {
		m.MetricsEndpoint = mirrorEndpoint(m.URL, "metrics/channels")
	}
	if m.APIEndpoint == "" || m.MetricsEndpoint == "" {
		return fault.Field("url", "api_endpoint and metrics_endpoint do not follow from a URL that does not end in /get/<channel> or /channels/<channel>")
	}
	return errors.Join(checkEndpoint("api_endpoint", m.APIEndpoint), checkEndpoint("metrics_endpoint", m.MetricsEndpoint))
}

func checkEndpoint(field, s string) error {
	u, err := url.Parse(s)
	switch {
	case !isText(s) || (!strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://")):
		return fault.Field(field, "String should match pattern '^(http|https)://.+'")
	case err != nil || u.Host == "" || len(s) > maxURL:
		return fault.Field(field, "must be an http or https URL of at most %d characters", maxURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Path, "/t/"):
		return fault.Field(field, "must hold neither credentials nor a query nor a fragment")
	}
	return nil
}

// mirrorEndpoint swaps the segment before the channel's name, and nothing else: a host may be called get, too. Empty if
// the URL is not one of a channel.
func mirrorEndpoint(s, with string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	segments := strings.Split(strings.TrimRight(u.Path, "/"), "/")
	n := len(segments)
	if n < 3 || segments[n-1] == "" || (segments[n-2] != "get" && segments[n-2] != "channels") {
		return ""
	}
	segments[n-2] = with
	u.Path, u.RawPath = strings.Join(segments, "/"), ""
	return u.String()
}

func originOf(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return ""
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// inside returns the channel that an API endpoint on this server is about; ok is false for endpoints elsewhere.
func (s *Service) inside(endpoint, requestOrigin string) (name string, ok bool) {
	own := originOf(s.cfg.PublicURL)
	if own == "" {
		own = originOf(requestOrigin)
	}
	if own == "" || originOf(endpoint) != own {
		return "", false
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", false
	}
	name, ok = strings.CutPrefix(strings.TrimRight(u.Path, "/"), "/api/channels/")
	if !ok || strings.Contains(name, "/") {
		return "", true // ours, but of no channel
	}
	return name, true
}

func notConnected() error {
	return fault.Field("api_endpoint", "could not connect to remote repository URL").WithReason("MIRROR_UNREACHABLE")
}

func notMirror() error {
	return fault.New(fault.NotFound, "URL is not a mirror server").WithReason("NOT_A_MIRROR")
}

// probe asks a mirror's API what it mirrors.
func (s *Service) probe(ctx context.Context, caller authn.Caller, endpoint, requestOrigin string) (upstream string, err error) {
	if name, ok := s.inside(endpoint, requestOrigin); ok {
		return s.probeInside(ctx, caller, name)
	}
	if s.http == nil {
		return "", notConnected()
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return "", notConnected()
	}
	resp, err := s.http.Do(r)
	if err != nil {
		s.log.InfoContext(ctx, "a mirror could not be asked", "endpoint", endpoint, "error", err)
		return "", notConnected()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, probeSize))
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", notConnected()
	}
	var answer map[string]json.RawMessage
	if json.Unmarshal(data, &answer) != nil || answer["mirror_channel_url"] == nil {
		return "", fault.Field("api_endpoint", "mirror server is not quetz server").WithReason("MIRROR_STRANGE")
	}
	var of *string
	if json.Unmarshal(answer["mirror_channel_url"], &of) != nil || of == nil || *of == "" {
		return "", notMirror()
	}
	return *of, nil
}

// probeInside looks at a channel of this server, as far as the caller may.
func (s *Service) probeInside(ctx context.Context, caller authn.Caller, name string) (string, error) {
	if _, err := names.ParseChannel(name); err != nil {
		return "", notConnected()
	}
	ch, err := channelByName(ctx, s.pool, name)
	if fault.Is(err, fault.NotFound) {
		return "", notConnected()
	}
	if err != nil {
		return "", err
	}
	if err := s.roles.Allow(ctx, caller, authz.ChannelRead, ch.resource()); err != nil {
		if fault.Is(err, fault.Denied) || fault.Is(err, fault.Unauthenticated) {
			return "", notConnected()
		}
		return "", err
	}
	m, err := ch.mirrorSettings()
	if err != nil {
		return "", err
	}
	if m.GetUrl() == "" {
		return "", notMirror()
	}
	return m.GetUrl(), nil
}

// isOurs reports whether an upstream is a channel of this server.
func (s *Service) isOurs(upstream, channel, requestOrigin string) bool {
	name, ok := s.inside(mirrorEndpoint(upstream, "api/channels"), requestOrigin)
	return ok && strings.EqualFold(name, channel)
}
