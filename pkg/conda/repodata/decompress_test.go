package repodata

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	dsbzip2 "github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func pack(t testing.TB, enc Encoding, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch enc {
	case Plain:
		return data
	case Zstd:
		w, err = zstd.NewWriter(&b)
	case Gzip:
		w = gzip.NewWriter(&b)
	case Bzip2:
		w, err = dsbzip2.NewWriter(&b, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var encodings = []Encoding{Plain, Zstd, Bzip2, Gzip}

func TestNewDecoder(t *testing.T) {
	data := generate(200)
	for _, enc := range encodings {
		t.Run(string(enc), func(t *testing.T) {
			for range 3 { // decoders are reused
				d, err := NewDecoder(bytes.NewReader(pack(t, enc, data)), enc, DecodeLimits{Size: int64(len(data))})
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(d)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := d.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("read after close: %v", err)
				}
			}
		})
		t.Run(string(enc)+" ends at the limit of size", func(t *testing.T) {
			d, err := NewDecoder(bytes.NewReader(pack(t, enc, data)), enc, DecodeLimits{Size: int64(len(data)) - 1})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			wantLimit(t, d, "decompressed size")
		})
	}
	t.Run("an unknown encoding is refused", func(t *testing.T) {
		if _, err := NewDecoder(strings.NewReader(""), "br", DecodeLimits{}); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("what is cut off or corrupt is an error", func(t *testing.T) {
		for _, enc := range encodings[1:] {
			packed := pack(t, enc, data)
			broken := bytes.Clone(packed)
			broken[len(broken)/2] ^= 0x55
			for _, in := range [][]byte{packed[:len(packed)/2], broken, []byte("no archive at all")} {
				d, err := NewDecoder(bytes.NewReader(in), enc, DecodeLimits{})
				if err == nil {
					_, err = io.ReadAll(d)
					d.Close()
				}
				var e *Error
				if !errors.As(err, &e) {
					t.Errorf("%s: got %v", enc, err)
				}
			}
		}
	})
	t.Run("the extension tells the encoding", func(t *testing.T) {
		for name, want := range map[string]Encoding{
			"repodata.json": Plain, "a/repodata.json.zst": Zstd,
			"repodata.json.bz2": Bzip2, "repodata.json.gz": Gzip,
		} {
			if got := EncodingOf(name); got != want {
				t.Errorf("%s: %s", name, got)
			}
		}
	})
}

func wantLimit(t *testing.T, r io.Reader, what string) {
	t.Helper()
	n, err := io.Copy(io.Discard, r)
	var e *Error
	var limit *LimitError
	if !errors.As(err, &e) || !errors.As(err, &limit) || limit.What != what {
		t.Errorf("after %d bytes: %v, want the limit of %s", n, err, what)
	}
	if _, again := r.Read(make([]byte, 1)); again != err {
		t.Errorf("then %v", again)
	}
}

func TestBombsAreDefused(t *testing.T) {
	zeros := make([]byte, 64<<20)
	for _, enc := range encodings[1:] {
		t.Run(string(enc), func(t *testing.T) {
			bomb := pack(t, enc, zeros)
			start := time.Now()
			d, err := NewDecoder(bytes.NewReader(bomb), enc, DecodeLimits{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			wantLimit(t, d, "compression ratio")
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	t.Run("a window of gigabytes is refused before memory is spent", func(t *testing.T) {
		// Magic, a descriptor without single segment, and a window descriptor of 2^(10+31) bytes.
		d, err := NewDecoder(bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0}), Zstd, DecodeLimits{})
		if err == nil {
			_, err = io.ReadAll(d)
			d.Close()
		}
		if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestADecoderThatPanicsFailsItsFileOnly(t *testing.T) {
	d := &decoder{name: "x", in: &counter{}, out: panicky{}, lim: DecodeLimits{}.withDefaults()}
	_, err := d.Read(make([]byte, 1))
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("got %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

type panicky struct{}

func (panicky) Read([]byte) (int, error) { panic("index out of range") }
