package install

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reflink makes a file share the blocks of another one, where the file system can: a copy that costs nothing.
func reflink(to, from *os.File) error { return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) }

// placeAt moves a file, and fails if there is something at its new name.
func placeAt(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), as, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS): // a file system that knows no such flag
		return linkAndUnlink(from, name, to, as)
	}
	return &os.LinkError{Op: "rename", Old: name, New: as, Err: err}
}
