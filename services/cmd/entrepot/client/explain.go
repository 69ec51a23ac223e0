package client

import (
	"errors"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// flagOf names the flag or argument that a field of a request was filled from.
var flagOf = map[string]string{
	"name": "NAME", "channel": "CHANNEL", "filename": "FILE",
	"mirror": "--mirror", "mirror.url": "--mirror", "url": "--mirror",
	"mirror.removal_policy": "--removal", "mirror.includelist": "--include", "mirror.excludelist": "--exclude", "mirror.subdirs": "--subdir",
	"expire_time": "--expires", "roles": "--role", "server": "--server",
}

// Explain adds to an error what a person can do about it, and names flags instead of the request's fields. The kind,
// which decides the exit code, stays.
func Explain(err error, c *restclient.Client) error {
	var f *fault.Error
	if err == nil || !errors.As(err, &f) {
		return err
	}
	out := fault.New(f.Kind, "%w", err).WithReason(f.Reason)
	for _, v := range f.Violations {
		field, rest, _ := strings.Cut(v.Field, "[")
		if flag, ok := flagOf[field]; ok {
			v.Field = flag
			if rest != "" {
				v.Field += "[" + rest
			}
		}
		out.Violations = append(out.Violations, v)
	}
	if len(f.Violations) == 1 && f.Violations[0].Description == f.Message {
		// One field is all there is to say: one line says it.
		if field := out.Violations[0].Field; !strings.Contains(f.Message, field) {
			out.Message += " (" + field + ")"
		}
		out.Violations = nil
	}
	switch {
	case f.Reason == restclient.Unreachable:
		out.Message += "\n  Is it running? 'entrepot serve' starts one here; --server or ENTREPOT_SERVER names another."
	case f.Kind == fault.Unauthenticated && !c.HasKey():
		out.Message += "\n  Log in with: entrepot login --server " + c.Server()
	case f.Kind == fault.Unauthenticated:
		out.Message += "\n  The key is unknown, expired or revoked. Log in with another: entrepot login --server " + c.Server()
	case f.Kind == fault.NotFound && !c.HasKey():
		out.Message += "\n  Private channels show themselves to members only: entrepot login --server " + c.Server()
	}
	return out
}
