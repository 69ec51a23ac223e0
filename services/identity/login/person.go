package login

import (
	"slices"
	"strings"
)

// Person is who somebody is, as a provider says.
type Person struct {
	// Issuer is the provider's own name for itself: its issuer or URL.
	Issuer string
	// Subject is theirs for ever; all else may pass on to others.
	Subject string
	// Username is what they are called there; it may be empty.
	Username string
	// Name is what to show, AvatarURL a picture; both may be empty.
	Name, AvatarURL string
	// Email is empty unless the provider has verified it.
	Email string
	// Domain is the organisation's domain that the provider vouches for.
	Domain string
	// Groups are the groups they are in there.
	Groups []string
}

// is reports whether a list of names, addresses and sub:<subject> holds the person.
func (p Person) is(list []string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		if subject, ok := strings.CutPrefix(s, "sub:"); ok {
			return subject == p.Subject
		}
		return s != "" && (strings.EqualFold(s, p.Username) || strings.EqualFold(s, p.Email))
	})
}

// Allowed reports whether the person may log in.
func (c ProviderConfig) Allowed(p Person) bool {
	if len(c.AllowedUsers)+len(c.AllowedGroups)+len(c.AllowedDomains) == 0 {
		return true
	}
	return p.is(c.AllowedUsers) || slices.ContainsFunc(c.AllowedGroups, func(g string) bool { return slices.Contains(p.Groups, g) }) ||
		p.Domain != "" && slices.ContainsFunc(c.AllowedDomains, func(d string) bool { return strings.EqualFold(d, p.Domain) })
}

// RoleFor returns the server role that a new user gets.
func (c ProviderConfig) RoleFor(p Person) string {
	switch {
	case p.is(c.Admins):
		return "owner"
	case p.is(c.Maintainers):
		return "maintainer"
	case p.is(c.Members):
		return "member"
	}
	return c.DefaultRole
}

// maxGroups bounds how many groups of a person count: beyond are directories that put everybody into everything.
const maxGroups = 500

// GroupsFor returns the names of the groups here that the person belongs into because of those there.
func (c ProviderConfig) GroupsFor(provider string, p Person) []string {
	var out []string
	for _, theirs := range p.Groups[:min(len(p.Groups), maxGroups)] {
		if ours := c.Groups[theirs]; ours != "" {
			out = append(out, ours)
		}
		if c.SyncGroups {
			if name := SyncedGroup(provider, theirs); len(name) <= 255 {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SyncedGroup returns the name that a provider's group has here. No two groups there have one name, nor does a group that
// somebody made here: what a stranger calls their group must not make them a member of another.
func SyncedGroup(provider, group string) string {
	var b strings.Builder
	const hex = "0123456789abcdef"
	for i := range len(group) {
		switch c := group[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			b.WriteByte(c)
		case c == '/':
			b.WriteByte('~')
		default:
			b.Write([]byte{'=', hex[c>>4], hex[c&15]})
		}
	}
	return b.String() + "@" + provider
}

// Suggest returns a login name for a new user: what they are called there, in characters that names here have.
func (p Person) Suggest() string {
	for _, s := range []string{p.Username, p.Email} {
		s, _, _ = strings.Cut(s, "@")
		s = strings.Map(func(c rune) rune {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
				return c
			}
			return '-'
		}, s)
		s = strings.Trim(s[:min(len(s), 48)], "-._") // the rest of 64 is for what tells two apart
		if s != "" {
			return s
		}
	}
	return "user"
}
