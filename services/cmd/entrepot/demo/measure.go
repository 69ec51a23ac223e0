package demo

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// measure takes the size and the digests of what is written to it.
type measure struct {
	sha, md hash.Hash
	size    int64
}

func newMeasure() *measure { return &measure{sha: sha256.New(), md: md5.New()} }

// Write never fails.
func (m *measure) Write(p []byte) (int, error) {
	m.size += int64(len(p))
	m.sha.Write(p)
	m.md.Write(p)
	return len(p), nil
}

// differs says in what the bytes differ from what they should be; empty if in nothing.
func (m *measure) differs(want entry) string {
	return want.differs(entry{SHA256: hex.EncodeToString(m.sha.Sum(nil)), MD5: hex.EncodeToString(m.md.Sum(nil)), Size: m.size})
}

// differs compares what both know.
func (e entry) differs(got entry) string {
	switch {
	case e.Size != 0 && got.Size != e.Size:
		return fmt.Sprintf("%d bytes instead of %d", got.Size, e.Size)
	case e.SHA256 != "" && got.SHA256 != e.SHA256:
		return fmt.Sprintf("SHA-256 %.12s… instead of %.12s…", got.SHA256, e.SHA256)
	case e.SHA256 == "" && e.MD5 != "" && got.MD5 != e.MD5:
		return fmt.Sprintf("MD5 %.12s… instead of %.12s…", got.MD5, e.MD5)
	}
	return ""
}

// reasonOf returns the reason of a fault.
func reasonOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Reason
	}
	return ""
}
