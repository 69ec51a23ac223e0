package repodata

import (
	"bytes"
	"io"
	"sync"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// NewEncoder compresses what is written to it into w; the caller closes it, and w. Zstd is one frame, since some clients
// stop after the first, with a window of 2 MiB: records resemble their neighbours, so that more gains next to nothing, and
// both sides hold it in memory (8 MiB are the most that may be sent as a Content-Encoding, RFC 9659). Bzip2 is slow, 6 to
// 11 MB/s. Plain passes through.
func NewEncoder(w io.Writer, e Encoding) (io.WriteCloser, error) {
	switch e {
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(documentWindow))
	case Gzip:
		return gzip.NewWriterLevel(w, 6) // a third faster than the best level and 2 % larger
	case Bzip2:
		return bzip2.NewWriter(w, &bzip2.WriterConfig{Level: bzip2.BestCompression})
	case Plain:
		return plainEncoder{w}, nil
	}
	return nil, &Error{Msg: "unknown encoding " + string(e)}
}

// documentWindow is the window of documents.
const documentWindow = 2 << 20

// NewPromptEncoder is NewEncoder with Zstd for large documents that somebody waits for: it takes half the time, on two
// cores a third, and makes a few per cent more bytes.
func NewPromptEncoder(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(documentWindow))
}

type plainEncoder struct{ io.Writer }

func (plainEncoder) Close() error { return nil }

// encoders compress with one frame, one fixed level and one goroutine: the bytes must depend on the input alone, because
// their digest is a shard's address. Pooled, since a new encoder costs more than a small shard.
var encoders = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithSingleSegment(true)) // a single segment always has its content size in the header
	if err != nil {
		panic(err) // only a bad option can cause it
	}
	return z
}}

// quick is for indexes of shards: they are written with every publication, and digests do not get smaller.
var quick = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true))
	if err != nil {
		panic(err)
	}
	return z
}}

// compressIndex is compressFrame for what is read once and mostly digests.
func compressIndex(data []byte) []byte {
	if len(data) > singleSegmentMax {
		return compressFrame(nil, data)
	}
	z := quick.Get().(*zstd.Encoder)
	defer quick.Put(z)
	return z.EncodeAll(data, make([]byte, 0, len(data)+64))
}

// windowed is for what exceeds singleSegmentMax, where it writes the content size as well.
var windowed = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(singleSegmentMax))
	if err != nil {
		panic(err)
	}
	return z
}}

// singleSegmentMax: a single segment makes the reader hold all of it as one window, and clients allow 16 MiB of that.
const singleSegmentMax = 8 << 20

// compressFrame appends data to dst as one zstd frame with its content size in the header, window ≤ 8 MiB.
func compressFrame(dst, data []byte) []byte {
	pool := &encoders
	if len(data) > singleSegmentMax {
		pool = &windowed
	}
	z := pool.Get().(*zstd.Encoder)
	defer pool.Put(z)
	return z.EncodeAll(data, dst)
}

// decompressAll decompresses what is held in memory, up to size bytes.
func decompressAll(data []byte, size int64) ([]byte, error) {
	d, err := NewDecoder(bytes.NewReader(data), Zstd, DecodeLimits{Size: size})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}
