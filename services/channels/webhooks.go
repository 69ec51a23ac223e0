package channels

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Webhooks are servers that are told of what happens to a channel. A message is a row that is written in the transaction of
// what it tells of, so none is lost and none tells of what did not happen; a job delivers it (deliver.go).

// The events.
const (
	// EventPublished: the channel's head has moved.
	EventPublished = "channel.published"
	// EventSyncFailed: a sync was given up, or ended without some files.
	EventSyncFailed = "sync.failed"
)

var allEvents = []string{EventPublished, EventSyncFailed}

const (
	maxWebhooks = 20
	// minSecret is that of a secret that somebody chose, in characters; what is made here has 26 of 32 letters, 130 bits.
	minSecret, maxSecret = 16, 200
	// keepDeliveries is how many messages to a webhook are remembered.
	keepDeliveries = 50
)

// webhookRow is a row of channels.webhooks.
type webhookRow struct {
	ID        uuid.UUID
	ChannelID uuid.UUID
	URL       string `db:"url"`
	Events    []string
	Disabled  bool
	Secret    []byte
	CreatedAt time.Time
}

const webhookColumns = `id, channel_id, url, events, disabled, secret, created_at`

func (w *webhookRow) toProto() *channelsv1.Webhook {
	return &channelsv1.Webhook{Id: w.ID.String(), Url: w.URL, Events: w.Events, Disabled: w.Disabled, CreateTime: timestamppb.New(w.CreatedAt)}
}

func webhookPurpose(id uuid.UUID) string { return "webhook-secret/" + id.String() }

// set checks settings and takes them over.
func (w *webhookRow) set(rawURL string, events []string) error {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || !isText(rawURL) || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || len(rawURL) > maxURL:
		return fault.Field("url", "must be an http or https URL of at most %d characters", maxURL)
	case u.User != nil || u.Fragment != "":
		return fault.Field("url", "must hold neither credentials nor a fragment: deliveries are signed")
	}
	if err := fetch.CheckURL(rawURL); err != nil {
		return fault.Field("url", "%w", err)
	}
	for _, e := range events {
		if !slices.Contains(allEvents, e) {
			return fault.Field("events", "there is no event %s; there are %s", shown(e), strings.Join(allEvents, ", "))
		}
	}
	if len(events) == 0 {
		events = allEvents
	}
	w.URL, w.Events = rawURL, slices.Compact(slices.Sorted(slices.Values(events)))
	return nil
}

// sealSecret takes a secret over.
func (s *Service) sealSecret(w *webhookRow, secret string) error {
	if n := len(secret); n < minSecret || n > maxSecret || !isText(secret) {
		return fault.Field("secret", "must have %d to %d characters", minSecret, maxSecret)
	}
	if s.seal == nil {
		return fault.New(fault.Precondition, "this process has no key to seal secrets with")
	}
	w.Secret = s.seal.Seal([]byte(secret), webhookPurpose(w.ID))
	return nil
}

// CreateWebhook has a server told of what happens to a channel.
func (s *Service) CreateWebhook(ctx context.Context, req *channelsv1.CreateWebhookRequest) (*channelsv1.CreateWebhookResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	w := &webhookRow{ChannelID: ch.ID, CreatedAt: s.now().UTC().Truncate(time.Microsecond)}
	if w.ID, err = uuid.NewV7(); err != nil {
		return nil, err
	}
	if err := w.set(req.GetUrl(), req.GetEvents()); err != nil {
		return nil, err
	}
	out := &channelsv1.CreateWebhookResponse{Secret: req.GetSecret()}
	if out.Secret == "" {
		out.Secret = rand.Text()
	}
	if err := s.sealSecret(w, out.Secret); err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		locked, err := lockChannel(ctx, tx, ch.ID)
		if err != nil {
			return err
		}
		var others int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM channels.webhooks WHERE channel_id = $1`, ch.ID).Scan(&others); err != nil {
			return err
		}
		if others >= maxWebhooks {
			return fault.Field("url", "a channel has at most %d webhooks", maxWebhooks)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO channels.webhooks (`+webhookColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			w.ID, w.ChannelID, w.URL, w.Events, w.Disabled, w.Secret, w.CreatedAt); err != nil {
			return err
		}
		return s.record(ctx, tx, authn.FromContext(ctx), "channel.webhook.create", locked, map[string]any{"url": shownURL(w.URL), "events": w.Events})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	out.Webhook = w.toProto()
	return out, nil
}

// shownURL is a URL without its query, which may hold a token of the receiver's.
func shownURL(s string) string {
	base, _, _ := strings.Cut(s, "?")
	return base
}

// ListWebhooks returns a channel's webhooks.
func (s *Service) ListWebhooks(ctx context.Context, req *channelsv1.ListWebhooksRequest) (*channelsv1.ListWebhooksResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+webhookColumns+` FROM channels.webhooks WHERE channel_id = $1 ORDER BY created_at, id`, ch.ID)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[webhookRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := &channelsv1.ListWebhooksResponse{}
	for _, w := range all {
		out.Webhooks = append(out.Webhooks, w.toProto())
	}
	return out, nil
}

// webhookOf returns a webhook of a channel.
func webhookOf(ctx context.Context, db pg.DB, ch *channelRow, id string) (*webhookRow, error) {
	missing := fault.New(fault.NotFound, "Webhook %s not found", shown(id)).WithReason("WEBHOOK_NOT_FOUND")
	u, err := uuid.Parse(id)
	if err != nil {
		return nil, missing
	}
	rows, err := db.Query(ctx, `SELECT `+webhookColumns+` FROM channels.webhooks WHERE channel_id = $1 AND id = $2`, ch.ID, u)
	if err != nil {
		return nil, pg.Classify(err)
	}
	w, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[webhookRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, missing
	}
	return w, pg.Classify(err)
}

// UpdateWebhook replaces a webhook's settings.
func (s *Service) UpdateWebhook(ctx context.Context, req *channelsv1.UpdateWebhookRequest) (*channelsv1.Webhook, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	w, err := webhookOf(ctx, s.pool, ch, req.GetId())
	if err != nil {
		return nil, err
	}
	if err := w.set(req.GetUrl(), req.GetEvents()); err != nil {
		return nil, err
	}
	w.Disabled = req.GetDisabled()
	if req.GetSecret() != "" {
		if err := s.sealSecret(w, req.GetSecret()); err != nil {
			return nil, err
		}
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE channels.webhooks SET url = $2, events = $3, disabled = $4, secret = $5 WHERE id = $1`, w.ID, w.URL, w.Events, w.Disabled, w.Secret)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return fault.New(fault.NotFound, "Webhook %s not found", w.ID).WithReason("WEBHOOK_NOT_FOUND")
		}
		return s.record(ctx, tx, authn.FromContext(ctx), "channel.webhook.update", ch, map[string]any{
			"url": shownURL(w.URL), "events": w.Events, "disabled": w.Disabled, "secret": req.GetSecret() != "",
		})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	return w.toProto(), nil
}

// DeleteWebhook ends a webhook, with what waits for it.
func (s *Service) DeleteWebhook(ctx context.Context, req *channelsv1.DeleteWebhookRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	w, err := webhookOf(ctx, s.pool, ch, req.GetId())
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM channels.deliveries WHERE webhook_id = $1`, w.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM channels.webhooks WHERE id = $1`, w.ID); err != nil {
			return err
		}
		return s.record(ctx, tx, authn.FromContext(ctx), "channel.webhook.delete", ch, map[string]any{"url": shownURL(w.URL)})
	})
	return &emptypb.Empty{}, pg.Classify(err)
}

// deliveryRow is a row of channels.deliveries.
type deliveryRow struct {
	ID        uuid.UUID
	WebhookID uuid.UUID
	Event     string
	Body      []byte
	State     int16
	Attempts  int32
	Status    int32
	Error     string
	CreatedAt time.Time
	TriedAt   *time.Time
}

const deliveryColumns = `id, webhook_id, event, body, state, attempts, status, error, created_at, tried_at`

// ListDeliveries says what became of the last messages to a webhook.
func (s *Service) ListDeliveries(ctx context.Context, req *channelsv1.ListDeliveriesRequest) (*channelsv1.ListDeliveriesResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	w, err := webhookOf(ctx, s.pool, ch, req.GetId())
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+deliveryColumns+` FROM channels.deliveries WHERE webhook_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2`, w.ID, keepDeliveries)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[deliveryRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := &channelsv1.ListDeliveriesResponse{}
	for _, d := range all {
		p := &channelsv1.Delivery{
			Id: d.ID.String(), Event: d.Event, CreateTime: timestamppb.New(d.CreatedAt), State: channelsv1.Delivery_State(d.State),
			Attempts: d.Attempts, Status: d.Status, Error: d.Error,
		}
		if d.TriedAt != nil {
			p.AttemptTime = timestamppb.New(*d.TriedAt)
		}
		out.Deliveries = append(out.Deliveries, p)
	}
	return out, nil
}
