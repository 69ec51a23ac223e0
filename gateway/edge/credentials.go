package edge

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// Credentials are what a request brought to say who sends it; at most one field is set.
type Credentials struct {
	// APIKey came in X-API-Key, Authorization or the path.
	APIKey string
	// Session is the login cookie's value. Requests that live from it are subject to the same-origin rule.
	Session string
}

// credentialsOf reads a request's credentials in the order of the Quetz dialect: header, path token, cookie.
// A key that was sent decides even if it turns out to be worthless; the cookie is then not looked at.
func credentialsOf(r *http.Request, pathToken string, site Site) Credentials {
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
	return Credentials{Session: site.Cookie(r, SessionCookie)}
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
