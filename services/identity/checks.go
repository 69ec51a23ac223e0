package identity

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// Limits of what a request may hold.
const (
	maxUsername    = 64
	maxShownName   = 255
	maxAvatarURL   = 2048
	maxDescription = 2000
	maxKeyRoles    = 100
	maxUserIDs     = 1000
)

var (
	usernamePattern  = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	namespacePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	audiencePattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
)

// registerChecks tells the server what requests must look like before a handler sees them.
func registerChecks(srv *rpc.Server) {
	rpc.Validate(srv, checkCreateUser)
	rpc.Validate(srv, func(r *identityv1.SetUserRoleRequest) error { return checkRole("role", r.GetRole(), true) })
	rpc.Validate(srv, checkCreateAPIKey)
	rpc.Validate(srv, checkChangeBinding)
	rpc.Validate(srv, func(r *identityv1.CreateNamespaceRequest) error {
		if !namespacePattern.MatchString(r.GetName()) {
			return fault.Field("name", "name should be 1 to 63 lower-case letters, digits and dashes, and neither begin nor end with a dash")
		}
		return nil
	})
	rpc.Validate(srv, func(r *identityv1.MintTokenRequest) error {
		if !audiencePattern.MatchString(r.GetAudience()) {
			return fault.Field("audience", "audience should be the name of a service")
		}
		return checkUUID("principal.user_id", r.GetPrincipal().GetUserId(), true)
	})
	rpc.Validate(srv, func(r *identityv1.GetUsersRequest) error {
		if len(r.GetIds()) > maxUserIDs || len(r.GetUsernames()) > maxUserIDs {
			return fault.Field("ids", "at most %d users can be asked for at once", maxUserIDs)
		}
		for i, id := range r.GetIds() {
			if err := checkUUID(fmt.Sprintf("ids[%d]", i), id, false); err != nil {
				return err
			}
		}
		return nil
	})
	registerLoginChecks(srv)
	rpc.Validate(srv, func(r *identityv1.ListUsersRequest) error { return checkText("query", r.GetQuery(), maxShownName) })
}

// registerLoginChecks keeps what PostgreSQL cannot hold out of what strangers and clients send.
func registerLoginChecks(srv *rpc.Server) {
	texts := func(pairs ...string) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := checkText(pairs[i], pairs[i+1], maxShownName); err != nil {
				return err
			}
		}
		return nil
	}
	rpc.Validate(srv, func(r *identityv1.LoginRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.SetPasswordRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.SetUserDisabledRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.ListSessionsRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.RevokeSessionsRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.ListLinkedLoginsRequest) error { return texts("username", r.GetUsername()) })
	rpc.Validate(srv, func(r *identityv1.LinkLoginRequest) error {
		if r.GetProvider() == "" || r.GetSubject() == "" {
			return fault.Field("subject", "provider and subject are needed")
		}
		return texts("username", r.GetUsername(), "provider", r.GetProvider(), "subject", r.GetSubject())
	})
	rpc.Validate(srv, func(r *identityv1.GetGroupRequest) error { return texts("group", r.GetGroup()) })
	rpc.Validate(srv, func(r *identityv1.DeleteGroupRequest) error { return texts("group", r.GetGroup()) })
	rpc.Validate(srv, func(r *identityv1.AddGroupMemberRequest) error {
		return texts("group", r.GetGroup(), "username", r.GetUsername())
	})
	rpc.Validate(srv, func(r *identityv1.RemoveGroupMemberRequest) error {
		return texts("group", r.GetGroup(), "username", r.GetUsername())
	})
	rpc.Validate(srv, func(r *identityv1.SetGroupRoleRequest) error {
		return texts("group", r.GetGroup(), "resource", r.GetResource())
	})
}

func checkCreateUser(r *identityv1.CreateUserRequest) error {
	if _, err := names.ParseUser(r.GetUsername()); err != nil {
		return err
	}
	if len(r.GetUsername()) > maxUsername || !usernamePattern.MatchString(r.GetUsername()) {
		return fault.Field("username", "username should be at most %d letters, digits, ., _ and -", maxUsername)
	}
	if err := checkText("name", r.GetName(), maxShownName); err != nil {
		return err
	}
	if err := checkText("avatar_url", r.GetAvatarUrl(), maxAvatarURL); err != nil {
		return err
	}
	// It ends up in an img tag of other people's pages.
	if a := r.GetAvatarUrl(); a != "" && !strings.HasPrefix(a, "/") && !strings.HasPrefix(a, "https://") && !strings.HasPrefix(a, "http://") {
		return fault.Field("avatar_url", "avatar_url should be a path or an http or https URL")
	}
	return checkRole("role", r.GetRole(), true)
}

func checkCreateAPIKey(r *identityv1.CreateApiKeyRequest) error {
	if err := checkText("description", r.GetDescription(), maxDescription); err != nil {
		return err
	}
	if t := r.GetExpireTime(); t != nil && t.CheckValid() != nil {
		return fault.Field("expire_time", "expire_time should be a time")
	}
	if len(r.GetRoles()) > maxKeyRoles {
		return fault.Field("roles", "a key can have at most %d roles", maxKeyRoles)
	}
	for i, g := range r.GetRoles() {
		if err := checkRole(fmt.Sprintf("roles[%d].role", i), g.GetRole(), false); err != nil {
			return err
		}
	}
	return nil
}

func checkChangeBinding(r *identityv1.ChangeBindingRequest) error {
	b := r.GetBinding()
	if err := checkRole("binding.role", b.GetRole(), r.GetRevoke()); err != nil {
		return err
	}
	if res, ok := authz.ParseResource(b.GetResource()); !ok || res.Kind == authz.Server {
		return fault.Field("binding.resource", "resource should be a namespace, a channel or a package")
	}
	if (r.GetUsername() == "") == (b.GetSubject() == "") {
		return fault.Field("username", "either username or binding.subject should be set")
	}
	if r.GetUsername() != "" {
		return nil
	}
	id, ok := strings.CutPrefix(b.GetSubject(), "user/")
	if !ok {
		return fault.Field("binding.subject", "subject should be user/<uuid>")
	}
	return checkUUID("binding.subject", id, false)
}

func checkRole(field, role string, empty bool) error {
	if authz.ValidRole(role) || (empty && role == "") {
		return nil
	}
	return fault.Field(field, "role should be owner, maintainer or member")
}

func checkUUID(field, id string, empty bool) error {
	if empty && id == "" {
		return nil
	}
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fault.Field(field, "%s should be a lower-case UUID", field)
	}
	return nil
}

// checkText keeps out what PostgreSQL cannot hold or nobody can read.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return fault.Field(field, "%s should have at most %d bytes", field, limit)
	}
	if strings.ContainsRune(s, 0) {
		return fault.Field(field, "%s should not contain NUL", field)
	}
	return nil
}
