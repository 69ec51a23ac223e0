//go:build !unix

package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// lockDir makes a file that only one process can make; one that died leaves it behind, to be removed by hand.
func lockDir(ctx context.Context, name string) (unlock func(), err error) {
	lock := filepath.Join(name, ".lock")
	for {
		f, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			f.Close()
			return func() { _ = os.Remove(lock) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func linkAt(*os.File, string, *os.File, string) error { return errors.ErrUnsupported }

func linkAndUnlink(from *os.File, name string, to *os.File, as string) error {
	if _, err := os.Lstat(filepath.Join(to.Name(), as)); err == nil {
		return &os.LinkError{Op: "rename", Old: name, New: as, Err: fs.ErrExist}
	}
	return renameAt(from, name, to, as)
}

func otherDevice(error) bool { return false }

func names(os.FileInfo) uint64 { return 1 }

func ownGroup(*exec.Cmd) {}

func renameAt(from *os.File, name string, to *os.File, as string) error {
	return os.Rename(filepath.Join(from.Name(), name), filepath.Join(to.Name(), as))
}

func cannotLink(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

func setLinkTime(*os.File, string, time.Time) error { return nil }
