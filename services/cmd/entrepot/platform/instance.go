package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// instanceFile names the data directory. It is written once.
const instanceFile = "instance"

// instance returns the name of a data directory whose lock is held. While it is, no other process goes by that name, so
// what an earlier one of the name held (leases on jobs, the sweeper's office) is nobody's. The host is part of it: a copy
// of the directory on another machine is another instance.
func instance(dir string) (string, error) {
	path := filepath.Join(dir, instanceFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data = []byte(uuid.NewString() + "\n")
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("name the data directory: %w", err)
	}
	id, err := uuid.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		// A crash may have left it empty. A new name costs no more than waiting for old leases.
		id = uuid.New()
		if err := os.WriteFile(path, []byte(id.String()+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("name the data directory: %w", err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name the data directory: %w", err)
	}
	return host + "/" + id.String(), nil
}
