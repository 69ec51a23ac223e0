//go:build unix

package disk

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes the lock of an open file or directory, and waits for it, which a cancelled context ends with its cause. The
// lock is given back when f is closed; the kernel does that when the process ends, however that happens.
func Lock(ctx context.Context, f *os.File) error {
	wait := 5 * time.Millisecond // between attempts: a call that waits in the kernel could not be called off
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 200*time.Millisecond)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
