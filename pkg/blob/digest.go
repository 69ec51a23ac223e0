package blob

import (
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Digest is the SHA-256 of a blob's bytes, and its name. It is comparable; the zero Digest names no blob.
//
// In text (JSON, URLs, file names) it is 64 lower-case hexadecimal digits, in PostgreSQL a bytea of 32 bytes.
type Digest [sha256.Size]byte

// Sum returns the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads the text form. It takes exactly what String writes: 64 digits in lower case, no prefix. One
// blob has one spelling, so that a path, a cache key or a signed grant cannot be varied. The error is Invalid.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return d, fault.Field("digest", "a digest has 64 hexadecimal digits, this one %d", len(s))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d, fault.Field("digest", "a digest has only the digits 0-9 and a-f, not %q", c)
		}
	}
	_, _ = hex.Decode(d[:], []byte(s)) // cannot fail: the digits were checked
	return d, nil
}

// String returns 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d is the zero Digest, which names no blob.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler with the text form.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it is as strict as ParseDigest.
func (d *Digest) UnmarshalText(text []byte) error {
	v, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// Value implements driver.Valuer: 32 bytes for a bytea column.
func (d Digest) Value() (driver.Value, error) { return d[:], nil }

// Scan implements sql.Scanner for a bytea of 32 bytes. A nullable column is scanned into a *Digest.
func (d *Digest) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok {
		return fault.New(fault.Internal, "scan digest: a column of type %T, want bytea", src)
	}
	return d.ScanBytes(b)
}

// BytesValue is pgx's short cut to Value; it also makes []Digest a bytea[].
func (d Digest) BytesValue() ([]byte, error) { return d[:], nil }

// ScanBytes is pgx's short cut to Scan.
func (d *Digest) ScanBytes(b []byte) error {
	if len(b) != len(d) {
		return fault.New(fault.Internal, "scan digest: %d bytes, want %d", len(b), len(d))
	}
	copy(d[:], b)
	return nil
}
