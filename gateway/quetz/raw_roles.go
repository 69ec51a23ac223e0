package quetz

import (
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

func userOf(u *identityv1.User) user {
	return user{u.GetId(), u.GetUsername(), profile{u.GetName(), u.GetAvatarUrl()}}
}

// needsRoles words a refusal for the want of a server role, as a list with one text.
func needsRoles(err error, roles ...string) error {
	if fault.Is(err, fault.Denied) {
		return &statusError{http.StatusForbidden, []string{"this operation requires " + strings.Join(roles, " or ") + " roles"}}
	}
	return err
}

// elevated are the roles that may look after other people.
var elevated = []string{"owner", "maintainer"}

// userPages reads users by name and hands them to take.
func (d *dialect) userPages(r *http.Request, skip, limit int64, take func(user) error) (int64, error) {
	return collect(skip, limit, func(skip int64, size int32) (int, int64, error) {
		got, err := d.Identity.ListUsers(r.Context(), &identityv1.ListUsersRequest{
			Query: strings.ToValidUTF8(strings.ReplaceAll(r.URL.Query().Get("q"), "\x00", ""), ""), Skip: skip, PageSize: size,
		})
		if err != nil {
			return 0, 0, err
		}
		for _, u := range got.GetUsers() {
			if err := take(userOf(u)); err != nil {
				return 0, 0, err
			}
		}
		return len(got.GetUsers()), got.GetTotalSize(), nil
	})
}

func (d *dialect) listUsers(w http.ResponseWriter, r *http.Request) error {
	list := newList(w)
	_, err := d.userPages(r, 0, -1, func(u user) error { return list.add(u) })
	return list.end(err)
}

// paged is a page of anything.
type paged[T any] struct {
	Pagination pagination `json:"pagination"`
	Result     []T        `json:"result"`
}

// writePage answers with the page that read fills.
func writePage[T any](w http.ResponseWriter, r *http.Request, read func(skip, limit int64, take func(T) error) (int64, error)) error {
	skip, limit, err := queryPage(r)
	if err != nil {
		return err
	}
	out := paged[T]{Pagination: pagination{Skip: skip, Limit: limit}, Result: []T{}}
	out.Pagination.AllRecordsCount, err = read(skip, limit, func(v T) error { out.Result = append(out.Result, v); return nil })
	if err != nil {
		return err
	}
	if limit == 0 {
		out.Result = []T{}
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", out)
	return nil
}

func (d *dialect) pageUsers(w http.ResponseWriter, r *http.Request) error {
	return writePage(w, r, func(skip, limit int64, take func(user) error) (int64, error) {
		return d.userPages(r, skip, limit, take)
	})
}

func (d *dialect) findUser(r *http.Request) (*identityv1.User, error) {
	u, err := d.Identity.GetUser(r.Context(), &identityv1.GetUserRequest{Username: r.PathValue("username")})
	return u, needsRoles(err, elevated...)
}

func (d *dialect) getUser(w http.ResponseWriter, r *http.Request) error {
	u, err := d.findUser(r)
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", userOf(u))
	return nil
}

func (d *dialect) deleteUser(w http.ResponseWriter, r *http.Request) error {
	_, err := d.Identity.DeleteUser(r.Context(), &identityv1.DeleteUserRequest{Username: r.PathValue("username")})
	if err != nil {
		return needsRoles(err, elevated...)
	}
	return writeNull(w, http.StatusOK)
}

type role struct {
	Role *string `json:"role"`
}

func (d *dialect) getRole(w http.ResponseWriter, r *http.Request) error {
	u, err := d.findUser(r)
	if err != nil {
		return err
	}
	var out role
	if u.GetRole() != "" {
		out.Role = &u.Role
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", out)
	return nil
}

func (d *dialect) setRole(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	name, _ := f.string("role") // null takes the role away
	if name != "" || (f.has("role") && !f.isNull("role") && f.err() == nil) {
		checkRole(f, name)
	}
	if err := f.err(); err != nil {
		return err
	}
	_, err = d.Identity.SetUserRole(r.Context(), &identityv1.SetUserRoleRequest{Username: r.PathValue("username"), Role: name})
	if err != nil {
		if name == "member" {
			return needsRoles(err, elevated...)
		}
		return needsRoles(err, "owner")
	}
	return writeNull(w, http.StatusOK)
}

// checkRole wants one of the three.
func checkRole(f *form, name string) {
	if name != "owner" && name != "maintainer" && name != "member" {
		const pattern = "owner|maintainer|member"
		f.failWith("role", "string_pattern_mismatch", "String should match pattern '"+pattern+"'", map[string]any{"pattern": pattern})
	}
}

// channelRole and packageRole are what a user's lists of channels and packages hold.
type channelRole struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

type packageRole struct {
	Name        string `json:"name"`
	ChannelName string `json:"channel_name"`
	Role        string `json:"role"`
}

// userRoles reads a user's roles and hands them to take.
func (d *dialect) userRoles(r *http.Request, packages bool, skip, limit int64, take func(*channelsv1.ListUserRolesResponse_Item) error) (int64, error) {
	total, err := collect(skip, limit, func(skip int64, size int32) (int, int64, error) {
		got, err := d.Channels.ListUserRoles(r.Context(), &channelsv1.ListUserRolesRequest{
			Username: r.PathValue("username"), Packages: packages, Skip: skip, PageSize: size,
		})
		if err != nil {
			return 0, 0, err
		}
		for _, it := range got.GetItems() {
			if err := take(it); err != nil {
				return 0, 0, err
			}
		}
		return len(got.GetItems()), got.GetTotalSize(), nil
	})
	return total, needsRoles(err, elevated...)
}

func asChannelRole(it *channelsv1.ListUserRolesResponse_Item) channelRole {
	return channelRole{it.GetChannel(), it.GetRole()}
}

func asPackageRole(it *channelsv1.ListUserRolesResponse_Item) packageRole {
	return packageRole{it.GetPackage(), it.GetChannel(), it.GetRole()}
}

// listRoles and pageRoles answer with a user's roles, in one list or by pages.
func listRoles[T any](d *dialect, packages bool, as func(*channelsv1.ListUserRolesResponse_Item) T) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		list := newList(w)
		_, err := d.userRoles(r, packages, 0, -1, func(it *channelsv1.ListUserRolesResponse_Item) error { return list.add(as(it)) })
		return list.end(err)
	}
}

func pageRoles[T any](d *dialect, packages bool, as func(*channelsv1.ListUserRolesResponse_Item) T) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		return writePage(w, r, func(skip, limit int64, take func(T) error) (int64, error) {
			return d.userRoles(r, packages, skip, limit, func(it *channelsv1.ListUserRolesResponse_Item) error { return take(as(it)) })
		})
	}
}
