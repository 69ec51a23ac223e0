package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// config is client.yaml: the servers that login has seen.
type config struct {
	// Current is the server that is used when none is named.
	Current string `yaml:"current,omitempty"`
	// Servers by URL.
	Servers map[string]login `yaml:"servers,omitempty"`
}

// login is what is kept of a server.
type login struct {
	// User is whose key it is, for a person to read.
	User string `yaml:"user,omitempty"`
	// Key is the API key.
	Key string `yaml:"key"`
}

// configPath is where client.yaml lies: below $XDG_CONFIG_HOME, else below ~/.config.
func (a *app) configPath() (string, error) {
	base := a.getenv("XDG_CONFIG_HOME")
	if base == "" {
		home := a.getenv("HOME")
		if home == "" {
			return "", fault.New(fault.Invalid, "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for client.yaml")
		}
		base = filepath.Join(home, ".config")
	}
	return filepath.Join(base, "entrepot", "client.yaml"), nil
}

// readConfig returns an empty configuration if there is none yet.
func (a *app) readConfig() (config, error) {
	cfg := config{Servers: map[string]login{}}
	path, err := a.configPath()
	if err != nil {
		return cfg, nil // nothing can have been kept
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, nil
	}
	if err != nil {
		return cfg, fault.New(fault.Invalid, "cannot read the logins: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(data, &cfg, yaml.Strict()); err != nil {
		// The error would quote the file, and the file holds keys.
		return cfg, fault.New(fault.Invalid, "%s is not what login writes; delete it and log in again", path)
	}
	if cfg.Servers == nil {
		cfg.Servers = map[string]login{}
	}
	return cfg, nil
}

// writeConfig replaces client.yaml in one step; only its owner may read it.
func (a *app) writeConfig(cfg config) (path string, err error) {
	if path, err = a.configPath(); err != nil {
		return "", err
	}
	data, err := yaml.Marshal(cfg)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".client-*.yaml") // 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}
