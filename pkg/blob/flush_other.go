//go:build !linux

package blob

import (
	"os"
	"path/filepath"
)

func flushData(f *os.File) error { return f.Sync() }

// flushFS stands in for syncfs where there is none: it flushes every temporary file and every directory of blobs below
// the directory f. Correct, and slow; development machines only.
func flushFS(f *os.File) error {
	return filepath.WalkDir(f.Name(), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if !e.IsDir() && filepath.Base(filepath.Dir(path)) != "tmp" {
			return nil
		}
		g, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer g.Close()
		return g.Sync()
	})
}
