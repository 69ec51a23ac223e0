package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

type settings struct {
	DataDir  string            `koanf:"data_dir"`
	Database config.Secret     `koanf:"database_url"`
	Sync     syncSettings      `koanf:"sync"`
	Allow    []netip.Prefix    `koanf:"egress_allow"`
	Labels   map[string]string `koanf:"labels"`
	Common   `koanf:",squash"`
	_        struct{} // not exported: no key
}

type syncSettings struct {
	Workers int           `koanf:"workers"`
	AckWait time.Duration `koanf:"ack_wait"`
	Buffer  config.Bytes  `koanf:"buffer"`
	Kinds   []string      `koanf:"kinds"`
	Ratio   float64       `koanf:"ratio"`
	Strict  bool          `koanf:"strict"`
	Port    uint16        `koanf:"port"`
}

type Common struct {
	LogLevel slog.Level `koanf:"log_level"`
}

func defaults() settings {
	return settings{
		DataDir: "/var/lib/entrepot",
		Sync:    syncSettings{Workers: 4, AckWait: 30 * time.Second, Buffer: 1 << 20, Kinds: []string{"a", "b", "c"}},
		Labels:  map[string]string{"zone": "x"},
	}
}

var opts = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Run("each source overrides the one before, and the rest stays", func(t *testing.T) {
		file := write(t, `
# the whole of it
data_dir: /srv
database_url: postgres://u:sesame@db/x
sync:
  workers: 1_000
  ack_wait: 1m
  buffer: 64MiB
  kinds: [sync]
  ratio: 0.5
egress_allow: ["10.0.0.0/8", "fd00::/8"]
labels: {dc.name: "1", rack: 007}
`)
		def := defaults()
		got, warnings, err := config.Load(def, config.Sources{
			File:      file,
			Environ:   []string{"HOME=/root", "ENTREPOT_SYNC__ACK_WAIT=2m", "ENTREPOT_SYNC__STRICT=true", "ENTREPOT_LOG_LEVEL=debug", "ENTREPOT_PG_BIN=/x", "ENTREPOT_SYNC__KINDS=x, y,"},
			EnvPrefix: "ENTREPOT_",
			Flags:     map[string]any{"sync.ack_wait": 3 * time.Minute, "sync.port": "8080", "sync.workers": 9},
			Reserved:  []string{"ENTREPOT_PG_BIN"},
		})
		if err != nil || warnings != nil {
			t.Fatal(err, warnings)
		}
		want := settings{
			DataDir: "/srv", Database: config.NewSecret("postgres://u:sesame@db/x"),
			Sync:   syncSettings{Workers: 9, AckWait: 3 * time.Minute, Buffer: 64 << 20, Kinds: []string{"x", "y"}, Ratio: 0.5, Strict: true, Port: 8080},
			Allow:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
			Labels: map[string]string{"dc.name": "1", "rack": "007"},
			Common: Common{LogLevel: slog.LevelDebug},
		}
		if diff := cmp.Diff(want, got, opts); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(defaults(), def, opts); diff != "" {
			t.Errorf("the defaults were written into: %s", diff)
		}
	})

	t.Run("nothing given is the defaults", func(t *testing.T) {
		for _, file := range []string{"", write(t, ""), write(t, "# nothing\n"), write(t, "---\nsync:\n  # workers: 3\ndata_dir:\n")} {
			got, _, err := config.Load(defaults(), config.Sources{File: file})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(defaults(), got, opts); diff != "" {
				t.Error(diff)
			}
		}
	})

	t.Run("anchors are followed", func(t *testing.T) {
		got, _, err := config.Load(defaults(), config.Sources{File: write(t, "data_dir: &d /srv\nlabels: {a: *d}\n")})
		if err != nil || got.Labels["a"] != "/srv" || got.DataDir != "/srv" {
			t.Errorf("%+v, %v", got, err)
		}
	})

	t.Run("an empty variable is ignored with a warning, a secret that all can read is told", func(t *testing.T) {
		file := write(t, "database_url: x\n")
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		_, warnings, err := config.Load(defaults(), config.Sources{File: file, Environ: []string{"E_DATA_DIR="}, EnvPrefix: "E_"})
		want := []config.Warning{
			{Source: file, Message: "holds a secret and can be read by everyone: chmod o-r"},
			{Source: "E_DATA_DIR", Message: "is empty and therefore ignored"},
		}
		if diff := cmp.Diff(want, warnings); err != nil || diff != "" {
			t.Error(err, diff)
		}
	})
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name, yaml, env string
		flags           map[string]any
		want            string // FILE stands for the path
		field           string
	}{
		{"an unknown key", "data_dir: /x\nsync:\n  ack_wiat: 3s\n", "", nil, `FILE:3:3: unknown key "ack_wiat" under sync; did you mean ack_wait?`, "sync.ack_wiat"},
		{"an unknown key at the top", "datadir: /x\n", "", nil, `FILE:1:1: unknown key "datadir"; did you mean data_dir?`, "datadir"},
		{"an unknown key like no other", "zzzzzzzzzz: /x\n", "", nil, `FILE:1:1: unknown key "zzzzzzzzzz"`, "zzzzzzzzzz"},
		{"a number that is none", "sync: {workers: many}\n", "", nil, `FILE:1:17: sync.workers: "many" is not a whole number`, "sync.workers"},
		{"a fraction for a whole number", "sync: {workers: 1.5}\n", "", nil, `FILE:1:17: sync.workers: "1.5" is not a whole number`, "sync.workers"},
		{"a number out of range", "sync:\n  port: 70000\n", "", nil, `FILE:2:9: sync.port: "70000" is not a whole number from 0 to 65535`, "sync.port"},
		{"a duration without a unit", "sync:\n  ack_wait: 30\n", "", nil, `FILE:2:13: sync.ack_wait: "30" is not a duration such as 30s, 5m or 90d`, "sync.ack_wait"},
		{"a size that is none", "sync:\n  buffer: big\n", "", nil, `FILE:2:11: sync.buffer: "big" is not a size such as 64MiB`, "sync.buffer"},
		{"a mapping for text", "data_dir: {a: b}\n", "", nil, `FILE:1:12: data_dir: want text, not a mapping`, "data_dir"},
		{"text for a mapping", "sync: 3\n", "", nil, `FILE:1:7: want a mapping with the keys [workers ack_wait buffer kinds ratio strict port]`, "sync"},
		{"a list of mappings", "sync:\n  kinds:\n  - a: b\n", "", nil, `FILE:3:3: sync.kinds: want a list of plain values`, "sync.kinds"},
		{"a list for a secret", "database_url: [sesame]\n", "", nil, `FILE:1:15: database_url: want text, not a list`, "database_url"},
		{"broken YAML", "data_dir: \"x\nsync\n", "", nil, `FILE:1:11: could not find end character of double-quoted text`, ""},
		{"a key given twice", "data_dir: a\ndata_dir: b\n", "", nil, `FILE:2:1: mapping key "data_dir" already defined at [1:1]`, ""},
		{"two documents", "data_dir: a\n---\ndata_dir: b\n", "", nil, `FILE:3:1: the file holds more than one document`, ""},
		{"an unknown variable", "", "E_SYNC__WORKER=3", nil, `E_SYNC__WORKER: no such configuration variable; did you mean E_SYNC__WORKERS?`, ""},
		{"a variable of the wrong type", "", "E_SYNC__STRICT=perhaps", nil, `E_SYNC__STRICT: sync.strict: "perhaps" is not true or false`, "sync.strict"},
		{"a flag without a key", "", "", map[string]any{"sync.wrokers": 1}, `flag sync.wrokers: no such key; did you mean sync.workers?`, "sync.wrokers"},
		{"a flag of the wrong type", "", "", map[string]any{"sync.kinds": 1}, `flag sync.kinds: sync.kinds: want a list, not a whole number`, "sync.kinds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := config.Sources{EnvPrefix: "E_", Environ: []string{c.env}, Flags: c.flags}
			if c.yaml != "" {
				src.File = write(t, c.yaml)
			}
			_, _, err := config.Load(defaults(), src)
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("error %v, want fault.Invalid", err)
			}
			got := strings.ReplaceAll(err.Error(), src.File, "FILE")
			if src.File == "" {
				got = err.Error()
			}
			if diff := cmp.Diff("configuration: "+c.want, got); diff != "" {
				t.Error(diff)
			}
			if v := err.(*fault.Error).Violations; len(v) != 1 || v[0].Field != c.field {
				t.Errorf("violations %+v, want one of %q", v, c.field)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Error("the error tells a secret")
			}
		})
	}

	t.Run("all are reported together", func(t *testing.T) {
		_, _, err := config.Load(defaults(), config.Sources{File: write(t, "a: 1\nsync: {b: 2}\n"), Environ: []string{"E_C=1"}, EnvPrefix: "E_"})
		if v := err.(*fault.Error).Violations; len(v) != 3 {
			t.Error(err)
		}
	})
	t.Run("an absent file is named", func(t *testing.T) {
		if _, _, err := config.Load(defaults(), config.Sources{File: "/no/such.yaml"}); err == nil || !strings.Contains(err.Error(), "/no/such.yaml") {
			t.Error(err)
		}
	})
	t.Run("a struct that cannot be filled is the programmer's", func(t *testing.T) {
		_, _, err := config.Load(struct{ X int }{}, config.Sources{})
		if !fault.Is(err, fault.Internal) {
			t.Error(err)
		}
		_, _, err = config.Load(struct {
			X chan int `koanf:"x"`
		}{}, config.Sources{})
		if !fault.Is(err, fault.Internal) {
			t.Error(err)
		}
	})
}

func TestShow(t *testing.T) {
	cfg := defaults()
	cfg.Database = config.NewSecret("sesame")
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	out, err := config.Show(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := `data_dir: /var/lib/entrepot
database_url: "[redacted]"
sync:
  workers: 4
  ack_wait: 30s
  buffer: 1MiB
  kinds:
    - a
    - b
    - c
  ratio: 0.0
  strict: false
  port: 0
egress_allow:
  - 10.0.0.0/8
labels:
  zone: x
log_level: INFO
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
	back, _, err := config.Load(settings{}, config.Sources{File: write(t, string(out))})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = config.NewSecret("[redacted]")
	if diff := cmp.Diff(cfg, back, opts); diff != "" {
		t.Error(diff)
	}
}

func TestSecret(t *testing.T) {
	s := config.NewSecret("sesame")
	if s.Reveal() != "sesame" || (config.Secret{}).Reveal() != "" || !(config.Secret{}).IsZero() {
		t.Error("Reveal")
	}
	type inner struct{ hidden config.Secret }
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%t", "%U", "%w"} {
		fmt.Fprintf(&shown, verb+" "+verb+" "+verb+" "+verb+"\n", s, &s, []config.Secret{s}, inner{s})
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		b, err := marshal(map[string]any{"s": s, "p": &s})
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(b)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("m", "s", s, "in", inner{s}, "list", []config.Secret{s})
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("m", "s", s, "in", inner{s}, "list", []config.Secret{s})
	for _, trace := range []string{"sesame", "736573616d65", "736573616D65", "[115 101"} {
		if strings.Contains(shown.String(), trace) {
			t.Errorf("it shows as %q in:\n%s", trace, shown.String())
		}
	}
	if !strings.Contains(shown.String(), "[redacted]") {
		t.Error("nothing was shown at all")
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]config.Bytes{
		"0": 0, "4096": 4096, "64MiB": 64 << 20, "64 mib": 64 << 20, "1.5GB": 1_500_000_000, "7B": 7, "2TiB": 2 << 40, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := config.ParseBytes(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1KiB", "1e3", "0x10", "NaN", "inf", "9223372036854775808", "8388608TiB", "1 2", "5XB"} {
		if got, err := config.ParseBytes(text); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
	t.Run("String is read back", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			b := config.Bytes(rapid.Int64Min(0).Draw(t, "bytes") >> rapid.IntRange(0, 62).Draw(t, "shift"))
			if got, err := config.ParseBytes(b.String()); err != nil || got != b {
				t.Fatalf("%d is shown as %s, read as %d (%v)", int64(b), b, int64(got), err)
			}
		})
	})
}
