package blob

import (
	"bytes"
	"time"
)

// FromBytes returns a Blob that reads from memory. The slice is shared and must not change.
func FromBytes(b []byte, modTime time.Time) Blob {
	return &memoryBlob{Reader: bytes.NewReader(b), data: b, modTime: modTime}
}

// memoryBlob gets Size from bytes.Reader.
type memoryBlob struct {
	*bytes.Reader
	data    []byte
	modTime time.Time
}

// InMemory is a Blob whose bytes are at hand as a whole.
type InMemory interface {
	Blob
	// Bytes are shared and must not change.
	Bytes() []byte
}

func (b *memoryBlob) Bytes() []byte { return b.data }

func (b *memoryBlob) ModTime() time.Time { return b.modTime }
func (b *memoryBlob) Close() error       { return nil }
