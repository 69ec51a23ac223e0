package link

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// Bounds for packages of strangers. None of them is near to what real packages have.
const (
	// inMemory is the size up to which a file is read whole, in bytes. Longer ones are streamed, unless they hold the
	// placeholder in a wide encoding, which no real package of that size does.
	inMemory = 16 << 20
	// maxInMemory is the size up to which those are read whole, and files that cannot be read twice.
	maxInMemory = 256 << 20
	// maxReplaced is how many placeholders may be in a text, or in a binary that is held in memory. A placeholder of one byte
	// and a long prefix would else make a file hundreds of times as large, and its list larger than the file.
	maxReplaced = 1 << 20
)

// ErrPrefixTooLong says that a binary file has no room for the prefix.
var ErrPrefixTooLong = errors.New("the prefix is longer than the placeholder")

// ErrTooMuch says that a file is too long, or has too many placeholders, to have them replaced.
var ErrTooMuch = errors.New("there is too much to replace")

func tooMany() error {
	return fmt.Errorf("%w: the placeholder is in it more than %d times", ErrTooMuch, maxReplaced)
}

// Rewrite copies a file and replaces the entry's placeholder by the target's prefix. It returns the SHA-256 of what it
// wrote, in hex: sha256_in_prefix of conda-meta; and how many bytes that were.
//
// Where src is also an io.ReaderAt and io.Seeker, as files are, a long file is read twice and never held in memory.
func Rewrite(dst io.Writer, src io.Reader, e *Entry, t *Target) (sum string, size int64, err error) {
	out := &counter{w: dst, h: sha256.New()}
	if err := rewrite(out, src, e, t); err != nil {
		return "", out.n, err
	}
	return hex.EncodeToString(out.h.Sum(nil)), out.n, nil
}

func rewrite(out io.Writer, src io.Reader, e *Entry, t *Target) error {
	if e.Placeholder == "" || e.FileMode == archive.ModeBinary && t.windows() {
		_, err := io.Copy(out, src)
		return err
	}
	prefix := t.Prefix
	if t.windows() {
		prefix = strings.ReplaceAll(prefix, `\`, "/") // a backslash would begin an escape in many languages
	}
	head, err := io.ReadAll(io.LimitReader(src, inMemory+1))
	if err != nil {
		return err
	}
	codes := encodings(e.Placeholder, prefix)
	if len(head) > inMemory {
		narrow, err := isNarrow(src, codes)
		if err != nil {
			return err
		}
		if narrow {
			s := &stream{w: out, r: src, old: []byte(e.Placeholder), new: []byte(prefix)}
			if e.FileMode == archive.ModeBinary {
				return s.binary()
			}
			return s.text(t)
		}
		if head, err = readOn(head, src, maxInMemory); err != nil {
			return err
		}
	}
	if e.FileMode == archive.ModeBinary {
		return replaceBinary(out, head, codes)
	}
	return replaceText(out, head, codes, t)
}

// isNarrow reads a long file through for wide placeholders and rewinds it. It is false as well for what cannot be rewound.
func isNarrow(src io.Reader, codes []encoding) (bool, error) {
	at, ok := src.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return false, nil
	}
	longest := 0
	for _, c := range codes {
		longest = max(longest, len(c.old))
	}
	buf := make([]byte, 1<<20+longest)
	for off := int64(0); ; off += 1 << 20 {
		n, err := at.ReadAt(buf, off)
		for _, c := range codes {
			if c.unit > 1 && bytes.Contains(buf[:n], c.old) {
				return false, nil
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
	}
	_, err := at.Seek(0, io.SeekStart)
	return err == nil, err
}

// readOn reads the rest of a file whose beginning was read, up to a length of the whole.
func readOn(head []byte, src io.Reader, most int) ([]byte, error) {
	buf := bytes.NewBuffer(head)
	if _, err := buf.ReadFrom(io.LimitReader(src, int64(most+1-len(head)))); err != nil {
		return nil, err
	}
	if buf.Len() > most {
		return nil, fmt.Errorf("%w: the file has more than %d MiB, with the placeholder in a wide encoding, or cannot be read twice", ErrTooMuch, most>>20)
	}
	return buf.Bytes(), nil
}

// counter hashes and counts what goes by.
type counter struct {
	w io.Writer
	h hash.Hash
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.h.Write(p[:n])
	return n, err
}

func tooLong(prefix, placeholder int) error {
	return fmt.Errorf("%w: it has %d bytes, the file has room for %d", ErrPrefixTooLong, prefix, placeholder)
}
