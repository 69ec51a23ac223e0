// Package config fills a struct from defaults, a YAML file, the environment and flags, each overriding the one before.
//
//	type Config struct {
//		DataDir string     `koanf:"data_dir"`
//		Sync    SyncConfig `koanf:"sync"`
//	}
//
//	cfg, warnings, err := config.Load(defaults, config.Sources{File: path, Environ: os.Environ(), EnvPrefix: "ENTREPOT_", Flags: changed})
//
// The key sync.workers is spelled
//
//	sync:              in YAML
//	  workers: 8
//	ENTREPOT_SYNC__WORKERS=8   in the environment: two underscores for the dot, because one occurs in names
//	"sync.workers"     among the flags
//
// Nothing is ignored in silence: a key that does not exist, in the file or as a variable with our prefix, is an error
// that names its line or variable and the nearest key that does; a value of the wrong type names its place too. All
// mistakes are reported together. What is doubtful but works is a [Warning].
//
// Fields may be strings, booleans, numbers, time.Duration ("30s", "90d"), [Bytes] ("64MiB"), [Secret], anything with
// UnmarshalText, lists of these (in text: separated by commas), map[string]string (in text: a=b,c=d), structs, and
// mappings from names to structs: login.providers.github.client_id is ENTREPOT_LOGIN__PROVIDERS__GITHUB__CLIENT_ID.
// It is the only package that reads the environment.
package config
