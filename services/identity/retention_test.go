package identity_test

import (
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/services/identity"
)

func TestOldAuditEventsGo(t *testing.T) {
	db := pgtest.New(t, audit.Schema, identity.Schema)
	const old, young = 12_000, 30 // more than are removed at once
	_, err := db.Exec(t.Context(), `
		INSERT INTO identity.audit (id, time, actor, key_id, action, resource, details, request_id)
		SELECT i, now() - CASE WHEN i <= $1::int THEN interval '500 days' ELSE interval '1 day' END, 'a', '', 'x', 'y', '{}', '' FROM generate_series(1, $1::int + $2::int) i`,
		old, young)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		dryRun     bool
		gone, left int64
	}{{true, old, old + young}, {false, old, young}, {false, 0, young}, {true, 0, young}} {
		n, err := identity.PurgeAudit(t.Context(), db, 400*24*time.Hour, step.dryRun)
		var left int64
		if qerr := db.QueryRow(t.Context(), `SELECT count(*) FROM identity.audit`).Scan(&left); qerr != nil {
			t.Fatal(qerr)
		}
		if err != nil || n != step.gone || left != step.left {
			t.Errorf("dry run %v: %d gone, %d left, %v; want %d and %d", step.dryRun, n, left, err, step.gone, step.left)
		}
	}
}
