package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// Flush makes everything durable that was written on the file system on which f is.
func Flush(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "flush", Path: f.Name(), Err: err}
	}
	return nil
}
