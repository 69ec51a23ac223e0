package repodata

import (
	"bytes"
	"io"
	"testing"
)

func TestWhatIsEncodedIsReadBack(t *testing.T) {
	doc := generate(2000)
	for _, e := range []Encoding{Plain, Zstd, Gzip, Bzip2} {
		var packed [2]bytes.Buffer
		for i := range packed {
			w, err := NewEncoder(&packed[i], e)
			if err != nil {
				t.Fatal(err)
			}
			for part := range bytesIn(doc, 1000*(i+1)) { // however it comes in
				if _, err := w.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if e != Zstd && !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
			t.Errorf("%s: the same input gave two outputs", e)
		}
		if e != Plain && packed[0].Len() > len(doc)/3 {
			t.Errorf("%s: %d of %d bytes", e, packed[0].Len(), len(doc))
		}
		for i := range packed {
			r, err := NewDecoder(&packed[i], e, DecodeLimits{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || !bytes.Equal(got, doc) {
				t.Errorf("%s: %d bytes back, %v", e, len(got), err)
			}
		}
	}
	if _, err := NewEncoder(io.Discard, "lzma"); err == nil {
		t.Error("an unknown encoding is taken")
	}
}

func bytesIn(data []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(size, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}
