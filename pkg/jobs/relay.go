package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// publishTimeout bounds one publish: a server that lost its files may not answer.
const publishTimeout = 3 * time.Second

// release is one outbox row on its way to the stream.
type release struct {
	ID        int64
	Job       uuid.UUID
	Priority  int16
	Namespace string
	// Traceparent and Tracestate are those of the request for the job.
	Traceparent, Tracestate string
}

// messageID is new for each dispatch: the stream swallows one that it knows.
func (r release) messageID() string {
	if !guard.FreshID {
		return r.Job.String()
	}
	return r.Job.String() + "/" + strconv.FormatInt(r.ID, 10)
}

// relayOnce releases what the windows of all kinds allow. Kinds do not wait for each other.
func (d *Dispatcher) relayOnce(ctx context.Context) (released int, err error) {
	rows, err := d.cfg.Pool.Query(ctx, `
		SELECT kind, max_ack_pending, ack_wait_ms FROM jobs.kinds k
		WHERE NOT paused AND EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.kind = k.kind AND o.released_at IS NULL)
			AND EXISTS (SELECT 1 FROM jobs.slots s WHERE s.kind = k.kind AND s.expires_at > now())`)
	if err != nil {
		return 0, fmt.Errorf("relay: %w", pg.Classify(err))
	}
	kinds, err := pgx.CollectRows(rows, d.scanKind)
	if err != nil {
		return 0, fmt.Errorf("relay: %w", pg.Classify(err))
	}
	var g errgroup.Group
	g.SetLimit(4)
	counts := make([]int, len(kinds))
	for i, k := range kinds {
		g.Go(func() error {
			var err error
			counts[i], err = d.relayKind(ctx, k)
			if err != nil {
				return fmt.Errorf("relay %s: %w", k.kind, err)
			}
			return nil
		})
	}
	err = g.Wait()
	for _, n := range counts {
		released += n
	}
	return released, err
}

func (d *Dispatcher) scanKind(row pgx.CollectableRow) (kindStream, error) {
	k := kindStream{replicas: d.cfg.Replicas}
	var ms int64
	err := row.Scan(&k.kind, &k.maxAckPending, &ms)
	k.ackWait = time.Duration(ms) * time.Millisecond
	return k, err
}

func (d *Dispatcher) relayKind(ctx context.Context, k kindStream) (int, error) {
	batch, err := d.takeWindow(ctx, k.kind)
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	if err := d.publish(ctx, k, batch); guard.Outbox && err != nil {
		// Rows go back as they are: if their messages were stored after all, the ids are known there.
		return 0, errors.Join(err, d.takeBack(ctx, batch))
	}
	// First the workers, then the books.
	d.events.nudge(subjectWake + token(k.kind))
	ids := make([]int64, len(batch))
	for i, r := range batch {
		ids[i] = r.ID
	}
	var books pgx.Batch
	books.Queue(`BEGIN`)
	books.Queue(lazily)
	books.Queue(`DELETE FROM jobs.outbox WHERE id = ANY($1)`, ids)
	books.Queue(`COMMIT`)
	if err := d.cfg.Pool.SendBatch(ctx, &books).Close(); err != nil {
		return len(batch), pg.Classify(err) // the sweeper hands them out again; the claim absorbs that
	}
	return len(batch), nil
}

// lazily lets a transaction of the relay commit without waiting for the disk. What it writes only spares work: if a crash of
// the database takes it back, rows are published again under the same ids, or their duplicates find the jobs claimed.
const lazily = `SET LOCAL synchronous_commit = off`

// takeWindow marks the rows that may become messages now: as many as bring the kind to twice its live slots, the urgent
// ones first, and within a priority in turn over the namespaces. The kind's row is locked meanwhile, so that several
// relays share the kinds among themselves; the mark is committed before anything is published, so that no lock is held
// while the network decides.
func (d *Dispatcher) takeWindow(ctx context.Context, kind string) (batch []release, err error) {
	err = pgx.BeginFunc(ctx, d.cfg.Pool, func(tx pgx.Tx) error {
		var (
			cursors        []string
			slots, running int
			released       [3]int
			waiting        [3]bool
		)
		if _, err := tx.Exec(ctx, lazily); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT cursors FROM jobs.kinds WHERE kind = $1 AND NOT paused FOR UPDATE SKIP LOCKED`, kind).Scan(&cursors)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // another relay is at it
		}
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			SELECT (SELECT coalesce(sum(slots), 0) FROM jobs.slots WHERE kind = $1 AND expires_at > now()),
				(SELECT count(*) FROM jobs.leases WHERE kind = $1),
				count(*) FILTER (WHERE priority = 0), count(*) FILTER (WHERE priority = 1), count(*) FILTER (WHERE priority = 2),
				EXISTS (SELECT 1 FROM jobs.outbox WHERE kind = $1 AND priority = 0 AND released_at IS NULL),
				EXISTS (SELECT 1 FROM jobs.outbox WHERE kind = $1 AND priority = 1 AND released_at IS NULL),
				EXISTS (SELECT 1 FROM jobs.outbox WHERE kind = $1 AND priority = 2 AND released_at IS NULL)
			FROM jobs.jobs WHERE kind = $1 AND state = 'queued' AND dispatched_at IS NOT NULL`, kind).
			Scan(&slots, &running, &released[0], &released[1], &released[2], &waiting[0], &waiting[1], &waiting[2])
		if err != nil {
			return err
		}
		for rank := range released {
			n := room(slots, running, released, rank)
			if n <= 0 || !waiting[rank] || released[rank] > 0 && n < slots/2 { // in handfuls: each look costs as much as a job
				continue
			}
			picked, err := pick(ctx, tx, kind, rank, cursors[rank], n)
			if err != nil {
				return err
			}
			if len(picked) == 0 {
				continue
			}
			released[rank] += len(picked)
			cursors[rank] = picked[len(picked)-1].Namespace
			batch = append(batch, picked...)
		}
		if len(batch) == 0 {
			return nil
		}
		ids, jobs := make([]int64, len(batch)), make([]uuid.UUID, len(batch))
		for i, r := range batch {
			ids[i], jobs[i] = r.ID, r.Job
		}
		_, err = tx.Exec(ctx, `
			WITH o AS (UPDATE jobs.outbox SET released_at = now() WHERE id = ANY($1)),
				j AS (UPDATE jobs.jobs SET dispatched_at = now(), parked_at = NULL WHERE id = ANY($2))
			UPDATE jobs.kinds SET cursors = $4 WHERE kind = $3`, ids, jobs, kind, cursors)
		return err
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	return batch, nil
}

// room is how many jobs of a priority may be released. What is less urgent does not stand in the way of what is more,
// and however much of the urgent there is, one low job is always on its way.
func room(slots, running int, released [3]int, rank int) int {
	occupied := running
	for _, n := range released[:rank+1] {
		occupied += n
	}
	n := 2*slots - occupied
	if rank == 2 && released[2] == 0 && slots > 0 {
		n = max(n, 1)
	}
	return n
}

// pickSQL takes the oldest rows of each namespace in turn, beginning behind the namespace served last. The namespaces are
// found by stepping through the index, so that the length of a queue does not matter. Jobs that somebody joins at this
// moment are locked, and passed over.
const pickSQL = `
WITH RECURSIVE ns AS (
	(SELECT namespace FROM jobs.outbox WHERE kind = $1 AND priority = $2 AND released_at IS NULL ORDER BY namespace LIMIT 1)
	UNION ALL
	SELECT (SELECT o.namespace FROM jobs.outbox o
		WHERE o.kind = $1 AND o.priority = $2 AND o.released_at IS NULL AND o.namespace > ns.namespace ORDER BY o.namespace LIMIT 1)
	FROM ns WHERE ns.namespace IS NOT NULL
)
SELECT p.id, p.job, p.priority, p.namespace, p.traceparent, p.tracestate
FROM ns CROSS JOIN LATERAL (
	SELECT l.*, row_number() OVER (ORDER BY l.id) AS turn FROM (
		SELECT o.id, o.job, o.priority, o.namespace, j.traceparent, j.tracestate FROM jobs.outbox o JOIN jobs.jobs j ON j.id = o.job
		WHERE o.kind = $1 AND o.priority = $2 AND o.namespace = ns.namespace AND o.released_at IS NULL AND j.state = 'queued'
		ORDER BY o.id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED
	) l
) p
WHERE ns.namespace IS NOT NULL
ORDER BY p.turn, p.namespace <= $3, p.namespace
LIMIT $4`

func pick(ctx context.Context, tx pgx.Tx, kind string, rank int, cursor string, n int) ([]release, error) {
	rows, err := tx.Query(ctx, pickSQL, kind, int16(rank), cursor, n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[release])
}

func (d *Dispatcher) publish(ctx context.Context, k kindStream, batch []release) error {
	err := d.publishAll(ctx, k, batch)
	if !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	// Nobody answers for the subject: the stream is gone, and with it everything that was in it.
	made, err := k.ensure(ctx, d.cfg.Bus.JetStream())
	if err != nil {
		return err
	}
	if made {
		d.log.WarnContext(ctx, "jobs: stream was missing and has been made anew", "stream", k.name())
		if _, err := redispatch(ctx, d.cfg.Pool, k.kind, 0); err != nil {
			return err
		}
	}
	return d.publishAll(ctx, k, batch)
}

// publishAll publishes a batch in its order, which the stream keeps, and waits for all acknowledgements together. It does
// what the client's asynchronous publisher does, but forgets the messages it gave up on.
func (d *Dispatcher) publishAll(ctx context.Context, k kindStream, batch []release) (err error) {
	nc := d.cfg.Bus.Conn()
	if !nc.IsConnected() {
		return bus.Classify(nats.ErrDisconnected)
	}
	inbox := nc.NewInbox()
	acks, err := nc.SubscribeSync(inbox)
	if err != nil {
		return bus.Classify(err)
	}
	defer func() { _ = acks.Unsubscribe() }()
	var spans []trace.Span // of the jobs whose trace is kept
	defer func() {
		for _, span := range spans {
			if err != nil {
				span.SetStatus(codes.Error, fault.KindOf(err).String())
			}
			span.End()
		}
	}()
	for _, r := range batch {
		msg := nats.NewMsg(subject(k.kind, priorityOf(r.Priority)))
		msg.Data, msg.Reply = []byte(r.Job.String()), inbox
		msg.Header.Set(headerKind, k.kind)
		// A row's id alone could be known to a stream that has outlived the database it came from.
		msg.Header.Set(jetstream.MsgIDHeader, r.messageID())
		if span := d.publishSpan(ctx, k.kind, r, msg); span != nil {
			spans = append(spans, span)
		}
		if err := nc.PublishMsg(msg); err != nil {
			return bus.Classify(err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for range batch {
		msg, err := acks.NextMsgWithContext(ctx)
		if err != nil {
			return bus.Classify(fmt.Errorf("publish: %w", err))
		}
		if err := checkAck(msg); err != nil {
			return err
		}
	}
	return nil
}

func checkAck(msg *nats.Msg) error {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		return jetstream.ErrNoStreamResponse
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return fmt.Errorf("publish: acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return bus.Classify(fmt.Errorf("publish: %w", ack.Error))
	}
	return nil
}

// takeBack undoes takeWindow for rows that could not be published.
func (d *Dispatcher) takeBack(ctx context.Context, batch []release) error {
	ids, jobs := make([]int64, len(batch)), make([]uuid.UUID, len(batch))
	for i, r := range batch {
		ids[i], jobs[i] = r.ID, r.Job
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbPatience) // also when the dispatcher stops
	defer cancel()
	_, err := d.cfg.Pool.Exec(ctx, `
		WITH o AS (UPDATE jobs.outbox SET released_at = NULL WHERE id = ANY($1) AND released_at IS NOT NULL RETURNING job)
		UPDATE jobs.jobs SET dispatched_at = NULL WHERE id = ANY($2) AND state = 'queued'`, ids, jobs)
	return pg.Classify(err)
}

// redispatch gives a new outbox row to every queued job of a kind whose message was published longer ago than age and
// has not led to a claim. If the message is not lost after all, one of the two finds the job claimed.
func redispatch(ctx context.Context, db pg.DB, kind string, age time.Duration) (int64, error) {
	if !guard.Redispatch {
		return 0, nil
	}
	tag, err := db.Exec(ctx, `
		WITH lost AS (
			SELECT id FROM jobs.jobs
			WHERE kind = $1 AND state = 'queued' AND dispatched_at IS NOT NULL AND dispatched_at <= now() - $2::bigint * interval '1 microsecond'
				AND NOT EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.job = jobs.id)
			FOR NO KEY UPDATE SKIP LOCKED
		), j AS (
			UPDATE jobs.jobs SET dispatched_at = NULL WHERE id IN (SELECT id FROM lost) RETURNING id, kind, priority, namespace
		), n AS (
			SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM j LIMIT 1
		)
		INSERT INTO jobs.outbox (job, kind, priority, namespace)
		SELECT id, kind, priority, namespace FROM j WHERE (SELECT count(*) FROM n) >= 0`, kind, age.Microseconds())
	if err != nil {
		return 0, fmt.Errorf("dispatch %s again: %w", kind, pg.Classify(err))
	}
	return tag.RowsAffected(), nil
}
