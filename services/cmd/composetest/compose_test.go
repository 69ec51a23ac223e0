package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

// service is what these tests ask of a service in docker-compose.yml.
type service struct {
	Image       string                    `yaml:"image"`
	Command     []string                  `yaml:"command"`
	Environment map[string]any            `yaml:"environment"`
	Volumes     []string                  `yaml:"volumes"`
	Secrets     []string                  `yaml:"secrets"`
	DependsOn   map[string]map[string]any `yaml:"depends_on"`
	Healthcheck map[string]any            `yaml:"healthcheck"`
}

type composeFile struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
	Secrets  map[string]any     `yaml:"secrets"`
}

var variable = regexp.MustCompile(`\$\{[A-Z0-9_]+(?::([-?])([^}]*))?\}`)

// readCompose fills in the variables as Compose would with none set, but for those that must be.
func readCompose(t *testing.T, text string) (c composeFile) {
	t.Helper()
	text = variable.ReplaceAllStringFunc(text, func(v string) string {
		if m := variable.FindStringSubmatch(v); m[1] == "-" {
			return m[2]
		}
		return "a-secret-of-many-letters-and-0123"
	})
	// What is merged in by << and said again is a duplicate to this decoder; the later one counts, as with Compose.
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	return c
}

// problems returns what is wrong with the services: what Compose itself would refuse, and what our processes would.
func (c composeFile) problems(file string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		s := c.Services[name]
		fail := func(format string, args ...any) { out = append(out, name+": "+fmt.Sprintf(format, args...)) }
		for other, how := range s.DependsOn {
			o, ok := c.Services[other]
			if !ok {
				fail("depends on %s, which is not there", other)
			}
			// Our image has a health check of its own.
			if how["condition"] == "service_healthy" && !strings.HasPrefix(o.Image, "entrepot:") && o.Healthcheck == nil || o.Healthcheck["disable"] == true && how["condition"] == "service_healthy" {
				fail("waits for the health of %s, which has none", other)
			}
		}
		mounts := map[string]string{}
		for _, v := range s.Volumes {
			from, to, _ := strings.Cut(v, ":")
			to, _, _ = strings.Cut(to, ":")
			mounts[to] = from
			if to == "" {
				continue // a volume of the container's own
			}
			if _, named := c.Volumes[from]; !named && !strings.HasPrefix(from, "./") {
				fail("mounts %s, which is not there", from)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := c.Secrets[secret]; !ok {
				fail("uses secret %s, which is not there", secret)
			}
		}
		if len(s.Command) != 3 || s.Command[0] != "serve" {
			continue
		}
		target := s.Command[2]
		if target != name {
			fail("runs target %s", target)
		}
		var environ []string
		for k, v := range s.Environment {
			if v != nil {
				environ = append(environ, fmt.Sprintf("%s=%v", k, v))
			}
		}
		if mounts["/etc/entrepot.yaml"] != "./deploy/compose/entrepot.yaml" || s.Environment["ENTREPOT_CONFIG"] != "/etc/entrepot.yaml" {
			fail("does not read deploy/compose/entrepot.yaml")
		}
		cfg, warnings, err := config.Load(platform.DefaultConfig(), config.Sources{
			File: file, Environ: environ, EnvPrefix: "ENTREPOT_", Flags: map[string]any{"target": []string{target}}, Reserved: []string{"ENTREPOT_CONFIG"},
		})
		if err == nil {
			err = cfg.Validate()
		}
		if err != nil {
			fail("%v", err)
		}
		for _, w := range warnings {
			fail("%s", w)
		}
		for part, addr := range cfg.Services {
			if addr != part+":9091" || c.Services[part].Command == nil {
				fail("%s is to be at %s", part, addr)
			}
		}
		for _, url := range append(cfg.FetchURLs, cfg.DataURL) {
			part, ok := strings.CutSuffix(strings.TrimPrefix(url, "http://"), ":9092")
			if !ok || c.Services[part].Command == nil {
				fail("bytes are to be at %s", url)
			}
		}
		if want := slices.Contains(sealing, target); want != (cfg.MasterKeyFile == "/keys/master-key" && mounts["/keys"] == "keys") || !want && mounts["/keys"] != "" {
			fail("has the master key: %v, and needs it: %v", !want, want)
		}
	}
	return out
}

// sealing are the targets that open what the master key seals; the others must not have it.
var sealing = []string{"identity", "storage", "sync", "sync-worker", "channels", "channels-worker"}

func TestComposeFileFitsThePlatform(t *testing.T) {
	const root = "../../.."
	data, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "deploy/compose/entrepot.yaml")
	if problems := readCompose(t, string(data)).problems(file); problems != nil {
		t.Errorf("%s", strings.Join(problems, "\n"))
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"a variable that is no setting":  {"ENTREPOT_NATS_URL:", "ENTREPOT_NATS_URI:", "no such configuration variable"},
		"a part that is absent":          {"    nats: { condition:", "    nuts: { condition:", "depends on nuts"},
		"health that nobody tells":       {"    s3: { condition: service_started }", "    s3: { condition: service_healthy }", "waits for the health of s3"},
		"a volume that is absent":        {"\"keys:/keys:ro\"", "\"kyes:/keys:ro\"", "mounts kyes"},
		"a worker without the key":       {"    volumes: *with-keys\n", "", "sync-worker: has the master key: false"},
		"another target than its name":   {"[serve, --target, jobs]", "[serve, --target, sync]", "jobs: runs target sync"},
		"a secret that nobody wrote":     {"secrets: [nats-token]", "secrets: [nats-tocken]", "uses secret nats-tocken"},
		"a setting of the wrong type":    {"    ENTREPOT_EGRESS_ALLOW:", "    ENTREPOT_DATABASE_CONNS: many\n    ENTREPOT_EGRESS_ALLOW:", "database_conns"},
		"a file that nobody reads":       {"ENTREPOT_CONFIG: /etc/entrepot.yaml", "ENTREPOT_CONFIG: /etc/entrepot.yml", "does not read"},
		"the health of a mute container": {"      test: [CMD, /entrepot, health, --ops-addr, \"127.0.0.1:9100\"]", "      disable: true", "waits for the health of nats"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(string(data), c.old, c.new)
			if text == string(data) {
				t.Fatal("the change changed nothing")
			}
			if problems := strings.Join(readCompose(t, text).problems(file), "\n"); !strings.Contains(problems, c.want) {
				t.Errorf("not found: %q in\n%s", c.want, problems)
			}
		})
	}
}
