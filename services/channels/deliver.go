package channels

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// KindWebhook delivers a message to a webhook.
const KindWebhook = "channels.webhook"

const (
	// webhookAttempts with their pauses take about three hours: a receiver may be away for a while.
	webhookAttempts = 10
	webhookTimeout  = 15 * time.Second
	// maxTold bounds the names in a message, and maxWhy the text of an error.
	maxTold = 20
	maxWhy  = 1000
)

// The header fields of a delivery. The signature is of "<seconds>.<body>", so that a message that was overheard cannot be
// sent again much later.
const (
	headerEvent     = "Entrepot-Event"
	headerDelivery  = "Entrepot-Delivery"
	headerSignature = "Entrepot-Signature"
)

// message is the body of a delivery.
type message struct {
	ID      string         `json:"id"`
	Event   string         `json:"event"`
	Time    time.Time      `json:"time"`
	Channel messageChannel `json:"channel"`
	// Revision and what follows are of channel.published.
	Revision int64    `json:"revision,omitempty"`
	Cause    string   `json:"cause,omitempty"`
	Author   string   `json:"author,omitempty"`
	Added    int64    `json:"added,omitempty"`
	Removed  int64    `json:"removed,omitempty"`
	Subdirs  []string `json:"subdirs,omitempty"`
	// Job and what follows are of sync.failed.
	Job    string   `json:"job,omitempty"`
	Error  string   `json:"error,omitempty"`
	Failed int64    `json:"failed,omitempty"`
	Paths  []string `json:"paths,omitempty"`
}

type messageChannel struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// tellPublished tells the webhooks that the head has moved, in the transaction that moves it.
func (s *Service) tellPublished(ctx context.Context, tx pgx.Tx, p publication, out *published) error {
	return s.tell(ctx, tx, out.channel, message{
		Event: EventPublished, Revision: out.channel.Head, Cause: p.cause, Author: p.author, Added: out.Put, Removed: out.Removed,
		Subdirs: out.subdirs[:min(len(out.subdirs), maxTold)],
	})
}

// ReportSyncFailure tells a channel's webhooks that a sync failed.
func (s *Service) ReportSyncFailure(ctx context.Context, req *channelsv1.ReportSyncFailureRequest) (*emptypb.Empty, error) {
	id, err := uuid.Parse(req.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is no UUID")
	}
	m := message{Event: EventSyncFailed, Job: req.GetJobId(), Error: req.GetError(), Failed: req.GetFailed(), Paths: req.GetPaths()}
	m.Error, m.Paths = boundedText(m.Error[:min(len(m.Error), maxWhy)]), m.Paths[:min(len(m.Paths), maxTold)]
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			ch, err := channelByID(ctx, tx, id)
			if err != nil {
				return err
			}
			return s.tell(ctx, tx, ch, m)
		})
	})
	return &emptypb.Empty{}, err
}

// tell writes a message for each webhook that wants to hear of the event, and the job that delivers it.
func (s *Service) tell(ctx context.Context, tx pgx.Tx, ch *channelRow, m message) error {
	rows, err := tx.Query(ctx, `SELECT id FROM channels.webhooks WHERE channel_id = $1 AND NOT disabled AND $2 = ANY (events) ORDER BY id`, ch.ID, m.Event)
	if err != nil {
		return pg.Classify(err)
	}
	hooks, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(hooks) == 0 {
		return pg.Classify(err)
	}
	m.Time = s.now().UTC().Truncate(time.Millisecond)
	m.Channel = messageChannel{ch.ID.String(), ch.Name, ch.Namespace}
	for _, hook := range hooks {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		m.ID = id.String()
		body, err := json.Marshal(m)
		if err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue(`INSERT INTO channels.deliveries (id, webhook_id, channel_id, event, body, state, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			id, hook, ch.ID, m.Event, body, int16(channelsv1.Delivery_STATE_PENDING), s.now().UTC())
		// What still waits is kept in any case.
		b.Queue(`DELETE FROM channels.deliveries WHERE webhook_id = $1 AND state <> $3 AND id NOT IN (
			SELECT id FROM channels.deliveries WHERE webhook_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2)`, hook, keepDeliveries, int16(channelsv1.Delivery_STATE_PENDING))
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return pg.Classify(err)
		}
		if _, err := s.jobs.Enqueue(ctx, tx, jobs.EnqueueParams{
			Kind: KindWebhook, Namespace: ch.Namespace, Resource: resourceName(ch), Coalesce: jobs.None,
			Principal: jobs.Principal{Name: authn.Service("channels").Name}, Args: &channelsv1.WebhookJobArgs{DeliveryId: id.String()},
		}); err != nil {
			return fmt.Errorf("enqueue %s: %w", KindWebhook, err)
		}
	}
	return nil
}

// delivered is the result of KindWebhook.
type delivered struct {
	Status int `json:"status"`
}

// webhookJob is the worker of KindWebhook.
func (s *Service) webhookJob(ctx context.Context, job *jobs.Job[*channelsv1.WebhookJobArgs]) (any, error) {
	id, err := uuid.Parse(job.Args.GetDeliveryId())
	if err != nil {
		return nil, fault.Field("delivery_id", "is no UUID")
	}
	d, w, err := s.delivery(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, jobs.Cancel(fault.New(fault.NotFound, "the webhook was deleted"))
	}
	if err != nil {
		return nil, pg.Classify(err)
	}
	if d.State == int16(channelsv1.Delivery_STATE_DELIVERED) { // by an attempt whose end was not noted
		return delivered{int(d.Status)}, nil
	}
	status, failure := s.post(ctx, d, w)
	if failure != nil && ctx.Err() != nil {
		return nil, failure // we stop; it was no attempt of the receiver's making
	}
	state, why := channelsv1.Delivery_STATE_DELIVERED, ""
	if failure != nil {
		state, why = channelsv1.Delivery_STATE_PENDING, boundedText(failure.Error())
		if job.Failures+1 >= webhookAttempts || !retried(failure) {
			state = channelsv1.Delivery_STATE_FAILED
		}
	}
	_, err = s.pool.Exec(ctx, `UPDATE channels.deliveries SET state = $2, attempts = attempts + 1, status = $3, error = $4, tried_at = $5 WHERE id = $1`,
		id, int16(state), status, strings.ToValidUTF8(why[:min(len(why), maxWhy)], ""), s.now().UTC())
	if err := errors.Join(failure, pg.Classify(err)); err != nil {
		return nil, err
	}
	return delivered{status}, nil
}

// delivery reads a message and its webhook; pgx.ErrNoRows if either is gone.
func (s *Service) delivery(ctx context.Context, id uuid.UUID) (*deliveryRow, *webhookRow, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+deliveryColumns+` FROM channels.deliveries WHERE id = $1`, id)
	if err != nil {
		return nil, nil, err
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[deliveryRow])
	if err != nil {
		return nil, nil, err
	}
	if rows, err = s.pool.Query(ctx, `SELECT `+webhookColumns+` FROM channels.webhooks WHERE id = $1`, d.WebhookID); err != nil {
		return nil, nil, err
	}
	w, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[webhookRow])
	return d, w, err
}

// post sends a message once.
func (s *Service) post(ctx context.Context, d *deliveryRow, w *webhookRow) (status int, err error) {
	if s.http == nil || s.seal == nil {
		return 0, fault.New(fault.Precondition, "this process makes no requests to other servers, or has no key to open secrets with")
	}
	secret, err := s.seal.Open(w.Secret, webhookPurpose(w.ID))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(d.Body))
	if err != nil {
		return 0, fault.New(fault.Precondition, "the webhook has no usable address")
	}
	at := s.now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(headerEvent, d.Event)
	r.Header.Set(headerDelivery, d.ID.String())
	r.Header.Set(headerSignature, signature(secret, at, d.Body))
	resp, err := s.http.Do(r) // follows no redirects: the message is for whoever was named
	if err != nil {
		return 0, fault.New(fault.Upstream, "the receiver cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the connection to be used again
	switch {
	case resp.StatusCode/100 == 2:
		return resp.StatusCode, nil
	case resp.StatusCode == http.StatusGone:
		return resp.StatusCode, fault.New(fault.Precondition, "the receiver answers %d, and wants no more", resp.StatusCode)
	}
	return resp.StatusCode, fault.New(fault.Upstream, "the receiver answers %d", resp.StatusCode)
}

// signature is t=<seconds>,v1=<hex>: HMAC-SHA256 of "<seconds>.<body>".
func signature(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
