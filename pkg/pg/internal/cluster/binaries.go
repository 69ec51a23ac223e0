package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// MinMajor is the oldest PostgreSQL our SQL runs on.
const MinMajor = 15

// debianBins is where Debian and Ubuntu install each major version side by side; none of it is on PATH.
const debianBins = "/usr/lib/postgresql/*/bin"

// FindBinaries returns the directory that holds postgres and initdb: binDir if it is not empty, else the one on PATH,
// else the newest of /usr/lib/postgresql/*/bin. If major is not 0, that major version is preferred among the
// last, because an existing cluster can only be opened by the version that made it.
func FindBinaries(binDir string, major int) (string, error) {
	return findBinaries(binDir, major, os.Getenv("PATH"), debianBins)
}

func findBinaries(binDir string, major int, path, pattern string) (string, error) {
	if binDir != "" {
		if !hasServer(binDir) {
			return "", fault.New(fault.Precondition, "no postgres and initdb in %s (ENTREPOT_PG_BIN)", binDir).
				WithReason("POSTGRES_NOT_FOUND")
		}
		return binDir, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) && hasServer(dir) {
			return dir, nil
		}
	}
	dirs, _ := filepath.Glob(pattern) // the only error is a bad pattern, and ours is a constant
	best, bestMajor := "", 0
	for _, dir := range dirs {
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil || !hasServer(dir) {
			continue
		}
		if n == major {
			return dir, nil
		}
		if n > bestMajor {
			best, bestMajor = dir, n
		}
	}
	switch {
	case best == "":
		return "", fault.New(fault.Precondition, "no PostgreSQL server found on PATH or in %s: install the Debian package "+
			"postgresql (%d or newer), set ENTREPOT_PG_BIN to its bin directory, or use a running server with --database-url",
			pattern, MinMajor).WithReason("POSTGRES_NOT_FOUND")
	case bestMajor < MinMajor:
		return "", fault.New(fault.Precondition, "the newest PostgreSQL found is %s, but %d is needed: install the Debian package postgresql-%d",
			best, MinMajor, MinMajor).WithReason("POSTGRES_TOO_OLD")
	case major != 0 && major != bestMajor:
		return "", fault.New(fault.Precondition, "the cluster was made by PostgreSQL %d, but only %d is installed: install the Debian "+
			"package postgresql-%d, or upgrade the cluster with pg_upgrade", major, bestMajor, major).WithReason("POSTGRES_VERSION")
	}
	return best, nil
}

func hasServer(dir string) bool {
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// majorOf reads the major version that made a cluster, or 0 if there is none.
func majorOf(data string) int {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}
