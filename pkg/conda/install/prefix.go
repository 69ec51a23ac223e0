package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"
)

const (
	metaDir     = "conda-meta"
	historyFile = "history"
	frozenFile  = "frozen"
	// maxRecord bounds one file of conda-meta. The largest real ones, of packages with 100,000 files, have 40 MiB.
	maxRecord = 256 << 20
)

// ErrNoPrefix says that a directory is no conda environment: it has no conda-meta/history.
var ErrNoPrefix = errors.New("it is no conda environment (there is no conda-meta/history)")

// FrozenError refuses to change an environment that its owner froze with conda-meta/frozen.
type FrozenError struct {
	Prefix, Message string // Message may be empty
}

// Error implements error.
func (e *FrozenError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the environment %s is frozen (conda-meta/frozen)", e.Prefix)
	}
	return fmt.Sprintf("the environment %s is frozen: %s", e.Prefix, e.Message)
}

// RecordError is a file of conda-meta that cannot be read.
type RecordError struct {
	File string
	Err  error
}

// Error implements error.
func (e *RecordError) Error() string { return e.File + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

// Read returns what is installed in a prefix, sorted by name: the records in conda-meta. A directory without
// conda-meta, or without any directory there, has nothing installed. A record that cannot be read is a *RecordError, as
// is a second one of the same name. While Interrupted says so, records of two states may be mixed: see Settle.
func Read(prefix string) ([]*Record, error) {
	dir := filepath.Join(prefix, metaDir)
	names, err := recordNames(dir)
	if err != nil {
		return nil, err
	}
	out := make([]*Record, len(names))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		g.Go(func() (err error) {
			out[i], err = readRecord(filepath.Join(dir, name))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b *Record) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name {
			return nil, &RecordError{filepath.Join(dir, out[i].MetaName()), fmt.Errorf("%s is installed already, as %s", out[i].Name, out[i-1].Stem())}
		}
	}
	return out, nil
}

func recordNames(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		// "._name.json" is what macOS leaves on foreign disks.
		if name := e.Name(); strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".") && e.Type().IsRegular() {
			names = append(names, name)
		}
	}
	return names, nil
}

func readRecord(name string) (*Record, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxRecord {
		return nil, &RecordError{name, fmt.Errorf("it has %d bytes, which is more than any record", st.Size())}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord(data)
	if err != nil {
		return nil, &RecordError{name, err}
	}
	// The record is replaced and removed under the name it gives itself.
	if base := filepath.Base(name); r.MetaName() != base {
		return nil, &RecordError{name, fmt.Errorf("it is of %s, and should be called %s", r.Stem(), r.MetaName())}
	}
	return r, nil
}

// Frozen returns a *FrozenError if the prefix must not be changed, else nil or what kept it from finding out.
func Frozen(prefix string) error {
	data, err := os.ReadFile(filepath.Join(prefix, metaDir, frozenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A marker that cannot be read is a marker.
	var m struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(data, &m)
	return &FrozenError{Prefix: prefix, Message: m.Message}
}

// IsPrefix reports whether a directory is a conda environment.
func IsPrefix(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, metaDir, historyFile))
	return err == nil
}
