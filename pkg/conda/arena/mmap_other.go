//go:build !unix

package arena

import (
	"io"
	"os"
	"unsafe"
)

// mapFile reads the file where there is no mmap.
func mapFile(f *os.File, size int) (*mapping, error) {
	words := make([]uint64, (size+7)/8) // aligned for all that the sections hold
	data := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:size]
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, int64(size)), data); err != nil {
		return nil, err
	}
	return &mapping{data: data}, nil
}
