package quetz

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

type apiKey struct {
	Description string    `json:"description"`
	TimeCreated string    `json:"time_created"`
	ExpireAt    *string   `json:"expire_at"`
	Roles       []keyRole `json:"roles"` // null acts as the user
	Key         string    `json:"key"`
}

type keyRole struct {
	Channel string  `json:"channel"`
	Package *string `json:"package"`
	Role    string  `json:"role"`
}

const day = "2006-01-02"

func keyOf(k *identityv1.ApiKey, shown string) apiKey {
	out := apiKey{Description: k.GetDescription(), TimeCreated: k.GetCreateTime().AsTime().Format(day), Key: shown}
	if t := k.GetExpireTime(); t != nil {
		// A key is valid through its whole last day, so it ends with the first moment of the next.
		last := t.AsTime().Add(-time.Nanosecond).Format(day)
		out.ExpireAt = &last
	}
	for _, g := range k.GetRoles() {
		role := keyRole{Role: g.GetRole()}
		kind, rest, _ := strings.Cut(g.GetResource(), "/")
		switch kind {
		case "channel":
			role.Channel = rest
		case "package":
			channel, pkg, _ := strings.Cut(rest, "/")
			role.Channel, role.Package = channel, &pkg
		}
		out.Roles = append(out.Roles, role)
	}
	return out
}

func (d *dialect) listKeys(w http.ResponseWriter, r *http.Request) error {
	resp, err := d.Identity.ListApiKeys(r.Context(), &identityv1.ListApiKeysRequest{})
	if err != nil {
		return err
	}
	keys := make([]apiKey, 0, len(resp.GetApiKeys()))
	for _, k := range resp.GetApiKeys() {
		keys = append(keys, keyOf(k, k.GetId()))
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", keys)
	return nil
}

// maxKeyRoles bounds the roles of a key: each is looked at whenever the key is used.
const maxKeyRoles = 1000

// readRoles reads the roles that a key is narrowed to.
func readRoles(f *form) (out []*identityv1.RoleGrant) {
	items, _ := f.items("roles", maxKeyRoles)
	for i, item := range items {
		if f.full() {
			break
		}
		sub := &form{raw: item, at: []any{"body", "roles", i}}
		if json.Unmarshal(item, &sub.fields) != nil || sub.fields == nil {
			f.failAt(invalidField{Type: "model_attributes_type", Loc: sub.at, Msg: noObject, Input: item})
			continue
		}
		var channel string
		if sub.require("channel") {
			channel, _ = sub.text("channel")
		}
		pkg, _ := sub.string("package")
		role := ""
		if sub.require("role") {
			if name, ok := sub.text("role"); ok {
				role = name
				checkRole(sub, role)
			}
		}
		f.merge(sub)
		resource := "channel/" + channel
		if pkg != "" {
			resource = "package/" + channel + "/" + pkg
		}
		out = append(out, &identityv1.RoleGrant{Role: role, Resource: resource})
	}
	return out
}

func (d *dialect) createKey(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	req := &identityv1.CreateApiKeyRequest{}
	if f.require("description") {
		req.Description, _ = f.text("description")
	}
	if s, ok := f.string("expire_at"); ok && s != "" {
		t, err := parseTime(s)
		if err != nil {
			f.fail("expire_at", "date_from_datetime_parsing", "Input should be a valid date or datetime")
		}
		req.ExpireTime = timestamppb.New(t.Truncate(24 * time.Hour).Add(24 * time.Hour))
	}
	req.Roles = readRoles(f)
	if err := f.err(); err != nil {
		return err
	}
	resp, err := d.Identity.CreateApiKey(r.Context(), req)
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusCreated, "application/json", keyOf(resp.GetApiKey(), resp.GetSecret()))
	return nil
}

func (d *dialect) deleteKey(w http.ResponseWriter, r *http.Request) error {
	key := r.PathValue("key")
	_, err := d.Identity.RevokeApiKey(r.Context(), &identityv1.RevokeApiKeyRequest{Id: key})
	if fault.Is(err, fault.NotFound) {
		// A whole key must not come back in an answer, so only its public id is named.
		id, _ := authn.ParseKeyID(key)
		return fault.New(fault.NotFound, "key '%s' does not exist", id)
	}
	if err != nil {
		return err
	}
	return writeNull(w, http.StatusOK)
}

func (d *dialect) me(w http.ResponseWriter, r *http.Request) error {
	resp, err := d.Identity.GetMe(r.Context(), &identityv1.GetMeRequest{})
	if err != nil {
		return err
	}
	u := resp.GetUser()
	edge.WriteJSON(w, http.StatusOK, "application/json", map[string]any{
		"name": u.GetName(), "avatar_url": u.GetAvatarUrl(),
		"user": map[string]string{"id": u.GetId(), "username": u.GetUsername()},
	})
	return nil
}
