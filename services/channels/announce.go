package channels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// KindAnnounce registers a mirror channel at its upstream.
const KindAnnounce = "channels.announce"

const (
	announceAttempts = 8
	// keepAnnouncements bounds how long an upstream's key is kept when its job was cancelled, which nobody here is told of.
	keepAnnouncements = 24 * time.Hour
)

func sealPurpose(id uuid.UUID) string { return "mirror-api-key/" + id.String() }

// AnnounceMirror asks to register a mirror at its upstream. What the upstream says is in the job, and changes nothing
// here.
func (s *Service) AnnounceMirror(ctx context.Context, req *channelsv1.AnnounceMirrorRequest) (*channelsv1.AnnounceMirrorResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	m, err := ch.mirrorSettings()
	if err != nil {
		return nil, err
	}
	if m.GetUrl() == "" {
		return nil, mirrorOnly(ch)
	}
	if err := checkEndpoint("base_url", req.GetBaseUrl()); err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	var sealed []byte
	if req.GetApiKey() != "" {
		if s.seal == nil {
			return nil, fault.New(fault.Precondition, "this process has no key to seal credentials with")
		}
		sealed = s.seal.Seal([]byte(req.GetApiKey()), sealPurpose(id))
	}
	caller := authn.FromContext(ctx)
	principal, err := caller.Marshal()
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.AnnounceMirrorResponse)
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			now := s.now().UTC()
			if _, err := tx.Exec(ctx, `DELETE FROM channels.announcements WHERE created_at < $1`, now.Add(-keepAnnouncements)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO channels.announcements (id, channel_id, base_url, sealed_key, created_at) VALUES ($1, $2, $3, $4, $5)`,
				id, ch.ID, strings.TrimRight(req.GetBaseUrl(), "/"), nullBytes(sealed), now); err != nil {
				return err
			}
			r, err := s.jobs.Enqueue(ctx, tx, jobs.EnqueueParams{
				Kind: KindAnnounce, Namespace: ch.Namespace, Resource: resourceName(ch), Coalesce: jobs.None,
				Principal: jobs.Principal{Name: caller.Actor(), Data: principal},
				Args:      &channelsv1.AnnounceJobArgs{ChannelId: ch.ID.String(), AnnouncementId: id.String(), Action: "register_mirror"},
			})
			out.JobId = r.JobID.String()
			return err
		})
	})
	return out, pg.Classify(err)
}

// announcement is what is told to an upstream.
type announcement struct {
	URL             string `json:"url"`
	APIEndpoint     string `json:"api_endpoint"`
	MetricsEndpoint string `json:"metrics_endpoint"`
}

// announced is the result of KindAnnounce.
type announced struct {
	Upstream string `json:"upstream"`
	Status   int    `json:"status"`
}

// announceJob is the worker of KindAnnounce.
func (s *Service) announceJob(ctx context.Context, job *jobs.Job[*channelsv1.AnnounceJobArgs]) (any, error) {
	channel, err := uuid.Parse(job.Args.GetChannelId())
	id, ierr := uuid.Parse(job.Args.GetAnnouncementId())
	if err = errors.Join(err, ierr); err != nil {
		return nil, fault.Field("channel_id", "is no UUID")
	}
	ch, err := channelByID(ctx, s.pool, channel)
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	if err != nil {
		return nil, err
	}
	var base string
	var sealed []byte
	err = s.pool.QueryRow(ctx, `SELECT base_url, sealed_key FROM channels.announcements WHERE id = $1`, id).Scan(&base, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, jobs.Cancel(fault.New(fault.NotFound, "the announcement is no longer there"))
	}
	if err != nil {
		return nil, pg.Classify(err)
	}
	key := ""
	if sealed != nil {
		if s.seal == nil {
			return nil, fault.New(fault.Precondition, "this process has no key to open credentials with")
		}
		plain, err := s.seal.Open(sealed, sealPurpose(id))
		if err != nil {
			return nil, err
		}
		key = string(plain)
	}
	out, err := s.announceTo(ctx, ch, base, key)
	final := err == nil || job.Failures+1 >= announceAttempts || !retried(err)
	if final { // the key is not kept longer than it is needed
		if _, derr := s.pool.Exec(ctx, `DELETE FROM channels.announcements WHERE id = $1`, id); derr != nil && err == nil {
			err = pg.Classify(derr)
		}
	}
	return out, err
}

// retried reports whether package jobs makes another attempt after the error.
func retried(err error) bool {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Precondition, fault.Unimplemented:
		return false
	}
	return true
}

func (s *Service) announceTo(ctx context.Context, ch *channelRow, base, key string) (any, error) {
	m, err := ch.mirrorSettings()
	if err != nil {
		return nil, err
	}
	api := mirrorEndpoint(m.GetUrl(), "api/channels")
	if api == "" {
		return nil, fault.New(fault.Precondition, "the upstream %s is not of a server that takes registrations", m.GetUrl())
	}
	what := announcement{URL: base + "/get/" + ch.Name, APIEndpoint: base + "/api/channels/" + ch.Name, MetricsEndpoint: base + "/metrics/channels/" + ch.Name}
	if name, ok := s.inside(api, base); ok {
		return s.announceInside(ctx, name, what, base, key)
	}
	if s.http == nil {
		return nil, fault.New(fault.Precondition, "this process makes no requests to other servers")
	}
	body, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, api+"/mirrors", bytes.NewReader(body))
	if err != nil {
		return nil, fault.New(fault.Precondition, "the upstream's API has no usable address")
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("X-Api-Key", key)
	}
	resp, err := s.http.Do(r) // follows no redirects: the key is for this origin
	if err != nil {
		return nil, fault.New(fault.Upstream, "the upstream cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // for the message only
	switch {
	case resp.StatusCode/100 == 2:
		return announced{Upstream: api, Status: resp.StatusCode}, nil
	case resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, fault.New(fault.Upstream, "the upstream answers %d: %s", resp.StatusCode, shown(string(text)))
	}
	return nil, fault.New(fault.Precondition, "the upstream refuses the registration with %d: %s", resp.StatusCode, shown(string(text)))
}

// announceInside registers a mirror at a channel of this server, with the rights of whoever the key belongs to.
func (s *Service) announceInside(ctx context.Context, name string, what announcement, base, key string) (any, error) {
	primary, err := channelByName(ctx, s.pool, name)
	if err != nil {
		return nil, err
	}
	var caller authn.Caller
	if key != "" {
		resp, err := s.identity.Authenticate(ctx, &identityv1.AuthenticateRequest{ApiKey: key})
		if err != nil {
			return nil, fmt.Errorf("the key for the upstream: %w", err)
		}
		caller = authn.FromProto(resp.GetPrincipal())
	}
	if err := s.roles.Allow(ctx, caller, authz.ChannelUpdate, primary.resource()); err != nil {
		return nil, err
	}
	if primary.kind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return nil, hostedOnly(primary)
	}
	_, err = s.register(ctx, primary, caller, &channelsv1.RegisterMirrorRequest{
		Channel: primary.Name, Url: what.URL, ApiEndpoint: what.APIEndpoint, MetricsEndpoint: what.MetricsEndpoint, RequestOrigin: base,
	})
	if err != nil {
		return nil, err
	}
	return announced{Upstream: "channel/" + primary.Name, Status: http.StatusCreated}, nil
}
