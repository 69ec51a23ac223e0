package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// asked is a request that a server got for a remote.
type asked struct {
	Method, Mask string
	Settings     map[string]any
}

// remoteServer answers for /entrepot/v1/channels/forge/remote and notes what it is asked.
func remoteServer(t *testing.T, b *bundle) *[]asked {
	var log []asked
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/entrepot/v1/channels/forge/remote" {
			http.NotFound(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		a := asked{Method: r.Method, Mask: r.URL.Query().Get("update_mask")}
		if len(body) > 0 {
			if err := json.Unmarshal(body, &a.Settings); err != nil {
				t.Error(err)
			}
			for k, v := range a.Settings { // as the wire has empty values
				if v == "" || v == float64(0) || v == "0" || v == nil {
					delete(a.Settings, k)
				}
			}
		}
		log = append(log, a)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"channel":"forge","url":"https://h.org/forge","username":"robot","password_set":true,"proxy_url":"http://proxy:3128","proxy_credentials_set":true,"origin":"https://h.org:443"}`)
	}))
	t.Cleanup(srv.Close)
	b.env["ENTREPOT_SERVER"] = srv.URL
	return &log
}

func TestChannelRemote(t *testing.T) {
	b := setup(t)
	log := remoteServer(t, b)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("without flags it shows", func(t *testing.T) {
		out := b.ok("channel", "remote", "forge")
		for _, want := range []string{"user robot, password set", "http://proxy:3128, with credentials", "https://h.org:443"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
		if diff := cmp.Diff([]asked{{Method: "GET"}}, *log); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
	})
	for name, tc := range map[string]struct {
		args     []string
		in       string
		mask     string
		settings map[string]any
	}{
		"a login replaces the others": {
			[]string{"--username", "robot", "--password-file", file("pw", "secret\n")},
			"",
			"password,username,bearer_token,header,header_value",
			map[string]any{"username": "robot", "password": "secret"},
		},
		"a token from standard input": {
			[]string{"--token-file", "-"}, "tk-1\r\n", "bearer_token,username,password,header,header_value", map[string]any{"bearer_token": "tk-1"},
		},
		"a path token stands beside them": {[]string{"--path-token-file", file("pt", "pt-1")}, "", "path_token", map[string]any{"path_token": "pt-1"}},
		"a header": {
			[]string{"--header-file", file("h", "X-Api-Key: a:b\n")},
			"", "header,header_value,username,password,bearer_token",
			map[string]any{"header": "X-Api-Key", "header_value": "a:b"},
		},
		"a proxy":                          {[]string{"--proxy", "http://proxy:3128"}, "", "proxy_url", map[string]any{"proxy_url": "http://proxy:3128"}},
		"a proxy with credentials":         {[]string{"--proxy-file", file("p", "http://u:p@proxy:3128\n")}, "", "proxy_url", map[string]any{"proxy_url": "http://u:p@proxy:3128"}},
		"a part is dropped":                {[]string{"--unset", "proxy,ca"}, "", "proxy_url,ca_bundle", map[string]any{}},
		"all is dropped":                   {[]string{"--clear"}, "", "*", map[string]any{}},
		"all is dropped but what is given": {[]string{"--clear", "--ca-file", file("ca", "PEM")}, "", "*", map[string]any{"ca_bundle": "PEM"}},
	} {
		t.Run(name, func(t *testing.T) {
			*log, b.in = nil, tc.in
			b.ok(append([]string{"channel", "remote", "forge"}, tc.args...)...)
			if diff := cmp.Diff([]asked{{"PATCH", tc.mask, tc.settings}}, *log); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
	for name, tc := range map[string]struct {
		args []string
		text string
	}{
		"a proxy's password on the command line": {[]string{"--proxy", "http://u:canary@proxy:3128"}, "--proxy-file"},
		"a file that is not there":               {[]string{"--token-file", filepath.Join(dir, "none")}, "--token-file"},
		"an empty file":                          {[]string{"--token-file", file("empty", "\n")}, "--unset"},
		"standard input twice":                   {[]string{"--username", "u", "--password-file", "-", "--path-token-file", "-"}, "once"},
		"a header without colon":                 {[]string{"--header-file", file("bad", "canary")}, "X-API-Key: secret"},
		"a part that is none":                    {[]string{"--unset", "password"}, "login, ca, cert, proxy or rates"},
	} {
		t.Run(name, func(t *testing.T) {
			*log, b.in = nil, "x"
			o := b.run(append([]string{"channel", "remote", "forge"}, tc.args...)...)
			if o.code != 2 || len(*log) != 0 {
				t.Fatalf("code %d, %v, asked %v", o.code, o.err, *log)
			}
			text := o.err.Error() + o.stderr
			for _, want := range []string{tc.text} {
				if !strings.Contains(text, want) && !strings.Contains(fieldOf(o.err), want) {
					t.Errorf("%q is not in %q", want, text)
				}
			}
			if strings.Contains(text, "canary") {
				t.Errorf("it quotes the secret: %q", text)
			}
		})
	}
}

// fieldOf returns the flag that an error names.
func fieldOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) && len(f.Violations) > 0 {
		return f.Violations[0].Field
	}
	return ""
}
