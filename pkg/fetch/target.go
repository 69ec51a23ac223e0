package fetch

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

// target resolves a path below the base, or an absolute URL. The result holds no credentials.
func (r *Remote) target(path, absolute string, query url.Values) (*url.URL, error) {
	var u *url.URL
	switch {
	case path != "" && absolute != "":
		return nil, fault.Field("path", "a request has a path or a URL, not both")
	case absolute != "":
		ref, err := url.Parse(absolute)
		if err != nil {
			return nil, fault.Field("url", "the URL cannot be parsed")
		}
		if !ref.IsAbs() {
			return nil, fault.Field("url", "the URL must be absolute")
		}
		u = r.base.ResolveReference(ref) // also removes dot segments
		u.Scheme = strings.ToLower(u.Scheme)
		u.User, u.Fragment, u.RawFragment = nil, "", ""
	case path == "":
		c := *r.base
		u = &c
	default:
		clean, err := names.CleanPath(path, names.AllowTrailingSlash())
		if err != nil {
			return nil, err
		}
		if clean != path {
			clean += "/"
		}
		c := *r.base
		// S3 and its kin read a plus sign in a path as a space; %2B means the same to everybody.
		c.RawPath = r.base.EscapedPath() + strings.ReplaceAll((&url.URL{Path: clean}).EscapedPath(), "+", "%2B")
		c.Path = r.base.Path + clean
		u = &c
	}
	if len(query) > 0 {
		q := query.Encode()
		if u.RawQuery != "" {
			q = u.RawQuery + "&" + q
		}
		u.RawQuery = q
	}
	return u, nil
}

// withCredentials returns the URL as it is sent to the own origin.
func (r *Remote) withCredentials(u *url.URL) *url.URL {
	if r.token == "" && r.query == "" {
		return u
	}
	c := *u
	if prefix := "/t/" + r.token + "/"; r.token != "" && !strings.HasPrefix(c.Path, prefix) {
		c.RawPath = "/t/" + url.PathEscape(r.token) + c.EscapedPath()
		c.Path = "/t/" + r.token + c.Path
	}
	if r.query != "" && !strings.Contains(c.RawQuery, r.query) {
		if c.RawQuery != "" {
			c.RawQuery += "&"
		}
		c.RawQuery += r.query
	}
	return &c
}

// withoutCredentials undoes withCredentials on a URL of the own origin, such as a redirect that repeats the token.
func (r *Remote) withoutCredentials(u *url.URL) *url.URL {
	c := *u
	if prefix := "/t/" + r.token + "/"; r.token != "" && strings.HasPrefix(c.Path, prefix) {
		_, c.RawPath, _ = strings.Cut(c.EscapedPath(), url.PathEscape(r.token))
		c.Path = c.Path[len(prefix)-1:]
	}
	if r.query != "" {
		c.RawQuery = strings.TrimSuffix(strings.TrimSuffix(c.RawQuery, r.query), "&")
	}
	return &c
}

// hop is one request of a redirect chain.
type hop struct {
	url     *url.URL // without our credentials
	trusted bool     // the chain has not left the own origin
}

// redirect decides where a response with a Location leads. cur is where the request went, without our credentials.
func (r *Remote) redirect(cur hop, resp *http.Response) (hop, error) {
	loc := resp.Header.Get("Location")
	ref, err := url.Parse(loc)
	if loc == "" || err != nil {
		return hop{}, fail(cur.url, ReasonBadTarget, never, "upstream redirects without a usable Location")
	}
	next := hop{url: cur.url.ResolveReference(ref)}
	next.url.Scheme = strings.ToLower(next.url.Scheme)
	next.url.User, next.url.Fragment, next.url.RawFragment = nil, "", ""
	next.trusted = cur.trusted && origin(next.url) == r.origin
	if cur.url.Scheme == "https" && next.url.Scheme == "http" &&
		(r.downgrade == DowngradeNever || r.downgrade == DowngradeWithoutCredentials && r.hasCredentials()) {
		return hop{}, fail(cur.url, ReasonBadTarget, never, "upstream redirects from https to http, at %s", redactURL(next.url))
	}
	if next.trusted {
		next.url = r.withoutCredentials(next.url)
		return next, nil
	}
	for _, s := range r.secrets {
		if strings.Contains(next.url.String(), s) {
			return hop{}, fail(cur.url, ReasonBadTarget, never, "upstream redirects to another origin with our credentials in the URL")
		}
	}
	return next, nil
}
