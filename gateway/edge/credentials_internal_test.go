package edge

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCutPathToken(t *testing.T) {
	for path, want := range map[string][2]string{
		"/t/key/get/c/noarch/x":      {"/get/c/noarch/x", "key"},
		"/get/t/key/c/noarch/x":      {"/get/c/noarch/x", "key"},
		"/channels/t/key/c/noarch/x": {"/channels/c/noarch/x", "key"},
		"/t/key":                     {"/", "key"},
		"/t/key/t/other/get/c":       {"/t/other/get/c", "key"}, // one token, and then a path that is none of ours
		"/t//get/c":                  {"/t//get/c", ""},
		"/t/":                        {"/t/", ""},
		"/t":                         {"/t", ""},
		"/get/t":                     {"/get/t", ""},
		"/api/t/key/channels":        {"/api/t/key/channels", ""},
		"/get/c/t/key/x":             {"/get/c/t/key/x", ""},
		"/":                          {"/", ""},
		"":                           {"", ""},
	} {
		if rest, token := cutPathToken(path); rest != want[0] || token != want[1] {
			t.Errorf("%s: %q, %q; want %q", path, rest, token, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		token  string
		want   Credentials
	}{
		"nothing":                    {nil, "", Credentials{}},
		"a key":                      {http.Header{"X-Api-Key": {"k"}}, "t", Credentials{APIKey: "k"}},
		"Bearer":                     {http.Header{"Authorization": {"Bearer k"}}, "t", Credentials{APIKey: "k"}},
		"Bearer, spaces":             {http.Header{"Authorization": {"BEARER   k "}}, "", Credentials{APIKey: "k"}},
		"Basic":                      {http.Header{"Authorization": {"Basic dXNlcjprOmw="}}, "", Credentials{APIKey: "k:l"}},
		"Basic without password":     {http.Header{"Authorization": {"Basic dXNlcg=="}}, "", Credentials{APIKey: "invalid"}},
		"Basic of junk":              {http.Header{"Authorization": {"Basic %%%"}}, "", Credentials{APIKey: "invalid"}},
		"another scheme":             {http.Header{"Authorization": {"Digest x"}}, "t", Credentials{APIKey: "t"}},
		"the path":                   {nil, "t", Credentials{APIKey: "t"}},
		"the cookie":                 {http.Header{"Cookie": {"a=b; entrepot_session=s"}}, "", Credentials{Session: "s"}},
		"the path before the cookie": {http.Header{"Cookie": {"entrepot_session=s"}}, "t", Credentials{APIKey: "t"}},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = c.header
		if got := credentialsOf(r, c.token, Site{}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestDropIdentity(t *testing.T) {
	out := http.Header{
		"Accept": {"x"}, "If-None-Match": {"y"}, "Range": {"bytes=0-1"}, "Last-Event-Id": {"1-2"}, "Content-Type": {"a"},
		"Authorization": {"s"}, "Cookie": {"s"}, "X-Api-Key": {"s"}, "X_Api_Key": {"s"}, "Grpc-Metadata-X": {"s"}, "Grpc-Timeout": {"1n"},
		"Entrepot-Target": {"s"}, "Entrepot-Grant": {"s"}, "X-Forwarded-For": {"s"}, "Forwarded": {"s"}, "Proxy-Authorization": {"s"},
	}
	dropIdentity(out)
	for _, name := range []string{"Accept", "If-None-Match", "Range", "Last-Event-Id", "Content-Type"} {
		if out.Get(name) == "" {
			t.Errorf("%s is lost", name)
		}
		delete(out, name)
	}
	if len(out) != 0 {
		t.Errorf("these go further: %v", out)
	}
}
