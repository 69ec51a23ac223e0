package cli_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli"
)

// run runs a command line and returns what it printed.
func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var buf bytes.Buffer
	root := cli.Root()
	root.SetArgs(args)
	root.SetOut(&buf)
	root.SetErr(&buf)
	err = root.ExecuteContext(t.Context())
	return buf.String(), err
}

func yamlFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "entrepot.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigCheck(t *testing.T) {
	t.Run("a good file is ok", func(t *testing.T) {
		out, err := run(t, "config", "check", "--config", yamlFile(t, "http_addr: 127.0.0.1:8123\nlog:\n  level: debug\n"))
		if err != nil || out != "ok\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("an unknown key is named with its line", func(t *testing.T) {
		for name, c := range map[string]struct{ text, key, line string }{
			"on top":         {"http_addr: 127.0.0.1:8123\nhttp_adr: x\n", "http_adr", "2"},
			"further down":   {"log:\n  level: info\n\n  levle: debug\n", "levle", "4"},
			"a typo in sync": {"# comment\nsync:\n  downlods: 3\n", "downlods", "3"},
		} {
			_, err := run(t, "config", "check", "--config", yamlFile(t, c.text))
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%s: %v", name, err)
			}
			if text := told(err); !strings.Contains(text, c.key) || !strings.Contains(text, "line "+c.line) && !strings.Contains(text, ":"+c.line) {
				t.Errorf("%s: %s", name, text)
			}
		}
	})
	t.Run("what cannot work is refused, each field by name", func(t *testing.T) {
		for name, c := range map[string]struct {
			args  []string
			field string
		}{
			"half of TLS":           {[]string{"--tls-cert", "x.pem"}, "tls_cert"},
			"an unknown target":     {[]string{"--target", "chanels"}, "target"},
			"no CIDR":               {[]string{"--egress-allow", "10.0.0.0"}, "egress_allow"},
			"parts without address": {[]string{"--target", "channels"}, "database_url"},
		} {
			_, err := run(t, append([]string{"config", "check"}, c.args...)...)
			if !fault.Is(err, fault.Invalid) || !strings.Contains(told(err), c.field) {
				t.Errorf("%s: %v", name, told(err))
			}
		}
	})
	t.Run("a file that is not there, or no YAML, is an error", func(t *testing.T) {
		for _, file := range []string{filepath.Join(t.TempDir(), "none.yaml"), yamlFile(t, "http_addr: [\n")} {
			if out, err := run(t, "config", "check", "--config", file); err == nil {
				t.Errorf("%s: %s", file, out)
			}
		}
	})
	t.Run("a variable that is no setting is told", func(t *testing.T) {
		t.Setenv("ENTREPOT_HTTP_ADR", "x")
		out, err := run(t, "config", "check")
		if err == nil && !strings.Contains(out, "ENTREPOT_HTTP_ADR") {
			t.Errorf("%q", out)
		}
		if err != nil && !strings.Contains(told(err), "ENTREPOT_HTTP_ADR") {
			t.Error(err)
		}
	})
}

// told is all that an error says to a user: its text and the fields.
func told(err error) string {
	text := err.Error()
	var f *fault.Error
	if errors.As(err, &f) {
		for _, v := range f.Violations {
			text += "\n" + v.Field + ": " + v.Description
		}
	}
	return text
}

// TestConfigShow: flags beat variables, variables beat the file, and secrets stay hidden.
func TestConfigShow(t *testing.T) {
	file := yamlFile(t, "http_addr: 127.0.0.1:1\ngrpc_addr: 127.0.0.1:1\nops_addr: 127.0.0.1:1\ndatabase_url: postgres://u:hunter2@h/d\n")
	t.Setenv("ENTREPOT_GRPC_ADDR", "127.0.0.1:2")
	t.Setenv("ENTREPOT_OPS_ADDR", "127.0.0.1:2")
	t.Setenv("ENTREPOT_LOG__LEVEL", "warn")
	out, err := run(t, "config", "show", "--config", file, "--ops-addr", "127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"http_addr: 127.0.0.1:1\n", "grpc_addr: 127.0.0.1:2\n", "ops_addr: 127.0.0.1:3\n", "level: warn\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "hunter2") {
		t.Errorf("shows a password:\n%s", out)
	}
}

// TestServeFlags: every flag of serve is a setting, spelled with dashes.
func TestServeFlags(t *testing.T) {
	serve, _, err := cli.Root().Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := run(t, "config", "show")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	serve.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "config" || f.Name == "help" {
			return
		}
		n++
		if f.Usage == "" {
			t.Errorf("--%s says nothing about itself", f.Name)
		}
		key := strings.ReplaceAll(f.Name, "-", "_")
		if f.Name == "log-level" || f.Name == "log-format" {
			_, key, _ = strings.Cut(f.Name, "-")
		}
		if !strings.Contains(shown, key+":") {
			t.Errorf("--%s is no setting: there is no %s in\n%s", f.Name, key, shown)
		}
	})
	if n < 15 {
		t.Errorf("only %d flags", n)
	}
	for _, args := range [][]string{{"serve", "--nonsense"}, {"serve", "argument"}, {"nonsense"}, {"config", "check", "--dev=perhaps"}} {
		if out, err := run(t, args...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
}
