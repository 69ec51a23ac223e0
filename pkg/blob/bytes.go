package blob

import (
	"bytes"
	"time"
)

// FromBytes returns a Blob that reads from memory. The slice is shared and must not change.
func FromBytes(b []byte, modTime time.Time) Blob {
	return &memoryBlob{Reader: bytes.NewReader(b), modTime: modTime}
}

// memoryBlob gets Size from bytes.Reader.
type memoryBlob struct {
	*bytes.Reader
	modTime time.Time
}

func (b *memoryBlob) ModTime() time.Time { return b.modTime }
func (b *memoryBlob) Close() error       { return nil }
