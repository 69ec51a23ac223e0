package restclient

import (
	"context"
	"net/http"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

// Users lists the users whose name contains query; without users.read only oneself.
func (c *Client) Users(ctx context.Context, query string) ([]*identityv1.User, error) {
	var all []*identityv1.User
	err := c.pages(ctx, 0, values("query", query), func() page {
		return &identityv1.ListUsersResponse{}
	}, func(p page) int {
		all = append(all, p.(*identityv1.ListUsersResponse).GetUsers()...)
		return len(all)
	}, "users")
	return all, err
}

// CreateUser makes a user.
func (c *Client) CreateUser(ctx context.Context, req *identityv1.CreateUserRequest) (*identityv1.User, error) {
	out := &identityv1.User{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "users"), req, out)
}

// SetUserRole gives a user a role on the server; an empty one takes it away.
func (c *Client) SetUserRole(ctx context.Context, username, role string) (*identityv1.User, error) {
	out := &identityv1.User{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "users", username, "role"), &identityv1.SetUserRoleRequest{Role: role}, out)
}

// ImportKey takes over an API key from another server by its hash.
func (c *Client) ImportKey(ctx context.Context, req *identityv1.ImportApiKeyRequest) (*identityv1.ApiKey, error) {
	out := &identityv1.ApiKey{}
	body := &identityv1.ImportApiKeyRequest{
		Id: req.GetId(), Sha256: req.GetSha256(), Description: req.GetDescription(), ExpireTime: req.GetExpireTime(), Roles: req.GetRoles(),
	}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "users", req.GetUsername(), "imported-keys"), body, out)
}

// AuditEvents lists up to limit events, newest first; empty filters take all.
func (c *Client) AuditEvents(ctx context.Context, actor, resource string, limit int) ([]*identityv1.AuditEvent, error) {
	var all []*identityv1.AuditEvent
	err := c.pages(ctx, limit, values("actor", actor, "resource", resource), func() page {
		return &identityv1.ListAuditEventsResponse{}
	}, func(p page) int {
		all = append(all, p.(*identityv1.ListAuditEventsResponse).GetEvents()...)
		return len(all)
	}, "audit")
	return cut(all, limit), err
}

// Members lists who has a role in a channel.
func (c *Client) Members(ctx context.Context, channel string) ([]*channelsv1.Member, error) {
	out := &channelsv1.ListMembersResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "members"), nil, out)
	return out.GetMembers(), err
}

// SetMember gives a user a role in a channel.
func (c *Client) SetMember(ctx context.Context, channel, username, role string) (*channelsv1.Member, error) {
	out := &channelsv1.Member{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "channels", channel, "members", username), &channelsv1.SetMemberRequest{Role: role}, out)
}

// RemoveMember takes a user's role in a channel away.
func (c *Client) RemoveMember(ctx context.Context, channel, username string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", channel, "members", username), nil, nil)
}

// AddPackageMember gives a user a role on a package.
func (c *Client) AddPackageMember(ctx context.Context, channel, pkg, username, role string) (*channelsv1.Member, error) {
	out := &channelsv1.Member{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "channels", channel, "packages", pkg, "members", username), &channelsv1.AddPackageMemberRequest{Role: role}, out)
}

// RemovePackageMember takes a user's role on a package away.
func (c *Client) RemovePackageMember(ctx context.Context, channel, pkg, username string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", channel, "packages", pkg, "members", username), nil, nil)
}

// CreatePackage makes a package without files.
func (c *Client) CreatePackage(ctx context.Context, channel string, req *channelsv1.CreatePackageRequest) (*channelsv1.Package, error) {
	out := &channelsv1.Package{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", channel, "packages"), req, out)
}

// UpdateChannel sets the named settings of a channel.
func (c *Client) UpdateChannel(ctx context.Context, channel string, settings *channelsv1.Channel, fields string) (*channelsv1.Channel, error) {
	out := &channelsv1.Channel{}
	return out, c.call(ctx, http.MethodPatch, c.api(values("update_mask", fields), "channels", channel), settings, out)
}

// NamespaceUsage says what the channels of each namespace hold and may hold together.
func (c *Client) NamespaceUsage(ctx context.Context) ([]*channelsv1.NamespaceUsage, error) {
	out := &channelsv1.ListNamespaceUsageResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "namespace-usage"), nil, out)
	return out.GetUsages(), err
}

// SetNamespaceLimit sets how much the channels of a namespace may hold together; nil takes the limit away.
func (c *Client) SetNamespaceLimit(ctx context.Context, namespace string, limit *int64) (*channelsv1.NamespaceUsage, error) {
	out := &channelsv1.NamespaceUsage{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "namespaces", namespace, "limit"), &channelsv1.SetNamespaceLimitRequest{SizeLimit: limit}, out)
}

// Mirrors lists the registered mirrors of a channel.
func (c *Client) Mirrors(ctx context.Context, channel string) ([]*channelsv1.RegisteredMirror, error) {
	out := &channelsv1.ListMirrorsResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "mirrors"), nil, out)
	return out.GetMirrors(), err
}

// RegisterMirror registers another server's copy of a channel.
func (c *Client) RegisterMirror(ctx context.Context, channel string, req *channelsv1.RegisterMirrorRequest) (*channelsv1.RegisteredMirror, error) {
	out := &channelsv1.RegisteredMirror{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", channel, "mirrors"), req, out)
}

// DeleteMirror forgets a registered mirror.
func (c *Client) DeleteMirror(ctx context.Context, channel, id string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", channel, "mirrors", id), nil, nil)
}

// ImportCounts brings download counts of up to a thousand files along from another server.
func (c *Client) ImportCounts(ctx context.Context, req *metricsv1.ImportCountsRequest) (*metricsv1.ImportCountsResponse, error) {
	out := &metricsv1.ImportCountsResponse{}
	body := &metricsv1.ImportCountsRequest{SourceId: req.GetSourceId(), Source: req.GetSource(), Files: req.GetFiles()}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", req.GetChannel(), "metrics", "imports"), body, out)
}

// Webhooks lists a channel's webhooks.
func (c *Client) Webhooks(ctx context.Context, channel string) ([]*channelsv1.Webhook, error) {
	out := &channelsv1.ListWebhooksResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "webhooks"), nil, out)
	return out.GetWebhooks(), err
}

// CreateWebhook has a server told of what happens to a channel.
func (c *Client) CreateWebhook(ctx context.Context, channel string, req *channelsv1.CreateWebhookRequest) (*channelsv1.CreateWebhookResponse, error) {
	out := &channelsv1.CreateWebhookResponse{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", channel, "webhooks"), req, out)
}

// DeleteWebhook ends a webhook.
func (c *Client) DeleteWebhook(ctx context.Context, channel, id string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", channel, "webhooks", id), nil, nil)
}

// Deliveries lists the last messages to a webhook.
func (c *Client) Deliveries(ctx context.Context, channel, id string) ([]*channelsv1.Delivery, error) {
	out := &channelsv1.ListDeliveriesResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "webhooks", id, "deliveries"), nil, out)
	return out.GetDeliveries(), err
}
