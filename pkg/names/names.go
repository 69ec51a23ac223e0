package names

import (
	"regexp"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Limits in bytes; all but the paths' are the dialects' own.
const (
	MaxChannel   = 50
	MaxPackage   = 1500
	MaxNamespace = 255
	MaxUser      = 255
)

// ChannelName is a valid channel name as its creator spelled it. Channels are unique without regard to case:
// compare and store by Key.
type ChannelName string

// String returns the name as it was given.
func (n ChannelName) String() string { return string(n) }

// Key returns the form in which two names of one channel are equal.
func (n ChannelName) Key() string { return strings.ToLower(string(n)) }

// reservedChannels are first segments of routes: /api/channels/search and the token prefix /t/<key>/.
var reservedChannels = map[string]bool{"search": true, "t": true}

// ParseChannel checks a channel name. The field of its errors is "name".
func ParseChannel(s string) (ChannelName, error) {
	const field = "name"
	if s == "" {
		return "", fault.Field(field, "channel name should not be empty")
	}
	if strings.Contains(s, "_") {
		return "", fault.Field(field, "_ should not be used in channel name")
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return "", fault.Field(field, "only ASCII characters should be used in channel name")
		}
	}
	if len(s) > MaxChannel {
		return "", fault.Field(field, "String should have at most %d characters", MaxChannel)
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '.' && c != '-' && c != '+' {
			return "", fault.Field(field, "only letters, digits, ., - and + should be used in channel name")
		}
	}
	if !alnum(s[0]) {
		return "", fault.Field(field, "channel name should start with a letter or digit")
	}
	n := ChannelName(s)
	if reservedChannels[n.Key()] {
		return "", fault.Field(field, "%s is reserved and cannot be used as channel name", n.Key())
	}
	return n, nil
}

// PackageName is a valid package name of a channel. Unlike a conda package name as CEP 26 has it, it may be up to
// 1500 bytes long and begin with a sign: it is what Quetz accepts.
type PackageName string

// String returns the name.
func (n PackageName) String() string { return string(n) }

// ParsePackage checks a package name. The field of its errors is "name".
func ParsePackage(s string) (PackageName, error) {
	const field = "name"
	switch {
	case s == "":
		return "", fault.Field(field, "package name should not be empty")
	case s == "." || s == "..":
		return "", fault.Field(field, "package name should not be . or ..")
	case len(s) > MaxPackage:
		return "", fault.Field(field, "String should have at most %d characters", MaxPackage)
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "", fault.Field(field, `String should match pattern '^[a-z0-9-_\.]*$'`)
		}
	}
	return PackageName(s), nil
}

// NamespaceName is a valid namespace: the tenant of every channel, remote, environment, site and job.
type NamespaceName string

// String returns the name.
func (n NamespaceName) String() string { return string(n) }

// EnvironmentName is the valid name of an environment within its namespace.
type EnvironmentName string

// String returns the name.
func (n EnvironmentName) String() string { return string(n) }

// UserName is the valid login name of a user.
type UserName string

// String returns the name.
func (n UserName) String() string { return string(n) }

// arnPattern is what conda-store allows in each half of an ARN; callers find its text in the message.
const arnPattern = `^[A-Za-z0-9-+_@$&?^~.=]+$`

var arnName = regexp.MustCompile(arnPattern)

// ParseNamespace checks the name of a namespace. The field of its errors is "namespace".
func ParseNamespace(s string) (NamespaceName, error) {
	if err := parseARN("namespace", "Namespace", s); err != nil {
		return "", err
	}
	return NamespaceName(s), nil
}

// ParseEnvironment checks the name of an environment. The field of its errors is "environment".
func ParseEnvironment(s string) (EnvironmentName, error) {
	if err := parseARN("environment", "Environment", s); err != nil {
		return "", err
	}
	return EnvironmentName(s), nil
}

// ParseUser checks a login name. A user's name becomes that of the user's own namespace, so it obeys the same rule,
// and does not begin with a sign, because roles and patterns give signs a meaning there. The field of its errors is "username".
func ParseUser(s string) (UserName, error) {
	if err := parseARN("username", "Username", s); err != nil {
		return "", err
	}
	if !alnum(s[0]) && s[0] != '_' {
		return "", fault.Field("username", "username should start with a letter, a digit or _")
	}
	return UserName(s), nil
}

func parseARN(field, title, s string) error {
	switch {
	case s == "":
		return fault.Field(field, "%s should not be empty", strings.ToLower(title))
	case len(s) > MaxNamespace:
		return fault.Field(field, "%s should have at most %d characters", strings.ToLower(title), MaxNamespace)
	case !arnName.MatchString(s):
		return fault.Field(field, "%s='%s' is not valid does not match regex %s", title, printable(s), arnPattern)
	case strings.Trim(s, ".") == "":
		return fault.Field(field, "%s='%s' is not valid: a name becomes a path", title, s)
	}
	return nil
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
