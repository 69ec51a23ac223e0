package channels

import (
	"context"
	"maps"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// record writes a change of a channel into the audit log, in the change's own transaction. The caller is given because
// uploads of several people share a transaction.
func (s *Service) record(ctx context.Context, tx pg.DB, caller authn.Caller, action string, c *channelRow, details map[string]any) error {
	all := map[string]any{"id": c.ID.String()}
	maps.Copy(all, details)
	return audit.Record(authn.NewContext(ctx, caller), tx, audit.Event{Action: action, Resource: auditName(c), Details: all})
}

// auditName is what the audit log calls a channel.
func auditName(c *channelRow) string { return "channel/" + c.Name }
