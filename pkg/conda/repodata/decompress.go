package repodata

import (
	"bufio"
	"compress/bzip2"
	"fmt"
	"io"
	"path"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Encoding is how an index file is compressed.
type Encoding string

const (
	Plain Encoding = "none"
	Zstd  Encoding = "zst"
	Bzip2 Encoding = "bz2"
	Gzip  Encoding = "gz"
)

// EncodingOf goes by the extension of a file name.
func EncodingOf(filename string) Encoding {
	switch path.Ext(filename) {
	case ".zst":
		return Zstd
	case ".bz2":
		return Bzip2
	case ".gz":
		return Gzip
	}
	return Plain
}

// DecodeLimits stop decompression bombs. Zero fields mean the defaults.
type DecodeLimits struct {
	// Size is the most decompressed bytes; default 4 GiB, some ten times the largest index there is.
	Size int64
	// Ratio is how many bytes one compressed byte may become, averaged from the start; default 250. Real indexes stay
	// below 40; the nastiest inputs reach 1,000 (gzip), 10,000 (zstd) and a million (bzip2). It counts from RatioFrom on.
	Ratio int64
	// RatioFrom is how many decompressed bytes are free of the ratio; default 4 MiB.
	RatioFrom int64
}

func (l DecodeLimits) withDefaults() DecodeLimits {
	if l.Size <= 0 {
		l.Size = 4 << 30
	}
	if l.Ratio <= 0 {
		l.Ratio = 250
	}
	if l.RatioFrom <= 0 {
		l.RatioFrom = 4 << 20
	}
	return l
}

// maxWindow is what a zstd frame may ask for as history, at most: a demand on our memory that its writer makes. Indexes
// of other servers are written at levels 16 to 22, whose windows end at 128 MiB.
const maxWindow = 128 << 20

// NewDecoder decompresses r within limits. Reading past a limit fails with an *Error that holds a *LimitError; corrupt
// input fails with an *Error. Close releases the decoder, but does not close r.
func NewDecoder(r io.Reader, enc Encoding, lim DecodeLimits) (io.ReadCloser, error) {
	d := &decoder{lim: lim.withDefaults(), in: &counter{r: r}, name: string(enc)}
	switch enc {
	case Plain:
		d.out = d.in
		d.lim.Ratio = 0
	case Zstd:
		z, err := newZstd(d.in)
		if err != nil {
			return nil, d.corrupt(err)
		}
		d.out = z
		d.release = func() {
			if z.Reset(nil) == nil { // let go of r
				zstdDecoders.Put(z)
			}
		}
	case Bzip2:
		d.out = bzip2.NewReader(bufio.NewReaderSize(d.in, 32<<10))
	case Gzip:
		z, err := gzip.NewReader(bufio.NewReaderSize(d.in, 32<<10))
		if err != nil {
			return nil, d.corrupt(err)
		}
		d.out = z
	default:
		return nil, &Error{Msg: fmt.Sprintf("unknown encoding %q", string(enc))}
	}
	return d, nil
}

// zstdDecoders are *zstd.Decoder. With concurrency 1 they own no goroutines, so the collector may have them.
var zstdDecoders sync.Pool

func newZstd(r io.Reader) (*zstd.Decoder, error) {
	if z, ok := zstdDecoders.Get().(*zstd.Decoder); ok {
		return z, z.Reset(r)
	}
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
}

type decoder struct {
	name    string
	in      *counter
	out     io.Reader
	lim     DecodeLimits
	n       int64
	err     error
	release func()
}

func (d *decoder) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	defer func() {
		// Decoders of strangers' bytes have panicked before (CVE-2026-116591); one file must not end the process.
		if v := recover(); v != nil {
			d.release = nil // its state is unknown
			n, err = 0, d.corrupt(fmt.Errorf("decoder panicked: %v", v))
			d.err = err
		}
	}()
	if most := d.allowance(); int64(len(p)) > most {
		p = p[:most]
	}
	n, err = d.out.Read(p)
	d.n += int64(n)
	switch {
	case d.n > d.lim.Size:
		err = d.over("decompressed size", d.lim.Size)
	case d.lim.Ratio > 0 && d.n > d.lim.RatioFrom && d.n/d.lim.Ratio > d.in.n:
		err = d.over("compression ratio", d.lim.Ratio)
	case err != nil && err != io.EOF:
		err = d.corrupt(err)
	}
	d.err = err
	return n, err
}

// allowance lets one byte more than the limit through, so that exactly the limit is no error.
func (d *decoder) allowance() int64 { return max(1, d.lim.Size-d.n+1) }

func (d *decoder) over(what string, limit int64) error {
	cause := &LimitError{What: what, Limit: limit}
	return &Error{Offset: d.n, Msg: d.name + ": " + cause.Error(), Err: cause}
}

func (d *decoder) corrupt(err error) error {
	return &Error{Offset: d.n, Msg: d.name + ": " + err.Error(), Err: err}
}

// Close gives the decoder back. Reading afterwards fails.
func (d *decoder) Close() error {
	if d.release != nil {
		d.release()
		d.release = nil
	}
	if d.err == nil || d.err == io.EOF {
		d.err = &Error{Msg: "decoder is closed", Err: io.ErrClosedPipe}
	}
	return nil
}

// counter counts what the decompressor takes in, read ahead included.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
