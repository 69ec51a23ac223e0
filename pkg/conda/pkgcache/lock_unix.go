//go:build unix

package pkgcache

import (
	"context"
	"os"

	"github.com/entrepot-dev/entrepot/pkg/conda/internal/disk"
)

// lockFile takes the lock of a file, which is made if needed, and waits for it. The file stays: removing it would let two
// processes hold two locks of one name.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	if err := disk.Lock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
