package edge

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
)

func TestOnlyPathsOfOursAreGoneTo(t *testing.T) {
	for next, want := range map[string]string{"": "/", "/": "/", "/channels/a?b=c": "/channels/a?b=c", "/a//b": "/a//b", "/x#y": "/x#y"} {
		if got, err := LocalPath(next); err != nil || got != want {
			t.Errorf("%q: %q %v", next, got, err)
		}
	}
	for _, next := range []string{"//evil.example", "/\\evil.example", "https://evil.example", "evil", "/%2fevil.example", "/%5cevil.example", "/a\nb", "/\t/evil.example", " /a", "javascript:x", "/a\\b"} {
		if got, err := LocalPath(next); err == nil {
			t.Errorf("%q: %q", next, got)
		}
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "//x", "/\\x", "/%2f%2fx", "/a?b#c", "/;//x"} {
		f.Add(s)
	}
	base, err := url.Parse("https://ours.example/auth/p/authorize")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got, err := LocalPath(next)
		if err != nil {
			return
		}
		to, err := base.Parse(got)
		if err != nil || to.Host != base.Host || to.Scheme != "https" {
			t.Errorf("%q leads to %v (%v)", next, to, err)
		}
	})
}

func TestOwnPages(t *testing.T) {
	for name, c := range map[string]struct {
		public, host, origin, site string
		ok                         bool
	}{
		"a program":                  {"", "h:8000", "", "", true},
		"our page":                   {"", "h:8000", "http://h:8000", "same-origin", true},
		"typed by the user":          {"", "h:8000", "", "none", true},
		"another page":               {"", "h:8000", "http://evil", "cross-site", false},
		"a sibling":                  {"", "h:8000", "", "same-site", false},
		"nobody's":                   {"", "h:8000", "null", "", false},
		"behind a proxy":             {"https://pub.example", "inner:8000", "https://pub.example", "same-origin", true},
		"https, page over http":      {"https://pub.example", "pub.example", "http://pub.example", "", false},
		"https, another port":        {"https://pub.example", "pub.example", "https://pub.example:444", "", false},
		"https, host is the proxy's": {"https://pub.example", "inner:8000", "http://inner:8000", "", false},
		"user information":           {"", "h:8000", "http://evil@h:8000", "", false},
		"a path":                     {"", "h:8000", "http://h:8000/", "", false},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if c.site != "" {
			r.Header.Set("Sec-Fetch-Site", c.site)
		}
		if err := (Site{PublicURL: c.public}).sameOrigin(r); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASecureSiteKnowsItsOwnCookieOnly(t *testing.T) {
	secure := Site{PublicURL: "https://pub.example"}
	for header, want := range map[string]string{"__Host-entrepot_session=s": "s", "entrepot_session=s": "", "entrepot_session=x; __Host-entrepot_session=s": "s"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Cookie", header)
		if got := credentialsOf(r, "", secure); got.Session != want {
			t.Errorf("%s: %+v", header, got)
		}
	}
}

func TestWhoComesThroughAProxy(t *testing.T) {
	site := Site{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for name, c := range map[string]struct {
		site      Site
		remote    string
		forwarded []string
		want      string
	}{
		"directly":                          {site, "192.0.2.1:5", nil, "192.0.2.1"},
		"a stranger says so":                {site, "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1"},
		"nobody is trusted":                 {Site{}, "10.0.0.1:5", []string{"198.51.100.1"}, "10.0.0.1"},
		"our proxy says so":                 {site, "10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1"},
		"two of our proxies":                {site, "10.0.0.1:5", []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		"the client made up what is before": {site, "10.0.0.1:5", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		"in two headers":                    {site, "10.0.0.1:5", []string{"203.0.113.9", "198.51.100.1"}, "198.51.100.1"},
		"our proxy says nothing":            {site, "10.0.0.1:5", nil, "10.0.0.1"},
		"nonsense":                          {site, "10.0.0.1:5", []string{"<script>"}, "10.0.0.1"},
		"v4 in v6":                          {site, "[::ffff:10.0.0.1]:5", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"only our own":                      {site, "[::1]:5", []string{"10.0.0.3"}, "10.0.0.3"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = c.remote
		for _, f := range c.forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		if got := c.site.clientAddress(r); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
