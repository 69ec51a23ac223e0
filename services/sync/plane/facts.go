package plane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// fact is what an index says of one name: a file, or in an index of shards a package.
type fact struct {
	sha256 []byte // 32 bytes, or nil
	md5    []byte // 16 bytes, or nil
	size   int64  // -1 if unknown
}

// want is the digest that the file must have: SHA-256, else MD5, else nothing.
func (f fact) want() []byte {
	if len(f.sha256) > 0 {
		return f.sha256
	}
	return f.md5
}

// A blob of facts is a header of eight bytes and entries of factSize bytes, sorted by key. The key is the beginning of the
// SHA-256 of the name: keys are spread evenly, so that the place of one can be guessed.
const (
	factsMagic = "facts\x00\x00\x01"
	keySize    = 16
	factSize   = keySize + 32 + 16 + 8
	// factWindow is how many entries one read takes. The place that is guessed is off by less than twice the square root of
	// the number of entries nearly always: 1,400 for half a million.
	factWindow = 2048
)

type factKey [keySize]byte

func keyOf(name string) (k factKey) {
	sum := sha256.Sum256([]byte(name))
	copy(k[:], sum[:])
	return k
}

// factsBuilder collects facts: 72 bytes each, the memory that reading an index takes.
type factsBuilder struct{ entries [][factSize]byte }

func (b *factsBuilder) add(name string, f fact) {
	var e [factSize]byte
	k := keyOf(name)
	copy(e[:], k[:])
	copy(e[keySize:], f.sha256)
	copy(e[keySize+32:], f.md5)
	binary.BigEndian.PutUint64(e[keySize+48:], uint64(f.size))
	b.entries = append(b.entries, e)
}

// put stores the facts.
func (b *factsBuilder) put(ctx context.Context, blobs blob.Store) (blob.Info, error) {
	slices.SortFunc(b.entries, func(x, y [factSize]byte) int { return bytes.Compare(x[:], y[:]) })
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.WriteString(pw, factsMagic)
		const batch = 512
		buf := make([]byte, 0, batch*factSize)
		for i := 0; i < len(b.entries) && err == nil; i += batch {
			buf = buf[:0]
			for _, e := range b.entries[i:min(i+batch, len(b.entries))] {
				buf = append(buf, e[:]...)
			}
			_, err = pw.Write(buf)
		}
		pw.CloseWithError(err)
	}()
	info, err := blobs.Put(ctx, pr, blob.PutOptions{})
	pr.CloseWithError(io.ErrClosedPipe)
	<-done
	return info, err
}

// facts are open for lookups.
type facts struct {
	b blob.Blob
	n int64
}

func openFacts(ctx context.Context, blobs blob.Store, digest []byte) (*facts, error) {
	if len(digest) != len(blob.Digest{}) {
		return nil, fault.New(fault.Internal, "an index without facts")
	}
	b, err := blobs.Open(ctx, blob.Digest(digest))
	if fault.Is(err, fault.NotFound) { // not to be taken for an index that lists nothing
		return nil, fault.New(fault.Unavailable, "the facts of an index are missing in storage")
	}
	if err != nil {
		return nil, err
	}
	f := &facts{b: b, n: (b.Size() - int64(len(factsMagic))) / factSize}
	if f.n < 0 || f.n*factSize+int64(len(factsMagic)) != b.Size() {
		b.Close()
		return nil, fault.New(fault.Internal, "blob %x holds no facts", digest)
	}
	return f, nil
}

func (f *facts) Close() error { return f.b.Close() }

// find returns what is known of a name.
func (f *facts) find(name string) (fact, bool, error) {
	key := keyOf(name)
	lo, hi := int64(0), f.n // the entry is in [lo, hi), if anywhere
	// The share of keys below this one; 32 bits are enough to guess.
	guess := int64(uint64(binary.BigEndian.Uint32(key[:])) * uint64(f.n) >> 32)
	var buf []byte
	for hi > lo {
		from := max(lo, min(guess-factWindow/2, hi-factWindow))
		count := min(factWindow, hi-from)
		if buf == nil {
			buf = make([]byte, min(factWindow, f.n)*factSize)
		}
		part := buf[:count*factSize]
		if n, err := f.b.ReadAt(part, int64(len(factsMagic))+from*factSize); n < len(part) {
			return fact{}, false, fmt.Errorf("read facts: %w", err)
		}
		entry := func(i int) []byte { return part[i*factSize : (i+1)*factSize] }
		switch {
		case bytes.Compare(key[:], entry(0)[:keySize]) < 0:
			hi = from
		case bytes.Compare(key[:], entry(int(count) - 1)[:keySize]) > 0:
			lo = from + count
		default:
			i, j := 0, int(count)
			for i < j {
				if m := (i + j) / 2; bytes.Compare(entry(m)[:keySize], key[:]) < 0 {
					i = m + 1
				} else {
					j = m
				}
			}
			e := entry(i)
			if !bytes.Equal(e[:keySize], key[:]) {
				return fact{}, false, nil
			}
			return decodeFact(e), true, nil
		}
		guess = lo + (hi-lo)/2
	}
	return fact{}, false, nil
}

func decodeFact(e []byte) fact {
	f := fact{size: int64(binary.BigEndian.Uint64(e[keySize+48:]))}
	if s := e[keySize : keySize+32]; !bytes.Equal(s, make([]byte, 32)) {
		f.sha256 = bytes.Clone(s)
	}
	if s := e[keySize+32 : keySize+48]; !bytes.Equal(s, make([]byte, 16)) {
		f.md5 = bytes.Clone(s)
	}
	return f
}

// digestOf decodes a digest of an index; one that is none is as good as absent.
func digestOf(s string, size int) []byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return nil
	}
	return b
}
