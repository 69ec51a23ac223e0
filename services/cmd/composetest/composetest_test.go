package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A target that is forgotten in a deployment leaves its jobs queued for ever, and nothing says so.
func TestEveryTargetIsDeployed(t *testing.T) {
	read := func(pattern string) string {
		files, err := filepath.Glob(filepath.Join("../../..", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v %v", pattern, files, err)
		}
		var all strings.Builder
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
		return all.String()
	}
	compose, kubernetes := read("docker-compose.yml"), read("deploy/kubernetes/base/*.yaml")
	for _, target := range platform.Targets {
		if n := strings.Count(compose, "command: [serve, --target, "+target+"]\n"); n != 1 {
			t.Errorf("docker-compose.yml has %d services for the target %s", n, target)
		}
		if n := strings.Count(kubernetes, "args: [serve, --target, "+target+"]\n"); n != 1 {
			t.Errorf("deploy/kubernetes/base has %d deployments for the target %s", n, target)
		}
	}
}

func TestUnreadyNamesWhatIsNotUp(t *testing.T) {
	const ps = `gateway Up 3 seconds (healthy)
s3 Up 4 seconds
migrate Exited (0) 2 seconds ago
`
	if got := unready(ps); got != "" {
		t.Errorf("all is well, but: %s", got)
	}
	for _, line := range []string{
		"storage Restarting (1) 2 seconds ago", "sync Up 1 second (health: starting)", "jobs Up 9 seconds (unhealthy)",
		"identity Exited (137) 1 second ago", "migrate Exited (1) 1 second ago", "channels Created",
	} {
		if got := unready(ps + line + "\n"); got != line {
			t.Errorf("got %q, want %q", got, line)
		}
	}
}
