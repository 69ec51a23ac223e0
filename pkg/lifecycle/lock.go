package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// lockFile is left in place when unlocked: removing it would let two programs lock two files of one name.
const lockFile = "entrepot.lock"

// LockDir claims a data directory for this process until unlock is called or the process ends, however it ends. If
// another process holds it the error (fault.Precondition) names that process. unlock may be called twice.
//
// The lock is flock(2): on a network file system it is only as good as that system's support for it.
func LockDir(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // Go closes it in children, so PostgreSQL does not inherit the lock
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		return nil, fault.New(fault.Precondition, "the data directory %s is in use by %s (it holds %s)", dir, holder, path).
			WithReason("DATA_DIR_LOCKED")
	}
	if err := writePid(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	var once sync.Once
	return func() { once.Do(func() { _ = f.Close() }) }, nil
}

func writePid(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
