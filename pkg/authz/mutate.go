//go:build mutate

package authz

import "maps"

// This file is only in builds with the tag mutate, which are made to test tests: a table of rights that does not notice
// a changed entry of the role table is worth nothing.

// Entry is one cell of the role table: whether a role on a kind of resource holds a permission.
type Entry struct {
	Kind       Kind
	Role       string
	Permission Permission
	Held       bool
}

// String returns the entry as a person would say it.
func (e Entry) String() string {
	verb := " lacks "
	if e.Held {
		verb = " holds "
	}
	return map[Kind]string{Server: "server", Namespace: "namespace", Channel: "channel", Package: "package"}[e.Kind] + " " + e.Role + verb + e.Permission
}

// Entries returns the cells of the role table for a kind: each role with each of the permissions.
func Entries(kind Kind, permissions ...Permission) (out []Entry) {
	for _, role := range []string{Owner, Maintainer, Member} {
		for _, p := range permissions {
			out = append(out, Entry{kind, role, p, table[kind][role][p]})
		}
	}
	return out
}

// Flip turns an entry round. It must not run beside decisions that the race detector watches.
func Flip(e Entry) (undo func()) {
	before := table[e.Kind][e.Role]
	after := maps.Clone(before)
	if before[e.Permission] {
		delete(after, e.Permission)
	} else {
		after[e.Permission] = true
	}
	table[e.Kind][e.Role] = after
	return func() { table[e.Kind][e.Role] = before }
}

// FlipDefaultNamespace turns round whether a member of the server makes channels in the default namespace.
func FlipDefaultNamespace() (undo func()) {
	before := serverMemberInDefault
	serverMemberInDefault = set()
	return func() { serverMemberInDefault = before }
}
