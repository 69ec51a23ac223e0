package authn

import "context"

// Grant is a role on a resource, as a scoped key carries it.
type Grant struct {
	// Role is owner, maintainer or member.
	Role string
	// Resource is `server`, `namespace/<name>`, `channel/<uuid>` or `package/<channel uuid>/<name>`.
	Resource string
}

// Caller is who makes a call. The zero Caller is anonymous.
type Caller struct {
	// UserID is the user's UUID; empty for anonymous callers and for parts of the platform.
	UserID string
	// Name is the user's login name, or `service:<name>`.
	Name string
	// KeyID is the public id of the API key that was used; empty with a login cookie.
	KeyID string
	// Scoped is true if the key narrows its user to Scope, also if Scope is empty.
	Scoped bool
	// Scope holds the only roles of a scoped key.
	Scope []Grant
	// Target names the part of the platform that acts as itself, such as `gateway`; empty for users.
	Target string
	// JobID is the UUID of the job on whose behalf the call is made.
	JobID string
	// Claim is that job's claim, its fencing token.
	Claim int64
}

// Anonymous reports whether nobody is logged in.
func (c Caller) Anonymous() bool { return c.UserID == "" && c.Target == "" }

// Platform reports whether a part of the platform calls: as itself, or for a job that it holds.
func (c Caller) Platform() bool { return c.Target != "" || c.JobID != "" }

// Actor is how the audit log names the caller: a login name, `service:<name>` or `anonymous`.
func (c Caller) Actor() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Target != "":
		return "service:" + c.Target
	case c.UserID != "":
		return c.UserID
	}
	return "anonymous"
}

// Service returns the caller that a part of the platform is when it acts as itself.
func Service(name string) Caller { return Caller{Target: name, Name: "service:" + name} }

type callerKey struct{}

// NewContext returns a context whose calls are made by c.
func NewContext(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// FromContext returns the caller; without one it is anonymous.
func FromContext(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// Self is the Target of WithSelf's caller. A client puts its own name in its place, so that code which acts for its
// process need not know what that process is called.
const Self = "self"

// WithSelf returns a context whose calls are made by the process itself, not by the user it serves.
func WithSelf(ctx context.Context) context.Context { return NewContext(ctx, Service(Self)) }
