package client

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// remoteFlags are what `channel remote` is told.
type remoteFlags struct {
	username, proxy                                                               string
	passwordFile, tokenFile, pathTokenFile, headerFile, caFile, certFile, keyFile string
	proxyFile                                                                     string
	rateBytes                                                                     int64
	rateRequests                                                                  float64
	clear                                                                         bool
	unset                                                                         []string
}

// remoteParts are what --unset can name, and the settings behind each.
var remoteParts = map[string][]string{
	"login": {"username", "password", "bearer_token", "header", "header_value", "path_token"},
	"ca":    {"ca_bundle"},
	"cert":  {"client_cert", "client_key"},
	"proxy": {"proxy_url"},
	"rates": {"rate_bytes", "rate_requests"},
}

func (a *app) channelRemoteCommand() *cobra.Command {
	var f remoteFlags
	c := &cobra.Command{
		Use: "remote NAME", Short: "Show or set how a mirror's upstream is reached", Args: want("NAME"),
		Long: `Shows how the upstream of a mirror or proxy is reached: who we are there, which authorities are trusted, through which
proxy; or sets it. Secrets are read from files, or from standard input with "-", and are never shown again. What is set
holds from the next request on, also in a sync that runs.

A user name, a token (Authorization: Bearer) and a header take each other's place; a path token, /t/<token>/ as conda
servers have it, may stand beside them. All of them go to the origin of the channel's URL and nowhere else: if that
changes, they must be set anew. A new proxy or CA could read what is sent, so the secrets must be given again with it.`,
		Example: `  entrepot channel remote forge --username robot --password-file ./password
  entrepot channel remote forge --path-token-file - < token
  entrepot channel remote forge --ca-file ./company-ca.pem --proxy http://proxy.example.org:3128
  entrepot channel remote forge --unset proxy
  entrepot channel remote forge --clear`,
	}
	c.RunE = a.run(func(cmd *cobra.Command, client *restclient.Client, args []string) error {
		settings, fields, err := f.read(cmd)
		if err != nil {
			return err
		}
		var r *syncv1.Remote
		if len(fields) == 0 {
			r, err = client.Remote(cmd.Context(), args[0])
		} else {
			r, err = client.UpdateRemote(cmd.Context(), args[0], settings, fields...)
		}
		if err != nil {
			return fmt.Errorf("remote of %s: %w", args[0], err)
		}
		return a.printOne(cmd, r, remoteLines(r))
	})
	fl := c.Flags()
	fl.StringVar(&f.username, "username", "", "user name at the upstream")
	fl.StringVar(&f.passwordFile, "password-file", "", "file that holds the password; - is standard input")
	fl.StringVar(&f.tokenFile, "token-file", "", "file that holds a token, sent as Authorization: Bearer")
	fl.StringVar(&f.pathTokenFile, "path-token-file", "", "file that holds a token, sent as /t/<token>/ before the path")
	fl.StringVar(&f.headerFile, "header-file", "", "file that holds a header, such as X-API-Key: secret")
	fl.StringVar(&f.caFile, "ca-file", "", "file of PEM certificates that are trusted besides the system's")
	fl.StringVar(&f.certFile, "cert-file", "", "file of the PEM certificate that is shown to the upstream")
	fl.StringVar(&f.keyFile, "key-file", "", "file of that certificate's PEM key")
	fl.StringVar(&f.proxy, "proxy", "", "URL of an HTTP proxy without credentials")
	fl.StringVar(&f.proxyFile, "proxy-file", "", "file that holds the URL of an HTTP proxy, with its credentials")
	fl.Int64Var(&f.rateBytes, "rate-bytes", 0, "bytes a second that each process takes at most; 0 means no limit")
	fl.Float64Var(&f.rateRequests, "rate-requests", 0, "requests a second that each process sends at most; 0 means no limit")
	fl.StringSliceVar(&f.unset, "unset", nil, "drop this part: login, ca, cert, proxy or rates; may be repeated")
	fl.BoolVar(&f.clear, "clear", false, "drop all there is, and then set what is given")
	a.outputFlag(c)
	return c
}

// read returns the settings that the flags give, and which fields they set; none means that nothing is to be set.
func (f *remoteFlags) read(cmd *cobra.Command) (*syncv1.RemoteSettings, []string, error) {
	s := &syncv1.RemoteSettings{Username: f.username, ProxyUrl: f.proxy, RateBytes: f.rateBytes, RateRequests: f.rateRequests}
	var fields []string
	set := func(names ...string) { fields = append(fields, names...) }
	stdin := 0
	for _, file := range []struct {
		flag, path string
		to         *string
		field      string
	}{
		{"password-file", f.passwordFile, &s.Password, "password"},
		{"token-file", f.tokenFile, &s.BearerToken, "bearer_token"},
		{"path-token-file", f.pathTokenFile, &s.PathToken, "path_token"},
		{"header-file", f.headerFile, &s.Header, "header"},
		{"ca-file", f.caFile, &s.CaBundle, "ca_bundle"},
		{"cert-file", f.certFile, &s.ClientCert, "client_cert"},
		{"key-file", f.keyFile, &s.ClientKey, "client_key"},
		{"proxy-file", f.proxyFile, &s.ProxyUrl, "proxy_url"},
	} {
		if !cmd.Flags().Changed(file.flag) {
			continue
		}
		if file.path == "-" {
			if stdin++; stdin > 1 {
				return nil, nil, fault.Field("--"+file.flag, "standard input can be read once only; put one of them into a file")
			}
		}
		text, err := secretFile(cmd, file.flag, file.path)
		if err != nil {
			return nil, nil, err
		}
		*file.to = text
		set(file.field)
	}
	if cmd.Flags().Changed("username") {
		set("username")
	}
	if cmd.Flags().Changed("proxy") {
		if u, err := url.Parse(f.proxy); err != nil || u.User != nil {
			return nil, nil, fault.Field("--proxy", "a proxy's credentials must not be given on the command line, which others can see; use --proxy-file")
		}
		set("proxy_url")
	}
	if cmd.Flags().Changed("rate-bytes") {
		set("rate_bytes")
	}
	if cmd.Flags().Changed("rate-requests") {
		set("rate_requests")
	}
	if cmd.Flags().Changed("header-file") {
		name, value, ok := strings.Cut(s.Header, ":")
		if s.Header, s.HeaderValue = strings.TrimSpace(name), strings.TrimSpace(value); !ok {
			return nil, nil, fault.Field("--header-file", "the file must hold one line like X-API-Key: secret")
		}
		set("header_value")
	}
	fields = append(fields, replaced(fields)...)
	for _, part := range f.unset {
		names, ok := remoteParts[part]
		if !ok {
			return nil, nil, fault.Field("--unset", "--unset must be login, ca, cert, proxy or rates, not %q", part)
		}
		set(names...)
	}
	if f.clear {
		fields = []string{"*"}
	}
	return s, fields, nil
}

// replaced returns what goes because one way to log in takes the place of another.
func replaced(fields []string) (out []string) {
	ways := [][]string{{"username", "password"}, {"bearer_token"}, {"header", "header_value"}}
	given := func(names []string) bool {
		for _, n := range names {
			for _, f := range fields {
				if f == n {
					return true
				}
			}
		}
		return false
	}
	some := false
	for _, way := range ways {
		some = some || given(way)
	}
	for _, way := range ways {
		if some && !given(way) {
			out = append(out, way...)
		}
	}
	return out
}

// maxSecretFile is above all that a server takes.
const maxSecretFile = 1 << 20

// secretFile reads a file, or standard input, without the line's end that editors add.
func secretFile(cmd *cobra.Command, flag, path string) (string, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fault.Field("--"+flag, "%w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	switch {
	case err != nil:
		return "", fault.Field("--"+flag, "%w", err)
	case len(data) > maxSecretFile:
		return "", fault.Field("--"+flag, "%s has more than %s", path, progress.Bytes(maxSecretFile))
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fault.Field("--"+flag, "%s is empty; to drop a setting use --unset", path)
	}
	return text, nil
}

func remoteLines(r *syncv1.Remote) [][]string {
	is := func(b bool) string {
		if b {
			return "set"
		}
		return "-"
	}
	lines := [][]string{{"Upstream:", r.GetUrl()}}
	login := "-"
	switch {
	case r.GetUsername() != "":
		login = "user " + r.GetUsername() + ", password " + is(r.GetPasswordSet())
	case r.GetBearerTokenSet():
		login = "bearer token"
	case r.GetHeader() != "":
		login = "header " + r.GetHeader()
	}
	lines = append(lines, []string{"Login:", login}, []string{"Path token:", is(r.GetPathTokenSet())})
	if o := r.GetOrigin(); o != "" {
		lines = append(lines, []string{"Only for:", o})
	}
	ca := "system's"
	if n := strings.Count(r.GetCaBundle(), "-----BEGIN CERTIFICATE-----"); n > 0 {
		ca = fmt.Sprintf("system's and %d more", n)
	}
	proxy := orDash(r.GetProxyUrl())
	if r.GetProxyCredentialsSet() {
		proxy += ", with credentials"
	}
	lines = append(lines, []string{"Authorities:", ca}, []string{"Certificate:", is(r.GetClientKeySet())}, []string{"Proxy:", proxy})
	if n := r.GetRateBytes(); n > 0 {
		lines = append(lines, []string{"Rate:", progress.Bytes(n) + " a second"})
	}
	if n := r.GetRateRequests(); n > 0 {
		lines = append(lines, []string{"Requests:", fmt.Sprintf("%g a second", n)})
	}
	if r.GetUpdateTime() != nil {
		lines = append(lines, []string{"Set:", when(r.GetUpdateTime())})
	}
	return lines
}
