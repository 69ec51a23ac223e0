package edge

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Site is where the edge is reached from outside, and what follows from that for cookies. The zero Site is where a
// request came to, over http.
type Site struct {
	// PublicURL is http or https; empty is what a request came to.
	PublicURL string
	// TrustedProxies are the addresses of our own reverse proxies: what they say in X-Forwarded-For about whom they speak
	// for is believed. It decides whose attempts to log in are counted together, and nothing else.
	TrustedProxies []netip.Prefix
}

// clientAddress is where a request comes from. With trusted proxies it is the last address in X-Forwarded-For that is not
// one of theirs; what stands before it the client may have made up.
func (s Site) clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusted(at); i-- {
		before, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = before
	}
	return at.Unmap().WithZone("").String()
}

func (s Site) trusted(a netip.Addr) bool {
	return slices.ContainsFunc(s.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap().WithZone("")) })
}

// Secure reports whether browsers come by https. Then cookies carry the prefix __Host-: browsers send them nowhere else, and
// take them from nobody else, not even from a sibling of our host (RFC 6265bis, 4.1.3.2).
func (s Site) Secure() bool { return strings.HasPrefix(strings.ToLower(s.PublicURL), "https://") }

// Base is the public URL without a slash at its end.
func (s Site) Base(r *http.Request) string {
	switch {
	case s.PublicURL != "":
		return strings.TrimRight(s.PublicURL, "/")
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// Names of cookies, without the prefix.
const (
	// SessionCookie is the login.
	SessionCookie = "entrepot_session"
	// flowCookie is a login under way at a provider.
	flowCookie = "entrepot_login"
	// formCookie belongs to a login form that was shown.
	formCookie = "entrepot_form"
)

// CookieName returns the name that a cookie has here.
func (s Site) CookieName(name string) string {
	if s.Secure() {
		return "__Host-" + name
	}
	return name
}

// Cookie returns a cookie's value, or nothing.
func (s Site) Cookie(r *http.Request, name string) string {
	c, err := r.Cookie(s.CookieName(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// SetCookie gives the browser a cookie that no script can read; without a value it takes it away.
func (s Site) SetCookie(w http.ResponseWriter, name, value string, expires time.Time) {
	c := &http.Cookie{
		Name: s.CookieName(name), Value: value, Path: "/", Expires: expires, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.Secure(),
	}
	if value == "" {
		c.Expires, c.MaxAge = time.Time{}, -1
	}
	http.SetCookie(w, c)
}

// sameOrigin refuses a changing request that lives from a cookie, or would set one, but comes from another web page.
// Browsers send Sec-Fetch-Site or Origin with such requests; programs that send neither carry no ambient cookie.
func (s Site) sameOrigin(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	return s.ownPage(r)
}

// ownPage is sameOrigin for every method.
func (s Site) ownPage(r *http.Request) error {
	refused := fault.New(fault.Denied, "a login cookie is only taken from our own pages; use an API key").WithReason("CROSS_SITE")
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		return refused
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || strings.ContainsAny(host, "/@?#") {
		return refused
	}
	if s.PublicURL != "" {
		if u, err := url.Parse(s.PublicURL); err == nil && strings.EqualFold(u.Scheme, scheme) && strings.EqualFold(u.Host, host) {
			return nil
		}
	}
	// What came to another address of ours, such as a port of this machine. A page over http must not use an https login:
	// anybody on the way can write such a page.
	if !strings.EqualFold(host, r.Host) || (s.Secure() && !strings.EqualFold(scheme, "https")) {
		return refused
	}
	return nil
}

// LocalPath returns a path of ours to go to after a login: what is given if it is one, `/` for nothing. Anything that a
// browser could take for another server's is Invalid.
func LocalPath(next string) (string, error) {
	if next == "" {
		return "/", nil
	}
	bad := fault.Field("next", "next must be a path of this server, such as /channels")
	// Browsers take \ for /, and drop tabs and line ends before they look.
	if len(next) > 2048 || next[0] != '/' || strings.HasPrefix(next, "//") || strings.ContainsFunc(next, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f }) {
		return "", bad
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.HasPrefix(u.Path, "/\\") {
		return "", bad
	}
	return u.String(), nil
}
