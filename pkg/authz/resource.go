package authz

import "strings"

// Kind is a kind of resource.
type Kind uint8

// The kinds, from the outermost to the innermost.
const (
	Server Kind = iota
	Namespace
	Channel
	Package
)

// DefaultNamespace is the tenant of whatever names none.
const DefaultNamespace = "default"

// Resource is what a permission is asked on. The zero Resource is the whole server.
type Resource struct {
	// Kind says which of the fields count.
	Kind Kind
	// ID is a channel's UUID, also for its packages.
	ID string
	// Name is the namespace's or package's name, or a channel's name as it is shown.
	Name string
	// Namespace is the tenant that a channel or package belongs to.
	Namespace string
	// Public is true if anyone may read it.
	Public bool
}

// NamespaceOf returns the resource that a namespace is; an empty name is the default one.
func NamespaceOf(name string) Resource {
	if name == "" {
		name = DefaultNamespace
	}
	return Resource{Kind: Namespace, Name: name, Namespace: name}
}

// PackageOf returns the resource that a package of the channel is.
func (r Resource) PackageOf(name string) Resource {
	r.Kind, r.Name = Package, name
	return r
}

// String returns the resource as bindings spell it.
func (r Resource) String() string {
	switch r.Kind {
	case Namespace:
		return "namespace/" + r.Name
	case Channel:
		return "channel/" + r.ID
	case Package:
		return "package/" + r.ID + "/" + r.Name
	}
	return "server"
}

// ParseResource reads what String writes; ok is false for anything else. What it cannot know stays empty: the
// namespace of a channel, and whether it is public.
func ParseResource(s string) (r Resource, ok bool) {
	kind, rest, _ := strings.Cut(s, "/")
	switch kind {
	case "server":
		return Resource{}, s == "server"
	case "namespace":
		return NamespaceOf(rest), rest != "" && !strings.Contains(rest, "/")
	case "channel":
		return Resource{Kind: Channel, ID: rest}, rest != "" && !strings.Contains(rest, "/")
	case "package":
		id, name, _ := strings.Cut(rest, "/")
		return Resource{Kind: Package, ID: id, Name: name}, id != "" && name != "" && !strings.Contains(name, "/")
	}
	return Resource{}, false
}
