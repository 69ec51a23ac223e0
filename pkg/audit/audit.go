// Package audit writes down who changed what.
//
// An event is written in the transaction of the change itself, by whichever service makes it: there is no change
// without its event, and no event of a change that was rolled back. Record puts it into outbox.audit; identity moves it
// from there to its log, about once a second, and shows both as one. Ids come from outbox.audit's sequence and stay.
//
// There is no NOTIFY: nobody waits for the move, and a notifying transaction holds a lock of the whole database while
// it commits.
package audit

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the library schema that Record writes to; every database of the platform has it.
var Schema = pg.Schema{Name: "outbox", FS: migrations}

// Event is one change.
type Event struct {
	// Action says what was done, such as `channel.create`.
	Action string
	// Resource says on what, such as `channel/main`: by the name that people know.
	Resource string
	// Details say what changed. They are shown as they are: never put a secret in.
	Details map[string]any
}

// Record writes an event in the caller's transaction. Who did it, with which key and in which request comes from ctx.
func Record(ctx context.Context, tx pg.DB, e Event) error {
	caller := authn.FromContext(ctx)
	details := []byte("{}")
	if len(e.Details) > 0 {
		var err error
		if details, err = json.Marshal(e.Details); err != nil {
			return fmt.Errorf("audit %s: %w", e.Action, err)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO outbox.audit (actor, key_id, action, resource, details, request_id) VALUES ($1, $2, $3, $4, $5, $6)`,
		caller.Actor(), caller.KeyID, e.Action, e.Resource, details, telemetry.RequestID(ctx))
	if err != nil {
		return fmt.Errorf("audit %s: %w", e.Action, pg.Classify(err))
	}
	return nil
}
