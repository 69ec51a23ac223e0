package restclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// KeyForPassword logs in by name and password, makes an API key, and logs out again: a program keeps a key, which can be
// named and ended by itself, and not a password.
func (c *Client) KeyForPassword(ctx context.Context, username, password, description string) (*identityv1.CreateApiKeyResponse, error) {
	in, err := json.Marshal(map[string]string{"username": username, "password": password})
	if err != nil {
		return nil, err
	}
	_, cookies, err := c.withCookies(ctx, c.api(nil, "login"), in, nil)
	if err != nil {
		return nil, err
	}
	if len(cookies) == 0 {
		return nil, fault.New(fault.Unavailable, "%s logged %s in but sent no cookie", c.Server(), username)
	}
	if in, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(&identityv1.CreateApiKeyRequest{Description: description}); err != nil {
		return nil, err
	}
	out := &identityv1.CreateApiKeyResponse{}
	data, _, err := c.withCookies(ctx, c.api(nil, "api-keys"), in, cookies)
	if err == nil {
		err = c.decode(data, out)
	}
	// Whatever came of it, the session is not kept. That it ends by itself is good enough if this fails.
	_, _, _ = c.withCookies(context.WithoutCancel(ctx), c.api(nil, "logout"), []byte("{}"), cookies)
	return out, err
}

func (c *Client) withCookies(ctx context.Context, u *url.URL, body []byte, cookies []*http.Cookie) ([]byte, []*http.Cookie, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Del("Authorization") // a key that was given would decide
	for _, cookie := range cookies {
		req.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, c.transportError(ctx, err)
	}
	return data, resp.Cookies(), nil
}

// SetPassword gives a user a password. One's own needs the old one; an empty new one takes it away.
func (c *Client) SetPassword(ctx context.Context, username, oldPassword, newPassword string) error {
	in := &identityv1.SetPasswordRequest{OldPassword: oldPassword, NewPassword: &newPassword}
	return c.call(ctx, http.MethodPut, c.api(nil, "users", username, "password"), in, nil)
}

// SetUserDisabled shuts a user out, or lets them in again.
func (c *Client) SetUserDisabled(ctx context.Context, username string, disabled bool) (*identityv1.User, error) {
	out := &identityv1.User{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "users", username, "disabled"), &identityv1.SetUserDisabledRequest{Disabled: disabled}, out)
}

// LinkLogin ties an account at a login provider to a user, or unties it.
func (c *Client) LinkLogin(ctx context.Context, username, provider, subject string, unlink bool) error {
	in := &identityv1.LinkLoginRequest{Provider: provider, Subject: subject, Unlink: unlink}
	return c.call(ctx, http.MethodPost, c.api(nil, "users", username, "logins"), in, nil)
}

// RevokeSessions ends all logins of a user.
func (c *Client) RevokeSessions(ctx context.Context, username string) (int64, error) {
	out := &identityv1.RevokeSessionsResponse{}
	err := c.call(ctx, http.MethodDelete, c.api(nil, "users", username, "sessions"), nil, out)
	return out.GetRevoked(), err
}

// Groups lists the groups whose name contains query; without groups.manage only one's own.
func (c *Client) Groups(ctx context.Context, query string) ([]*identityv1.Group, error) {
	var all []*identityv1.Group
	err := c.pages(ctx, 0, values("query", query), func() page {
		return &identityv1.ListGroupsResponse{}
	}, func(p page) int {
		all = append(all, p.(*identityv1.ListGroupsResponse).GetGroups()...)
		return len(all)
	}, "groups")
	return all, err
}

// Group returns a group with its members and roles.
func (c *Client) Group(ctx context.Context, name string) (*identityv1.GetGroupResponse, error) {
	out := &identityv1.GetGroupResponse{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "groups", name), nil, out)
}

// CreateGroup makes a group.
func (c *Client) CreateGroup(ctx context.Context, name, description string) (*identityv1.Group, error) {
	out := &identityv1.Group{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "groups"), &identityv1.CreateGroupRequest{Name: name, Description: description}, out)
}

// DeleteGroup removes a group with its roles.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "groups", name), nil, nil)
}

// AddGroupMember puts a user into a group.
func (c *Client) AddGroupMember(ctx context.Context, group, username string) error {
	return c.call(ctx, http.MethodPut, c.api(nil, "groups", group, "members", username), nil, nil)
}

// RemoveGroupMember takes a user out of a group.
func (c *Client) RemoveGroupMember(ctx context.Context, group, username string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "groups", group, "members", username), nil, nil)
}

// SetGroupRole gives a group a role on a resource such as channel/main; an empty one takes it away.
func (c *Client) SetGroupRole(ctx context.Context, group, resource, role string) error {
	if strings.TrimSpace(resource) == "" {
		return fmt.Errorf("set a role of group %s: no resource", group)
	}
	return c.call(ctx, http.MethodPost, c.api(nil, "groups", group, "roles"), &identityv1.SetGroupRoleRequest{Resource: resource, Role: role}, nil)
}
