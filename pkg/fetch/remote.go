package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

// Credentials are sent to a remote's own origin only. At most one of Username, Bearer and Header is set.
type Credentials struct {
	// Username and Password are for Basic authentication.
	Username, Password string
	// Bearer is sent as "Authorization: Bearer …".
	Bearer string
	// Header and HeaderValue are any other header, such as X-API-Key.
	Header, HeaderValue string
	// PathToken goes into the URL as /t/<token>/ before the path, as conda servers have it.
	PathToken string
	// Query is appended to the URL's query as it stands (the authentication token of SLES repositories).
	Query string
}

// Downgrade says what to do with a redirect from https to http.
type Downgrade uint8

const (
	// DowngradeWithoutCredentials follows it unless the request carried credentials: mirror networks still redirect to
	// http, and digests guard what comes from there.
	DowngradeWithoutCredentials Downgrade = iota
	// DowngradeNever refuses it.
	DowngradeNever
	// DowngradeAlways follows it; credentials stay behind in any case, as http is another origin.
	DowngradeAlways
)

// RemoteConfig is one upstream as its owner configured it.
type RemoteConfig struct {
	// Name is for logs. Kind is a constant of the calling code ("conda", "rpm", "crawler"), and the only label of metrics.
	Name, Kind string
	// BaseURL is http or https; user information in it becomes Basic credentials. Paths are joined below it.
	BaseURL     string
	Credentials Credentials
	// CABundle is PEM that is trusted besides the system's roots.
	CABundle []byte
	// ClientCert and ClientKey are PEM and shown to the own origin only.
	ClientCert, ClientKey []byte
	// InsecureSkipVerify accepts any certificate of the own origin.
	InsecureSkipVerify bool
	// ProxyURL is a http or https proxy, with its own user information if it needs any. Its address obeys the egress policy.
	ProxyURL string
	// Headers go to the own origin only, as they may hold secrets. A User-Agent is appended to ours, and goes everywhere.
	Headers http.Header
	// RateBytes (per second) and RateRequests (per second) bound this Remote as a whole; 0 means no limit.
	RateBytes    int64
	RateRequests float64
	// Attempts overrides Retry.Attempts if not 0; 1 means no retry.
	Attempts int
	// Timeouts override the client's where not zero.
	Timeouts  Timeouts
	Downgrade Downgrade
}

// Remote is one upstream. Its methods may be called concurrently.
type Remote struct {
	c         *Client
	name      string
	kind      string
	base      *url.URL // ends in "/", without user information
	origin    string
	auth      http.Header // for the own origin
	token     string
	query     string
	secrets   []string
	agent     string
	timeouts  Timeouts
	attempts  int
	downgrade Downgrade
	bytes     *rate.Limiter
	requests  *rate.Limiter

	home, away *http.Transport // to the own origin, to others
	owned      []*http.Transport

	proxied  bool
	mu       sync.Mutex
	resolved map[string]time.Time // with a proxy: names that were looked up and are fine, until when
}

// ownedHeaders are set by the client itself, or would break its framing.
var ownedHeaders = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Connection",
	"Accept-Encoding", "Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since",
}

// SettableHeader reports whether a header may authenticate at a remote: it is one that neither the client itself nor a
// proxy lives by.
func SettableHeader(name string) bool {
	name = http.CanonicalHeaderKey(name)
	return !slices.Contains(ownedHeaders, name) && name != "User-Agent" && name != "Proxy-Authorization"
}

// Remote checks cfg and returns the remote, or an Invalid error that names the field. Close it when it is no longer used.
func (c *Client) Remote(cfg RemoteConfig) (*Remote, error) {
	base, err := parseURL("url", cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fault.Field("url", "the base URL must not have a query or fragment")
	}
	creds := cfg.Credentials
	if base.User != nil {
		if creds != (Credentials{}) {
			return nil, fault.Field("url", "the base URL must not hold credentials beside the configured ones")
		}
		creds.Username = base.User.Username()
		creds.Password, _ = base.User.Password()
		base.User = nil
	}
	if !strings.HasSuffix(base.Path, "/") {
		base = base.JoinPath("/")
	}
	r := &Remote{
		c: c, name: cfg.Name, kind: orDefault(cfg.Kind, "other"), base: base, origin: origin(base), auth: http.Header{},
		agent: c.cfg.UserAgent, timeouts: cfg.Timeouts.or(c.cfg.Timeouts), downgrade: cfg.Downgrade,
		attempts: orDefault(cfg.Attempts, c.cfg.Retry.Attempts),
	}
	if cfg.Attempts < 0 {
		return nil, fault.Field("attempts", "attempts must not be negative; 1 means no retry")
	}
	if err := cfg.Timeouts.validate(); err != nil {
		return nil, err
	}
	if err := r.setHeaders(cfg.Headers); err != nil {
		return nil, err
	}
	if err := r.setCredentials(creds); err != nil {
		return nil, err
	}
	if cfg.RateBytes < 0 || cfg.RateRequests < 0 {
		return nil, fault.Field("rate", "rates must not be negative")
	}
	if cfg.RateBytes > 0 {
		// a burst of a read buffer at least, or a slow rate could never be served
		r.bytes = rate.NewLimiter(rate.Limit(cfg.RateBytes), int(max(cfg.RateBytes/4, 64<<10)))
	}
	if cfg.RateRequests > 0 {
		r.requests = rate.NewLimiter(rate.Limit(cfg.RateRequests), 1)
	}
	return r, r.setTransports(cfg)
}

// Close closes the idle connections that are this remote's own.
func (r *Remote) Close() {
	for _, t := range r.owned {
		r.c.dropTransport(t)
	}
}

// BaseURL returns the base URL without credentials; it ends in a slash.
func (r *Remote) BaseURL() string { return r.base.String() }

func (r *Remote) setHeaders(h http.Header) error {
	for k, vs := range h {
		k = http.CanonicalHeaderKey(k)
		if !httpguts.ValidHeaderFieldName(k) || slices.Contains(ownedHeaders, k) {
			return fault.Field("headers", "header %.40q cannot be set", k)
		}
		for _, v := range vs {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fault.Field("headers", "the value of header %s is not valid", k)
			}
		}
		if k == "User-Agent" {
			r.agent += " " + strings.Join(vs, " ")
			continue
		}
		r.auth[k] = slices.Clone(vs)
	}
	return nil
}

func (r *Remote) setCredentials(c Credentials) error {
	kinds := 0
	if c.Username != "" || c.Password != "" {
		kinds++
		if strings.Contains(c.Username, ":") {
			return fault.Field("credentials", "a user name must not hold a colon")
		}
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(c.Username, c.Password)
		r.auth["Authorization"] = req.Header["Authorization"]
	}
	if c.Bearer != "" {
		kinds++
		r.auth.Set("Authorization", "Bearer "+c.Bearer)
	}
	if c.Header != "" {
		kinds++
		key := http.CanonicalHeaderKey(c.Header)
		if !httpguts.ValidHeaderFieldName(key) || !SettableHeader(key) {
			return fault.Field("credentials", "header %.40q cannot be set", key)
		}
		r.auth.Set(key, c.HeaderValue)
	}
	if kinds > 1 {
		return fault.Field("credentials", "only one of user name, bearer token and header can be used")
	}
	if !httpguts.ValidHeaderFieldValue(c.Bearer) || !httpguts.ValidHeaderFieldValue(c.HeaderValue) {
		return fault.Field("credentials", "the token holds characters that cannot be sent")
	}
	if c.PathToken != "" {
		if t, err := names.CleanPath(c.PathToken); err != nil || strings.Contains(t, "/") {
			return fault.Field("credentials", "the token cannot be part of a path")
		}
	}
	if strings.ContainsFunc(c.Query, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) {
		return fault.Field("credentials", "the query token holds characters that cannot be sent")
	}
	r.token, r.query = c.PathToken, strings.TrimPrefix(c.Query, "?")
	for _, s := range []string{c.Password, c.Bearer, c.HeaderValue, c.PathToken, r.query} {
		if len(s) >= 6 { // a shorter one would be found in innocent URLs
			r.secrets = append(r.secrets, s, url.QueryEscape(s), url.PathEscape(s))
		}
	}
	return nil
}

func (r *Remote) setTransports(cfg RemoteConfig) error {
	var proxy *url.URL
	if cfg.ProxyURL != "" {
		var err error
		if proxy, err = parseURL("proxy_url", cfg.ProxyURL); err != nil {
			return err
		}
		r.proxied, r.resolved = true, map[string]time.Time{}
	}
	var roots *x509.CertPool
	if len(cfg.CABundle) > 0 {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(cfg.CABundle) {
			return fault.Field("ca_cert", "the CA bundle holds no PEM certificate")
		}
	}
	var cert []tls.Certificate
	if len(cfg.ClientCert) > 0 || len(cfg.ClientKey) > 0 {
		pair, err := tls.X509KeyPair(cfg.ClientCert, cfg.ClientKey)
		if err != nil {
			return fault.Field("client_cert", "client certificate and key are not a PEM pair") // err may quote the key's surroundings
		}
		cert = []tls.Certificate{pair}
	}
	r.home, r.away = r.c.base, r.c.base
	if proxy != nil || roots != nil || r.timeouts != r.c.cfg.Timeouts {
		t := r.c.ownTransport(r.timeouts, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, proxy)
		r.home, r.away = t, t
		r.owned = append(r.owned, t)
	}
	if cert != nil || cfg.InsecureSkipVerify {
		r.home = r.c.ownTransport(r.timeouts, &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12, Certificates: cert, InsecureSkipVerify: cfg.InsecureSkipVerify,
		}, proxy)
		r.owned = append(r.owned, r.home)
	}
	return nil
}

// hasCredentials reports whether requests to the own origin carry anything that another origin must not see.
func (r *Remote) hasCredentials() bool { return len(r.auth) > 0 || r.token != "" || r.query != "" }

// parseURL never quotes its input: that may hold a password.
func parseURL(field, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fault.Field(field, "the URL cannot be parsed")
	}
	u.Scheme = strings.ToLower(u.Scheme)
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Field(field, "the URL must begin with http:// or https://")
	}
	if u.Hostname() == "" || u.Opaque != "" {
		return nil, fault.Field(field, "the URL has no host")
	}
	return u, nil
}
