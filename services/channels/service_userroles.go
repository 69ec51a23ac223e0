package channels

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// ListUserRoles returns a user's roles on channels or on packages. The right comes before the user: who may not ask
// learns nothing about who exists.
func (s *Service) ListUserRoles(ctx context.Context, req *channelsv1.ListUserRolesRequest) (*channelsv1.ListUserRolesResponse, error) {
	p, err := parsePage(req.GetPageSize(), req.GetSkip(), "")
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	if !strings.EqualFold(caller.Name, req.GetUsername()) {
		if err := s.roles.Allow(ctx, caller, authz.UsersRead, authz.Resource{}); err != nil {
			return nil, err
		}
	}
	prefix := "channel/"
	if req.GetPackages() {
		prefix = "package/"
	}
	if !isText(req.GetUsername()) {
		return nil, fault.New(fault.NotFound, "User %s not found", shown(req.GetUsername()))
	}
	held, err := s.identity.ListUserBindings(ctx, &identityv1.ListUserBindingsRequest{Username: req.GetUsername(), Prefix: prefix})
	if err != nil {
		return nil, err
	}
	var ids []uuid.UUID
	for _, r := range held.GetRoles() {
		if res, ok := authz.ParseResource(r.GetResource()); ok {
			if id, err := uuid.Parse(res.ID); err == nil {
				ids = append(ids, id)
			}
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT `+channelColumns+` FROM channels.channels WHERE id = ANY($1)`, nonNil(ids))
	if err != nil {
		return nil, pg.Classify(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[channelRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	channels := make(map[string]*channelRow, len(found))
	for _, ch := range found {
		channels[ch.ID.String()] = ch
	}
	out := new(channelsv1.ListUserRolesResponse)
	for _, r := range held.GetRoles() {
		res, _ := authz.ParseResource(r.GetResource())
		ch := channels[res.ID]
		if ch == nil {
			continue // deleted; its roles go in a moment
		}
		if caller.Scoped { // a narrow key does not show what else its user has
			on := ch.resource()
			on.Public = false
			if req.GetPackages() {
				on = on.PackageOf(res.Name)
			}
			if err := s.roles.Allow(ctx, caller, authz.ChannelRead, on); err != nil {
				continue
			}
		}
		out.Items = append(out.Items, &channelsv1.ListUserRolesResponse_Item{Channel: ch.Name, Package: res.Name, Role: r.GetRole()})
	}
	slices.SortFunc(out.Items, func(a, b *channelsv1.ListUserRolesResponse_Item) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.GetChannel()), strings.ToLower(b.GetChannel())), strings.Compare(a.GetPackage(), b.GetPackage()))
	})
	out.TotalSize = int64(len(out.Items))
	from := min(p.skip, out.TotalSize)
	out.Items = out.Items[from:min(from+int64(p.size), out.TotalSize)]
	return out, nil
}
