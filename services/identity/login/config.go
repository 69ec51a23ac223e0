package login

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Local is the name of the login by passwords that are kept here; no provider can have it.
const Local = "local"

// Config says how people log in.
type Config struct {
	// Passwords lets people log in with passwords that are kept here.
	Passwords bool `koanf:"passwords"`
	// SessionLifetime is how long a login lasts, whatever is done with it.
	SessionLifetime time.Duration `koanf:"session_lifetime"`
	// IdleTimeout ends a login that nobody uses.
	IdleTimeout time.Duration `koanf:"idle_timeout"`
	// Providers are other servers that say who somebody is, by a name that stands in /auth/<name>/login.
	Providers map[string]ProviderConfig `koanf:"providers"`
}

// ProviderConfig is one provider.
type ProviderConfig struct {
	// Kind is oidc, github, gitlab, google, azure or jupyterhub.
	Kind string `koanf:"kind"`
	// Title is what a button says; default the name.
	Title string `koanf:"title"`
	// ClientID and ClientSecret are what the provider gave when this server was registered there. The secret may stand in a
	// file instead.
	ClientID         string        `koanf:"client_id"`
	ClientSecret     config.Secret `koanf:"client_secret"`
	ClientSecretFile string        `koanf:"client_secret_file"`
	// URL is the issuer (oidc), or where the server is, as browsers reach it (github, gitlab, jupyterhub); the three public
	// ones need none.
	URL string `koanf:"url"`
	// APIURL is where this server reaches it, if that is elsewhere (github, jupyterhub).
	APIURL string `koanf:"api_url"`
	// Tenant is the directory of an organisation (azure).
	Tenant string `koanf:"tenant"`
	// Insecure allows http, where a password or a code could be read on the way. Loopback needs no leave.
	Insecure bool `koanf:"insecure"`
	// Scopes are asked for besides those that are needed.
	Scopes []string `koanf:"scopes"`
	// UsernameClaim and GroupsClaim say which claims hold the name and the groups (oidc, gitlab, google, azure).
	UsernameClaim string `koanf:"username_claim"`
	GroupsClaim   string `koanf:"groups_claim"`

	// AllowedUsers, AllowedGroups and AllowedDomains say who may log in: one of them must fit. None means everybody whom
	// the provider knows, which at a public one is everybody.
	AllowedUsers   []string `koanf:"allowed_users"`
	AllowedGroups  []string `koanf:"allowed_groups"`
	AllowedDomains []string `koanf:"allowed_domains"`
	// Closed makes no new users: only those log in whose account was linked to one.
	Closed bool `koanf:"closed"`
	// Admins, Maintainers and Members get the server role owner, maintainer or member when their user is made: names there,
	// verified e-mail addresses, or sub:<subject>. DefaultRole is for everybody else; default none.
	Admins      []string `koanf:"admins"`
	Maintainers []string `koanf:"maintainers"`
	Members     []string `koanf:"members"`
	DefaultRole string   `koanf:"default_role"`
	// Groups puts members of a group there into a group here, at each login; SyncGroups puts them into a group
	// <group>@<provider> for each group there.
	Groups     map[string]string `koanf:"groups"`
	SyncGroups bool              `koanf:"sync_groups"`
}

// DefaultConfig lets people log in by password, for a week, or until a day has passed without them.
func DefaultConfig() Config {
	return Config{Passwords: true, SessionLifetime: 7 * 24 * time.Hour, IdleTimeout: 24 * time.Hour}
}

// Kinds are the kinds of providers.
var Kinds = []string{"oidc", "github", "gitlab", "google", "azure", "jupyterhub"}

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?$`)
	tenantPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)
)

// Validate refuses what cannot work, naming every field.
func (c Config) Validate() error {
	var bad []fault.Violation
	fail := func(field, format string, args ...any) {
		bad = append(bad, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	if c.SessionLifetime < time.Minute || c.IdleTimeout < time.Minute {
		fail("login.session_lifetime", "session_lifetime and idle_timeout must be at least a minute, or nobody could work")
	}
	for name, p := range c.Providers {
		at := "login.providers." + name
		if !namePattern.MatchString(name) || name == Local || name == "logout" {
			fail(at, "%q cannot be a provider's name", name)
		}
		p.validate(func(field, format string, args ...any) { fail(at+"."+field, format, args...) })
	}
	if len(bad) == 0 {
		return nil
	}
	slices.SortFunc(bad, func(a, b fault.Violation) int { return strings.Compare(a.Field, b.Field) })
	err := fault.New(fault.Invalid, "the login settings cannot be used")
	err.Violations = bad
	return err
}

func (p ProviderConfig) validate(fail func(field, format string, args ...any)) {
	if !slices.Contains(Kinds, p.Kind) {
		fail("kind", "must be one of %s", strings.Join(Kinds, ", "))
		return
	}
	if p.ClientID == "" {
		fail("client_id", "is missing: the provider gave it when this server was registered there")
	}
	if p.ClientSecret.IsZero() == (p.ClientSecretFile == "") {
		fail("client_secret", "exactly one of client_secret and client_secret_file is needed")
	}
	if p.URL == "" && (p.Kind == "oidc" || p.Kind == "jupyterhub") {
		fail("url", "is missing")
	}
	if p.URL != "" && (p.Kind == "google" || p.Kind == "azure") {
		fail("url", "is known for %s; the kind oidc takes any", p.Kind)
	}
	for field, raw := range map[string]string{"url": p.URL, "api_url": p.APIURL} {
		if raw == "" {
			continue
		}
		if u, err := url.Parse(raw); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			fail(field, "must be a URL such as https://login.example.org")
		} else if u.Scheme == "http" && !p.Insecure && !loopback(u.Hostname()) {
			fail(field, "must be https, or insecure must be set")
		}
	}
	if p.APIURL != "" && p.Kind != "github" && p.Kind != "jupyterhub" {
		fail("api_url", "is for github and jupyterhub")
	}
	switch {
	case p.Kind != "azure" && p.Tenant != "":
		fail("tenant", "is for azure")
	case p.Kind == "azure" && (!tenantPattern.MatchString(p.Tenant) || slices.Contains([]string{"common", "organizations", "consumers"}, p.Tenant)):
		// Those stand for all directories of the world, and each signs with an issuer of its own.
		fail("tenant", "must be your directory's id")
	}
	if len(p.AllowedDomains) > 0 && (p.Kind == "github" || p.Kind == "jupyterhub") {
		fail("allowed_domains", "%s does not say who has which address; use allowed_groups or allowed_users", p.Kind)
	}
	if p.Kind == "google" && p.needsGroups() && p.GroupsClaim == "" {
		fail("allowed_groups", "google does not say who is in which group; use allowed_domains")
	}
	if (p.UsernameClaim != "" || p.GroupsClaim != "") && (p.Kind == "github" || p.Kind == "jupyterhub") {
		fail("username_claim", "%s has no claims", p.Kind)
	}
	switch {
	case !slices.Contains([]string{"", "member", "maintainer", "owner"}, p.DefaultRole):
		fail("default_role", "must be member, maintainer, owner or empty")
	case p.DefaultRole != "" && p.DefaultRole != "member" && !p.restricted():
		fail("default_role", "would make everybody %s; say who may log in", p.DefaultRole)
	}
	for _, ours := range p.Groups {
		if ours == "" || strings.Contains(ours, "@") {
			fail("groups", "%q cannot be a group's name here", ours)
		}
	}
}

func (p ProviderConfig) restricted() bool {
	return p.Closed || len(p.AllowedUsers)+len(p.AllowedGroups)+len(p.AllowedDomains) > 0
}

func (p ProviderConfig) needsGroups() bool {
	return len(p.AllowedGroups) > 0 || len(p.Groups) > 0 || p.SyncGroups
}

// secret returns the client's secret. A file is read at each login, so that it can be replaced.
func (p ProviderConfig) secret() (string, error) {
	if p.ClientSecretFile == "" {
		return p.ClientSecret.Reveal(), nil
	}
	data, err := os.ReadFile(p.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("client_secret_file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
