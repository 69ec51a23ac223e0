//go:build !unix

package pkgcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// lockFile makes a directory beside the name, which only one process can; one that died leaves it behind, and it is
// then to be removed by hand.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	for {
		err := os.Mkdir(name+".d", 0o700)
		if err == nil {
			return func() { _ = os.Remove(name + ".d") }, nil
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
