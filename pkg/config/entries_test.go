package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/config"
)

type provider struct {
	Kind   string        `koanf:"kind"`
	Secret config.Secret `koanf:"secret"`
	Groups []string      `koanf:"groups"`
}

type loginSettings struct {
	Login struct {
		Providers map[string]provider `koanf:"providers"`
	} `koanf:"login"`
}

func TestMappingsOfStructs(t *testing.T) {
	write := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load := func(file string, env ...string) (loginSettings, error) {
		cfg, _, err := config.Load(loginSettings{}, config.Sources{File: file, Environ: env, EnvPrefix: "ENTREPOT_"})
		return cfg, err
	}
	t.Run("entries are filled by file and variables", func(t *testing.T) {
		file := write(t, "login:\n  providers:\n    github:\n      kind: github\n      groups: [a, b]\n    our-own:\n      kind: oidc\n")
		cfg, err := load(file, "ENTREPOT_LOGIN__PROVIDERS__GITHUB__SECRET=s3cret", "ENTREPOT_LOGIN__PROVIDERS__MORE__KIND=google")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]provider{
			"github": {Kind: "github", Groups: []string{"a", "b"}, Secret: config.NewSecret("s3cret")}, "our-own": {Kind: "oidc"}, "more": {Kind: "google"},
		}
		if diff := cmp.Diff(want, cfg.Login.Providers); diff != "" {
			t.Error(diff)
		}
		out, err := config.Show(cfg)
		if err != nil || strings.Contains(string(out), "s3cret") {
			t.Fatalf("%s %v", out, err)
		}
		again, err := load(write(t, string(out)))
		if err != nil || len(again.Login.Providers) != 3 || again.Login.Providers["our-own"].Kind != "oidc" {
			t.Errorf("what Show prints does not load: %v\n%s", err, out)
		}
	})
	t.Run("mistakes are named", func(t *testing.T) {
		for text, want := range map[string]string{
			"login:\n  providers:\n    github:\n      knid: x\n":  `unknown key "knid" under login.providers.github; did you mean kind?`,
			"login:\n  providers:\n    Git Hub:\n      kind: x\n": "cannot be a name",
			"login:\n  providers: 7\n":                            "want a mapping",
		} {
			if _, err := load(write(t, text)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", text, err)
			}
		}
		for _, name := range []string{"ENTREPOT_LOGIN__PROVIDERS__GITHUB__KNID=x", "ENTREPOT_LOGIN__PROVIDERS__GITHUB=x", "ENTREPOT_LOGIN__PROVIDERS=x"} {
			if _, err := load("", name); err == nil {
				t.Errorf("%s is taken", name)
			}
		}
	})
}
