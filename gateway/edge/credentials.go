package edge

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// SessionCookie is the name of the login cookie.
const SessionCookie = "entrepot_session"

// Credentials are what a request brought to say who sends it; at most one field is set.
type Credentials struct {
	// APIKey came in X-API-Key, Authorization or the path.
	APIKey string
	// Session is the login cookie's value. Requests that live from it are subject to the same-origin rule.
	Session string
}

// credentialsOf reads a request's credentials in the order of the Quetz dialect: header, path token, cookie.
// A key that was sent decides even if it turns out to be worthless; the cookie is then not looked at.
func credentialsOf(r *http.Request, pathToken string) Credentials {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return Credentials{APIKey: key}
	}
	if auth := r.Header.Get("Authorization"); auth != "" {
		scheme, rest, _ := strings.Cut(auth, " ")
		rest = strings.TrimSpace(rest)
		switch {
		case strings.EqualFold(scheme, "Bearer") && rest != "":
			return Credentials{APIKey: rest}
		case strings.EqualFold(scheme, "Basic"):
			// Package clients send the key as the password, with any user name.
			if raw, err := base64.StdEncoding.DecodeString(rest); err == nil {
				if _, password, ok := strings.Cut(string(raw), ":"); ok && password != "" {
					return Credentials{APIKey: password}
				}
			}
			return Credentials{APIKey: "invalid"}
		}
	}
	if pathToken != "" {
		return Credentials{APIKey: pathToken}
	}
	if c, err := r.Cookie(SessionCookie); err == nil && c.Value != "" {
		return Credentials{Session: c.Value}
	}
	return Credentials{}
}

// cutPathToken takes `t/<token>` out of a path: in front (`/t/<token>/get/c/…`), or after the first segment
// (`/get/t/<token>/c/…`), where conda puts it when it builds URLs from a channel alias.
func cutPathToken(path string) (rest, token string) {
	for _, prefix := range []string{"", "/get", "/channels"} {
		if after, ok := strings.CutPrefix(path, prefix+"/t/"); ok {
			if token, rest, _ = strings.Cut(after, "/"); token != "" {
				return prefix + "/" + rest, token
			}
		}
	}
	return path, ""
}

// checkSameOrigin refuses a changing request that lives from the login cookie but comes from another web page.
// Browsers send Sec-Fetch-Site or Origin with such requests; programs that send neither carry no ambient cookie.
func checkSameOrigin(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	site := r.Header.Get("Sec-Fetch-Site")
	origin := r.Header.Get("Origin")
	if site == "cross-site" || site == "same-site" {
		return fault.New(fault.Denied, "a login cookie is only taken from our own pages; use an API key").WithReason("CROSS_SITE")
	}
	if origin != "" {
		_, host, ok := strings.Cut(origin, "://")
		if !ok || !strings.EqualFold(host, r.Host) {
			return fault.New(fault.Denied, "a login cookie is only taken from our own pages; use an API key").WithReason("CROSS_SITE")
		}
	}
	return nil
}
