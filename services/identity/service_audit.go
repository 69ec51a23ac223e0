package identity

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// auditEvent is a row of the audit log.
type auditEvent struct {
	ID        int64
	Time      time.Time
	Actor     string
	KeyID     string
	Action    string
	Resource  string
	Details   []byte
	RequestID string
}

// ListAuditEvents returns a page of the audit log, newest first, also what has not been moved into it yet.
func (s *Service) ListAuditEvents(ctx context.Context, req *identityv1.ListAuditEventsRequest) (*identityv1.ListAuditEventsResponse, error) {
	var before int64
	if req.GetPageToken() != "" {
		text, err := decodeToken(req.GetPageToken())
		if err != nil {
			return nil, err
		}
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before <= 0 {
			return nil, fault.Field("page_token", "page_token is not one that was given out")
		}
	}
	size := pageSize(req.GetPageSize())
	events, err := store{s.deps.Pool}.auditEvents(ctx, req.GetActor(), req.GetResource(), before, size+1)
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListAuditEventsResponse{}
	if len(events) > int(size) {
		events = events[:size]
		res.NextPageToken = encodeToken(strconv.FormatInt(events[size-1].ID, 10))
	}
	for _, e := range events {
		p, err := e.toProto()
		if err != nil {
			return nil, err
		}
		res.Events = append(res.Events, p)
	}
	return res, nil
}

func (e auditEvent) toProto() (*identityv1.AuditEvent, error) {
	details := &structpb.Struct{}
	if err := protojson.Unmarshal(e.Details, details); err != nil {
		return nil, fmt.Errorf("audit event %d: %w", e.ID, err)
	}
	return &identityv1.AuditEvent{
		Id: e.ID, Time: timestamppb.New(e.Time), Actor: e.Actor, KeyId: e.KeyID, Action: e.Action, Resource: e.Resource,
		Details: details, RequestId: e.RequestID,
	}, nil
}

// auditEvents reads both tables in one statement: its snapshot sees each event in exactly one of them. Each side is
// limited by itself, so that its index is used.
func (st store) auditEvents(ctx context.Context, actor, resource string, before int64, limit int32) ([]auditEvent, error) {
	const half = `(SELECT id, time, actor, key_id, action, resource, details, request_id FROM %s
		WHERE ($1 = '' OR actor = $1) AND ($2 = '' OR resource = $2) AND ($3 = 0 OR id < $3) ORDER BY id DESC LIMIT $4)`
	rows, err := st.db.Query(ctx, fmt.Sprintf(half, "identity.audit")+" UNION ALL "+fmt.Sprintf(half, "outbox.audit")+" ORDER BY id DESC LIMIT $4",
		actor, resource, before, limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[auditEvent])
	return events, pg.Classify(err)
}

// drainBatch bounds one move, and with it the length of its transaction.
const drainBatch = 1000

// DrainAudit moves the events that all services wrote into the log. Replicas that do so at once share the work.
func (s *Service) DrainAudit(ctx context.Context) error {
	for {
		n, err := store{s.deps.Pool}.drainAudit(ctx)
		if err != nil {
			return fmt.Errorf("move audit events: %w", err)
		}
		if n < drainBatch {
			return nil
		}
	}
}

func (st store) drainAudit(ctx context.Context) (int64, error) {
	tag, err := st.db.Exec(ctx, `WITH moved AS (
			DELETE FROM outbox.audit WHERE id IN (SELECT id FROM outbox.audit ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
			RETURNING id, time, actor, key_id, action, resource, details, request_id)
		INSERT INTO identity.audit (id, time, actor, key_id, action, resource, details, request_id) SELECT * FROM moved`, drainBatch)
	return tag.RowsAffected(), pg.Classify(err)
}
