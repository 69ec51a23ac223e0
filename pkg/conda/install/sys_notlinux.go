//go:build !linux

package install

import (
	"errors"
	"os"
)

func reflink(*os.File, *os.File) error { return errors.ErrUnsupported }

// placeAt moves a file, and fails if there is something at its new name.
func placeAt(from *os.File, name string, to *os.File, as string) error {
	return linkAndUnlink(from, name, to, as)
}
