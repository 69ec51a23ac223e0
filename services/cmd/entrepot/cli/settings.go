package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

// reserved variables are read by the program, but are not configuration.
var reserved = []string{"ENTREPOT_PG_BIN", "ENTREPOT_TEST_PG", "ENTREPOT_TEST_BIN", "ENTREPOT_TEST_VERSITYGW", "ENTREPOT_SERVER", "ENTREPOT_API_KEY", "ENTREPOT_CONFIG"}

// addSettings adds the flags of the configuration; the rest of it is set by file and variables.
func addSettings(cmd *cobra.Command) {
	f := cmd.Flags()
	d := platform.DefaultConfig()
	f.String("config", "", "YAML file with settings (default: $ENTREPOT_CONFIG; 'entrepot config show' prints all keys)")
	f.String("data-dir", "", "where everything is kept (default "+d.DataDir+")")
	f.StringSlice("target", nil, "parts to run in this process: all, "+strings.Join(platform.Targets, ", "))
	f.StringSlice("kinds", nil, "only these kinds of jobs")
	f.Bool("dev", false, "test users, login without password, upstreams on loopback")
	for _, a := range []struct{ name, def, what string }{
		{"http-addr", d.HTTPAddr, "REST edge"},
		{"grpc-addr", d.GRPCAddr, "gRPC front door"},
		{"service-addr", d.ServiceAddr, "gRPC between parts"},
		{"data-addr", d.DataAddr, "data plane"},
		{"ops-addr", d.OpsAddr, "health and metrics"},
	} {
		f.String(a.name, "", fmt.Sprintf("host:port of the %s (default %s)", a.what, a.def))
	}
	f.String("tls-cert", "", "certificate of the gRPC front door, PEM")
	f.String("tls-key", "", "its key, PEM")
	f.String("database-url", "", "postgres://… instead of the private PostgreSQL")
	f.String("nats-url", "", "nats://… instead of the embedded server")
	f.String("blob-url", "", "directory or s3://bucket/prefix?endpoint=… (default <data-dir>/blobs)")
	f.String("master-key-file", "", "seals keys and credentials (default <data-dir>/master-key)")
	f.StringSlice("egress-allow", nil, "CIDRs of inner addresses that upstreams may have")
	f.String("log-level", "", "debug, info, warn or error")
	f.String("log-format", "", "text or json")
	f.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" {
			f.Annotations = map[string][]string{isSetting: nil}
		}
	})
}

// isSetting marks the flags that are settings; a command may have others, such as --live.
const isSetting = "entrepot_setting"

// loadSettings reads defaults, file, variables and flags, in this order, and says what is doubtful.
func loadSettings(cmd *cobra.Command) (platform.Config, error) {
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return platform.Config{}, err
	}
	if file == "" {
		file = os.Getenv("ENTREPOT_CONFIG")
	}
	flags := map[string]any{}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if _, ok := f.Annotations[isSetting]; !ok {
			return
		}
		key := strings.ReplaceAll(f.Name, "-", "_")
		if f.Name == "log-level" || f.Name == "log-format" {
			key = strings.Replace(f.Name, "-", ".", 1)
		}
		if v, ok := f.Value.(pflag.SliceValue); ok {
			flags[key] = v.GetSlice()
			return
		}
		flags[key] = f.Value.String()
	})
	cfg, warnings, err := config.Load(platform.DefaultConfig(), config.Sources{
		File: file, Environ: os.Environ(), EnvPrefix: "ENTREPOT_", Flags: flags, Reserved: reserved,
	})
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "entrepot: warning:", w)
	}
	if err != nil {
		return cfg, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, err
	}
	for _, doubt := range cfg.Doubts() {
		fmt.Fprintln(cmd.ErrOrStderr(), "entrepot: warning:", doubt)
	}
	return cfg, nil
}

// readSecretFile reads a secret that stands alone in a file; no name means no secret.
func readSecretFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
