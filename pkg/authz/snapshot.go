package authz

import (
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Binding is a role of a subject on a resource.
type Binding struct {
	// Subject is `user/<uuid>`, `group/<uuid>` or `service/<name>`.
	Subject string
	// Role is owner, maintainer or member.
	Role string
	// Resource is spelled as Resource.String does.
	Resource string
}

// KeyState is what must be known of an API key.
type KeyState struct {
	// ID is its public id.
	ID string
	// UserID is its owner.
	UserID string
	// Expires is when it ends; zero means never.
	Expires time.Time
}

// Membership says that a user is in a group, and so holds the roles that it has.
type Membership struct {
	// UserID and GroupID are UUIDs.
	UserID, GroupID string
}

// Snapshot is what is known at one version. It does not change once made.
type Snapshot struct {
	version  int64
	subjects map[string]map[string][]string // subject → resource → roles
	keys     map[string]KeyState
	users    map[string]bool
	groups   map[string][]string // user id → subjects of their groups
}

// NewSnapshot indexes what identity told. Users are those who exist and are not shut out.
func NewSnapshot(version int64, bindings []Binding, keys []KeyState, userIDs []string, memberships ...Membership) *Snapshot {
	s := &Snapshot{
		version: version, subjects: make(map[string]map[string][]string),
		keys: make(map[string]KeyState, len(keys)), users: make(map[string]bool, len(userIDs)),
		groups: make(map[string][]string),
	}
	for _, b := range bindings {
		roles := s.subjects[b.Subject]
		if roles == nil {
			roles = make(map[string][]string, 1)
			s.subjects[b.Subject] = roles
		}
		roles[b.Resource] = append(roles[b.Resource], b.Role)
	}
	for _, k := range keys {
		s.keys[k.ID] = k
	}
	for _, id := range userIDs {
		s.users[id] = true
	}
	for _, m := range memberships {
		s.groups[m.UserID] = append(s.groups[m.UserID], "group/"+m.GroupID)
	}
	return s
}

// held finds the roles that a user has, by themselves and by their groups.
func (s *Snapshot) held(userID string) lookup {
	mine, groups := s.subjects["user/"+userID], s.groups[userID]
	if len(groups) == 0 {
		return func(resource string) []string { return mine[resource] }
	}
	return func(resource string) []string {
		roles := mine[resource]
		for _, g := range groups {
			if more := s.subjects[g][resource]; len(more) > 0 {
				roles = append(roles[:len(roles):len(roles)], more...) // never into the snapshot's own list
			}
		}
		return roles
	}
}

// all returns what held finds, for every resource.
func (s *Snapshot) all(userID string) map[string][]string {
	mine, groups := s.subjects["user/"+userID], s.groups[userID]
	if len(groups) == 0 {
		return mine
	}
	out := make(map[string][]string, len(mine))
	for res, roles := range mine {
		out[res] = roles[:len(roles):len(roles)]
	}
	for _, g := range groups {
		for res, roles := range s.subjects[g] {
			out[res] = append(out[res][:len(out[res]):len(out[res])], roles...)
		}
	}
	return out
}

// Version returns the snapshot's version; it grows with every change.
func (s *Snapshot) Version() int64 { return s.version }

// notLoggedIn and noPermission are what Quetz says; clients show them to people.
func notLoggedIn() error  { return fault.New(fault.Unauthenticated, "Not logged in") }
func noPermission() error { return fault.New(fault.Denied, "No permission") }

// login returns an error if the caller is nobody, or is somebody no longer.
func (s *Snapshot) login(c authn.Caller, now time.Time) error {
	if c.UserID == "" {
		if c.Target != "" {
			return nil
		}
		return notLoggedIn()
	}
	if !s.users[c.UserID] {
		return notLoggedIn()
	}
	if c.KeyID != "" {
		k, ok := s.keys[c.KeyID]
		if !ok || k.UserID != c.UserID || (!k.Expires.IsZero() && !now.Before(k.Expires)) {
			return notLoggedIn()
		}
	}
	return nil
}

// decide returns nil if the caller holds the permission on r.
func (s *Snapshot) decide(c authn.Caller, permission Permission, r Resource, now time.Time) error {
	if err := s.login(c, now); err != nil {
		return err
	}
	if c.UserID == "" { // a part of the platform, as itself
		if serverOnly[permission] || !Known(permission) {
			return noPermission()
		}
		return nil
	}
	if !allows(s.held(c.UserID), permission, r) {
		return noPermission()
	}
	if c.Scoped && !allows(scopeLookup(c.Scope), permission, r) {
		return noPermission()
	}
	return nil
}

func scopeLookup(scope []authn.Grant) lookup {
	return func(resource string) (roles []string) {
		for _, g := range scope {
			if g.Resource == resource {
				roles = append(roles, g.Role)
			}
		}
		return roles
	}
}

// Readable says what a caller may read besides what is public: all that a list needs for its WHERE.
type Readable struct {
	// All is true for the server's owners and maintainers and for the platform itself.
	All bool
	// Channels are UUIDs.
	Channels []string
	// Namespaces are names: all channels in them.
	Namespaces []string
}

func (s *Snapshot) readable(c authn.Caller, now time.Time) Readable {
	if s.login(c, now) != nil {
		return Readable{}
	}
	if c.UserID == "" {
		return Readable{All: true}
	}
	mine, held := s.all(c.UserID), s.held(c.UserID)
	if !c.Scoped {
		return collect(mine)
	}
	// What the scope names and the user holds: asked one by one, since each side may get there by an outer resource.
	var out Readable
	own, scope := collect(mine), make(map[string][]string)
	for _, g := range c.Scope {
		scope[g.Resource] = append(scope[g.Resource], g.Role)
	}
	narrow := collect(scope)
	switch {
	case narrow.All:
		return own
	case own.All:
		return narrow
	}
	for _, id := range narrow.Channels {
		if allows(held, ChannelRead, Resource{Kind: Channel, ID: id}) {
			out.Channels = append(out.Channels, id)
		}
	}
	for _, ns := range narrow.Namespaces {
		if allows(held, ChannelRead, NamespaceOf(ns)) {
			out.Namespaces = append(out.Namespaces, ns)
		}
	}
	return out
}

// collect sorts out which of the resources their roles let one read.
func collect(roles map[string][]string) (out Readable) {
	for res, rs := range roles {
		r, ok := ParseResource(res)
		if !ok {
			continue
		}
		for _, role := range rs {
			if !table[r.Kind][role][ChannelRead] {
				continue
			}
			switch r.Kind {
			case Server:
				out.All = true
			case Namespace:
				out.Namespaces = append(out.Namespaces, r.Name)
			case Channel:
				out.Channels = append(out.Channels, r.ID)
			}
			break
		}
	}
	return out
}

// RolesOn returns the roles that the user has, by themselves and by groups, on resources with the prefix, such as
// "channel/": resource → role, the highest if there are several.
func (s *Snapshot) RolesOn(userID, prefix string) map[string]string {
	out := make(map[string]string)
	for res, roles := range s.all(userID) {
		if !strings.HasPrefix(res, prefix) {
			continue
		}
		for _, role := range roles {
			if rank(role) > rank(out[res]) {
				out[res] = role
			}
		}
	}
	return out
}

func rank(role string) int {
	switch role {
	case Owner:
		return 3
	case Maintainer:
		return 2
	case Member:
		return 1
	}
	return 0
}
