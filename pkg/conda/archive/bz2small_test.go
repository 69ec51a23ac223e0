package archive

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestASmallFileIsReadTheSameWhateverItsBlocks(t *testing.T) {
	// Words repeat too far apart for runs, so the block holds them all; and they compress, so the file is small.
	rnd := rand.New(rand.NewPCG(1, 1))
	var words [64][]byte
	for i := range words {
		words[i] = make([]byte, 256)
		for k := range words[i] {
			words[i][k] = byte(rnd.Uint32())
		}
	}
	text := func(size int) []byte {
		var out []byte
		for len(out) < size {
			out = append(out, words[rnd.IntN(len(words))]...)
		}
		return out[:size]
	}
	for _, c := range []struct {
		name  string
		data  []byte
		quick bool
	}{
		{"small blocks", text(50_000), true},
		{"a block that is larger than the least", text(400_000), false},
		{"more data than the quick way takes", bytes.Repeat([]byte{0}, 3<<20), false},
		{"nothing", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			packed := bz2(t, c.data)
			if len(packed) > smallBz2 {
				t.Fatalf("%d bytes are not small", len(packed))
			}
			var out bytes.Buffer
			quick := decodeSmallBz2(bytes.NewReader(packed), int64(len(packed)), &out)
			if quick != c.quick {
				t.Fatalf("the quick way took it: %v", quick)
			}
			if quick && !bytes.Equal(out.Bytes(), c.data) {
				t.Error("other data")
			}
		})
	}
	t.Run("a broken file is left to the usual way", func(t *testing.T) {
		packed := bz2(t, text(50_000))
		packed[len(packed)/2] ^= 1
		for _, data := range [][]byte{packed, packed[:len(packed)/2], []byte("BZ"), []byte("BZh0rest"), {}} {
			if decodeSmallBz2(bytes.NewReader(data), int64(len(data)), new(bytes.Buffer)) {
				t.Errorf("took %d bytes", len(data))
			}
		}
	})
}
