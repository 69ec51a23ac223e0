package main

import (
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// uid is the account of the process, and its group. It owns what the process may write to and nothing else; the number
// is the one that images without a distribution commonly use, and is written as a number because Kubernetes can check
// runAsNonRoot only then.
const uid = 65532

// options describe one image.
type options struct {
	binary  string // path of the static binary
	arch    string // GOARCH that it was built for
	version string
}

// config says how the image is run. deploy/Dockerfile must say the same; a test compares them.
func (o options) config(img v1.Image) *v1.ConfigFile {
	cfg, err := img.ConfigFile()
	if err != nil {
		cfg = &v1.ConfigFile{} // cannot be: the image was made in memory
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", o.arch
	cfg.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cfg.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", uid, uid),
		Entrypoint: []string{"/entrepot"},
		Cmd:        []string{"serve"},
		WorkingDir: "/",
		// In a container a port that only the container itself reaches is of no use; who may come in is the network's affair.
		Env: []string{
			"PATH=/",
			"ENTREPOT_DATA_DIR=/var/lib/entrepot",
			"ENTREPOT_HTTP_ADDR=0.0.0.0:8000",
			"ENTREPOT_GRPC_ADDR=0.0.0.0:9090",
			"ENTREPOT_SERVICE_ADDR=0.0.0.0:9091",
			"ENTREPOT_DATA_ADDR=0.0.0.0:9092",
			"ENTREPOT_OPS_ADDR=0.0.0.0:9100",
			"ENTREPOT_LOG__FORMAT=json",
		},
		ExposedPorts: map[string]struct{}{"8000/tcp": {}, "9090/tcp": {}, "9091/tcp": {}, "9092/tcp": {}, "9100/tcp": {}},
		Healthcheck: &v1.HealthConfig{
			// There is no shell and no curl in the image: the binary asks itself.
			Test:     []string{"CMD", "/entrepot", "health"},
			Interval: 10 * time.Second, Timeout: 6 * time.Second, StartPeriod: 20 * time.Second, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "entrepot",
			"org.opencontainers.image.version":  o.version,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/entrepot-dev/entrepot",
		},
	}
	return cfg
}
