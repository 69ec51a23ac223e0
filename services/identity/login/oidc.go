package login

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// openID is OpenID Connect: the kinds oidc, gitlab, google and azure.
type openID struct {
	conf ProviderConfig
	url  string
	http *http.Client
	now  func() time.Time

	mu    sync.Mutex
	found *discovered
}

// discovered is what the provider says of itself.
type discovered struct {
	*oidc.Provider
	basic bool // it takes the client's secret as Basic credentials
	user  bool // it has a userinfo endpoint
	at    time.Time
}

// rediscover is how old a discovery may become: providers move their endpoints seldom.
const rediscover = time.Hour

// algorithms are the signatures that count: those with a public key.
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

func newOIDC(conf ProviderConfig, client *http.Client, now func() time.Time) *openID {
	o := &openID{conf: conf, url: conf.URL, http: client, now: now}
	switch conf.Kind {
	case "google":
		o.url = "https://accounts.google.com"
	case "azure":
		o.url = "https://login.microsoftonline.com/" + conf.Tenant + "/v2.0"
	case "gitlab":
		if o.url == "" {
			o.url = "https://gitlab.com"
		}
	}
	return o
}

func (o *openID) issuer() string { return o.url }

func (o *openID) revokeURL() string {
	switch o.conf.Kind {
	case "google":
		return "https://myaccount.google.com/connections"
	case "azure":
		return "https://myapps.microsoft.com/"
	case "gitlab":
		return strings.TrimSuffix(o.url, "/") + "/-/user_settings/applications"
	}
	return ""
}

// discover asks the provider about itself, once an hour. If it does not answer, what it said before still holds.
func (o *openID) discover(ctx context.Context) (*discovered, error) {
	o.mu.Lock()
	defer o.mu.Unlock() // those who come meanwhile want the same
	if o.found != nil && o.now().Sub(o.found.at) < rediscover {
		return o.found, nil
	}
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, o.http), o.url)
	if err != nil {
		if o.found != nil {
			return o.found, nil
		}
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var doc struct {
		Methods  []string `json:"token_endpoint_auth_methods_supported"`
		UserInfo string   `json:"userinfo_endpoint"`
	}
	if err := p.Claims(&doc); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	basic := len(doc.Methods) == 0 || slices.Contains(doc.Methods, "client_secret_basic") // the default; OpenID Connect Discovery, 3
	o.found = &discovered{Provider: p, basic: basic, user: doc.UserInfo != "", at: o.now()}
	return o.found, nil
}

func (o *openID) begin(ctx context.Context, f Flow) (oauth2.Endpoint, []string, []oauth2.AuthCodeOption, error) {
	d, err := o.discover(ctx)
	if err != nil {
		return oauth2.Endpoint{}, nil, nil, err
	}
	e := d.Endpoint()
	// Never tried both ways: the first failure could use up the code.
	e.AuthStyle = oauth2.AuthStyleInParams
	if d.basic {
		e.AuthStyle = oauth2.AuthStyleInHeader
	}
	return e, []string{oidc.ScopeOpenID, "profile", "email"}, []oauth2.AuthCodeOption{oidc.Nonce(f.Nonce)}, nil
}

// claims are those that are looked at, of an ID token or of userinfo.
type claims map[string]any

func (c claims) text(name string) string { s, _ := c[name].(string); return s }

func (c claims) list(name string) []string {
	switch v := c[name].(type) {
	case string: // some directories send a single group so
		return []string{v}
	case []any:
		out := make([]string, 0, len(v))
		for _, x := range v {
			if s, ok := x.(string); ok && s != "" {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func (o *openID) who(ctx context.Context, f Flow, token *oauth2.Token) (Person, error) {
	d, err := o.discover(ctx)
	if err != nil {
		return Person{}, err
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return Person{}, distrust("there is no ID token")
	}
	id, err := d.VerifierContext(oidc.ClientContext(ctx, o.http), &oidc.Config{ClientID: o.conf.ClientID, SupportedSigningAlgs: algorithms, Now: o.now}).Verify(ctx, raw)
	if err != nil {
		return Person{}, distrust(fmt.Sprintf("the ID token: %.200v", err))
	}
	if f.Nonce == "" || subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Nonce)) != 1 {
		return Person{}, distrust("the ID token has another nonce")
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return Person{}, distrust("the ID token was made for another access token")
		}
	}
	c := claims{}
	if err := id.Claims(&c); err != nil {
		return Person{}, distrust("the ID token holds no claims")
	}
	if azp := c.text("azp"); (azp != "" || len(id.Audience) > 1) && azp != o.conf.ClientID {
		return Person{}, distrust("the ID token was made for another party")
	}
	if d.user && o.wants(c) {
		info, err := d.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err != nil {
			return Person{}, fmt.Errorf("userinfo: %w", err)
		}
		if info.Subject != id.Subject {
			return Person{}, distrust("userinfo is about somebody else")
		}
		more := claims{}
		if err := info.Claims(&more); err != nil {
			return Person{}, fmt.Errorf("userinfo: %w", err)
		}
		for k, v := range more {
			if _, ok := c[k]; !ok { // what is signed comes first
				c[k] = v
			}
		}
	}
	return o.person(id.Issuer, id.Subject, c), nil
}

// wants reports whether the ID token lacks what userinfo may have.
func (o *openID) wants(c claims) bool {
	return o.name(c) == "" || c.text("name") == "" || c.text("email") == "" || (o.conf.needsGroups() && o.groups(c) == nil)
}

func (o *openID) name(c claims) string {
	names := []string{"preferred_username", "nickname", "upn"}
	if o.conf.UsernameClaim != "" {
		names = []string{o.conf.UsernameClaim}
	}
	for _, n := range names {
		if s := c.text(n); s != "" {
			return s
		}
	}
	return ""
}

func (o *openID) groups(c claims) []string {
	names := []string{"groups"}
	switch {
	case o.conf.GroupsClaim != "":
		names = []string{o.conf.GroupsClaim}
	case o.conf.Kind == "gitlab":
		names = []string{"groups_direct", "groups"}
	}
	for _, n := range names {
		if _, ok := c[n]; ok {
			return c.list(n)
		}
	}
	return nil
}

func (o *openID) person(issuer, subject string, c claims) Person {
	p := Person{Issuer: issuer, Subject: subject, Username: o.name(c), Name: c.text("name"), AvatarURL: c.text("picture"), Groups: o.groups(c)}
	if verified, _ := c["email_verified"].(bool); verified || c.text("email_verified") == "true" {
		p.Email = c.text("email")
		if _, domain, ok := strings.Cut(p.Email, "@"); ok {
			p.Domain = domain
		}
	}
	if o.conf.Kind == "google" { // anybody can have an account there for an address elsewhere; hd says who speaks for the domain
		p.Domain = c.text("hd")
	}
	return p
}
