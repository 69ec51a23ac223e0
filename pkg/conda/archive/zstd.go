package archive

import (
	"bufio"
	"context"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// pooledWindow is the largest window of a decoder that goes back to the pool.
// conda-build's level 19 uses 8 MiB; the rare larger ones are left to the
// garbage collector, so that an idle process keeps no large buffers.
const pooledWindow = 8 << 20

var (
	smallDecoders = sync.Pool{New: func() any { return newDecoder(pooledWindow) }}
	bufReaders    = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}
)

// newDecoder makes a synchronous decoder: concurrency 1 starts no goroutines.
func newDecoder(window int64) *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(uint64(max(window, zstd.MinWindowSize))),
		// The budget of the caller is the real bound; this one only
		// applies to single-segment frames, which announce their size.
		zstd.WithDecoderMaxMemory(1<<62),
	)
	if err != nil {
		panic(err) // only for options that are out of range
	}
	return d
}

// zstdMember decompresses one member of a .conda. It fails at the end if the
// ZIP's checksum does not fit.
type zstdMember struct {
	name   string
	dec    *zstd.Decoder
	buf    *bufio.Reader
	crc    *crcReader
	want   uint32
	pooled bool
}

func openZstd(ctx context.Context, s *source, m *member, lim Limits, walkBlocks bool) (*zstdMember, error) {
	window, err := checkFrame(ctx, s, m, lim, walkBlocks)
	if err != nil {
		return nil, err
	}
	z := &zstdMember{name: m.name, want: m.crc, pooled: window <= pooledWindow}
	if z.pooled {
		z.dec = smallDecoders.Get().(*zstd.Decoder)
	} else {
		z.dec = newDecoder(lim.MaxWindow)
	}
	z.crc = &crcReader{r: io.NewSectionReader(s, m.data, m.size)}
	z.buf = bufReaders.Get().(*bufio.Reader)
	z.buf.Reset(z.crc)
	if err := z.dec.Reset(z.buf); err != nil {
		z.close()
		return nil, broken(m.name, "cannot decompress", err)
	}
	return z, nil
}

// Read implements io.Reader.
func (z *zstdMember) Read(p []byte) (n int, err error) {
	defer func() {
		// Decoders of foreign bytes have panicked before (CVE-2026-116591).
		if r := recover(); r != nil {
			z.pooled = false
			n, err = 0, refuse(z.name, "", "cannot decompress: the decoder failed: %v", r)
		}
	}()
	n, err = z.dec.Read(p)
	switch {
	case err == io.EOF:
		if _, err := io.Copy(io.Discard, z.buf); err != nil {
			return n, broken(z.name, "cannot read the package", err)
		}
		if z.crc.sum != z.want {
			return n, refuse(z.name, "", "the ZIP's checksum does not fit the member")
		}
	case err != nil:
		err = broken(z.name, "cannot decompress", err)
	}
	return n, err
}

func (z *zstdMember) close() {
	if z.dec == nil {
		return
	}
	if z.pooled {
		_ = z.dec.Reset(nil)
		smallDecoders.Put(z.dec)
	} else {
		z.dec.Close()
	}
	z.buf.Reset(nil)
	bufReaders.Put(z.buf)
	z.dec, z.buf = nil, nil
}

type crcReader struct {
	r   io.Reader
	sum uint32
}

func (c *crcReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum = crc32.Update(c.sum, crc32.IEEETable, p[:n])
	return n, err
}

// checkFrame reads the frame header of a member and returns its window. With
// walk it also follows the block headers (RFC 8878, 3.1.1) and demands that
// the first frame fills the member: readers disagree about a second one.
func checkFrame(ctx context.Context, s *source, m *member, lim Limits, walk bool) (int64, error) {
	head, err := s.bytes(m.data, min(m.size, zstd.HeaderMaxSize))
	if err != nil {
		return 0, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil || h.Skippable {
		return 0, refuse(m.name, "", "the member is not a zstd frame")
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	switch {
	case h.DictionaryID != 0:
		return 0, refuse(m.name, "", "the zstd frame needs a dictionary")
	case h.HasFCS && h.FrameContentSize > uint64(lim.budget(m.size)):
		return 0, refuse(m.name, "", "the zstd frame announces %d bytes, more than the limit of %d", h.FrameContentSize, lim.budget(m.size))
	case window > uint64(lim.MaxWindow):
		return 0, refuse(m.name, "", "the zstd frame needs a window of %d bytes, more than the limit of %d", window, lim.MaxWindow)
	}
	if !walk {
		return int64(window), nil
	}
	at, end := int64(h.HeaderSize), m.size
	for n := 0; ; n++ {
		if n%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
		}
		if end-at < 3 {
			return 0, refuse(m.name, "", "the zstd frame is truncated")
		}
		b, err := s.bytes(m.data+at, 3)
		if err != nil {
			return 0, err
		}
		v := int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
		last, kind, size := v&1 == 1, v>>1&3, v>>3
		if kind == 3 {
			return 0, refuse(m.name, "", "the zstd frame has a block of a reserved kind")
		}
		if kind == 1 {
			size = 1 // one byte, repeated
		}
		at += 3 + size
		if at > end {
			return 0, refuse(m.name, "", "the zstd frame is truncated")
		}
		if last {
			break
		}
	}
	if h.HasCheckSum {
		at += 4
	}
	if at != end {
		return 0, refuse(m.name, "", "the member is not exactly one zstd frame")
	}
	return int64(window), nil
}
