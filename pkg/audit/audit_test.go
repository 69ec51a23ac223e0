package audit_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

func TestEvents(t *testing.T) {
	pool := pgtest.New(t, audit.Schema)
	ctx := telemetry.WithRequestID(authn.NewContext(t.Context(), authn.Caller{UserID: "u", Name: "alice", KeyID: "k"}), "r1")
	rollback := errors.New("no")
	for _, end := range []error{nil, rollback} {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if err := audit.Record(ctx, tx, audit.Event{Action: "channel.create", Resource: "channel/main", Details: map[string]any{"private": true}}); err != nil {
				return err
			}
			return end
		})
		if !errors.Is(err, end) {
			t.Fatal(err)
		}
	}
	if err := audit.Record(authn.NewContext(t.Context(), authn.Service("sync")), pool, audit.Event{Action: "a", Resource: "b"}); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(ctx, `SELECT actor || '|' || key_id || '|' || action || '|' || resource || '|' || details::text || '|' || request_id FROM outbox.audit ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`alice|k|channel.create|channel/main|{"private": true}|r1`, `service:sync||a|b|{}|`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an event lives and dies with its change: %s", diff)
	}
	if err := audit.Record(ctx, pool, audit.Event{Action: "x", Details: map[string]any{"f": func() {}}}); err == nil {
		t.Error("what is no JSON should be an error")
	}
}
