package repodata

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

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
