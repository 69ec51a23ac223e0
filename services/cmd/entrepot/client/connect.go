package client

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// defaultServer is where `entrepot serve` listens.
const defaultServer = "http://127.0.0.1:8000"

// serverURL decides which server is meant: --server, ENTREPOT_SERVER, the current login, or the one on this machine.
func (a *app) serverURL(cfg config) (string, error) {
	for _, s := range []string{a.server, a.getenv("ENTREPOT_SERVER"), cfg.Current, defaultServer} {
		if s == "" {
			continue
		}
		u, err := restclient.ParseServer(s)
		if err != nil {
			return "", err
		}
		return u.String(), nil
	}
	return "", nil // not reached: the last one is never empty
}

// key decides which key is sent to the server: --api-key-file, ENTREPOT_API_KEY, or that of its login. A login's key
// goes to its own server only.
func (a *app) key(cfg config, server string) (string, error) {
	if a.keyFile != "" {
		data, err := os.ReadFile(a.keyFile)
		if err != nil {
			return "", fault.Field("--api-key-file", "cannot read the key: %v", err)
		}
		key, err := cleanKey(string(data))
		if err != nil {
			return "", fault.Field("--api-key-file", "%s: %v", a.keyFile, err)
		}
		return key, nil
	}
	if key := a.getenv("ENTREPOT_API_KEY"); key != "" {
		key, err := cleanKey(key)
		if err != nil {
			return "", fault.Field("ENTREPOT_API_KEY", "ENTREPOT_API_KEY: %v", err)
		}
		return key, nil
	}
	return cfg.Servers[server].Key, nil
}

// cleanKey takes white space off a key and refuses what cannot be one: it becomes part of a header.
func cleanKey(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", fault.New(fault.Invalid, "the key is empty")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", fault.New(fault.Invalid, "this is not an API key: it must be one line without blanks")
	}
	return s, nil
}

// connect makes a client for the server and the key that are meant.
func (a *app) connect() (*restclient.Client, error) {
	cfg, err := a.readConfig()
	if err != nil {
		return nil, err
	}
	server, err := a.serverURL(cfg)
	if err != nil {
		return nil, err
	}
	key, err := a.key(cfg, server)
	if err != nil {
		return nil, err
	}
	return a.client(server, key)
}

func (a *app) client(server, key string) (*restclient.Client, error) {
	return restclient.New(restclient.Config{Server: server, Key: key, UserAgent: "entrepot/" + a.version, Backoff: a.backoff})
}

// Connect returns a client as the client commands would use it: server overrides the environment and the login.
func Connect(version, server string, getenv func(string) string) (*restclient.Client, error) {
	return (&app{version: version, server: server, getenv: getenv}).connect()
}

// run makes a command's function of one that needs a client. Errors get what helps to understand them.
func (a *app) run(f func(cmd *cobra.Command, c *restclient.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		return Explain(f(cmd, c, args), c)
	}
}
