package segment

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Form is how a segment is kept.
type Form uint8

// The forms.
const (
	Raw Form = iota + 1
	Gzip
	Zstd
)

// library compresses. It may change the bytes with any version, so the version is part of every key; archive/tar, which
// comes with the compiler, likewise. builtWith is what the program says it was built with, and pinned what is believed of a
// program that does not say it.
const (
	library = "github.com/klauspost/compress"
	pinned  = "v1.20.3"
)

var builtWith = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return toolsOf(info)
})

// toolsOf names the versions of what decides the bytes of a segment beside the packages.
func toolsOf(info *debug.BuildInfo) string {
	version := pinned
	for _, m := range info.Deps {
		if m.Path != library {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
			version = m.Path + " " // it may be anybody's
		} else {
			version = ""
		}
		version += m.Version
	}
	return runtime.Version() + " " + version
}

const (
	gzipLevel = 5
	zstdLevel = zstd.SpeedDefault
)

// String returns the directory of the form in a cache.
func (f Form) String() string {
	switch f {
	case Raw:
		return "tar"
	case Gzip:
		return "gz"
	case Zstd:
		return "zst"
	}
	return fmt.Sprintf("Form(%d)", uint8(f))
}

// codec is all of that, and the level.
func (f Form) codec() string {
	switch f {
	case Gzip:
		return fmt.Sprintf("%s gzip %d", builtWith(), gzipLevel)
	case Zstd:
		return fmt.Sprintf("%s zstd %d", builtWith(), zstdLevel)
	}
	return builtWith()
}

// resettable is what both compressors are. They are kept: to make one costs more than to compress a small package.
type resettable interface {
	io.WriteCloser
	Reset(w io.Writer)
}

var (
	gzips = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(io.Discard, gzipLevel)
		if err != nil {
			panic(err) // the level is a constant
		}
		return w
	}}
	zstds = sync.Pool{New: func() any {
		// One goroutine: others would cut blocks where the scheduler wants.
		w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(zstdLevel), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithWindowSize(4<<20))
		if err != nil {
			panic(err) // the options are constants
		}
		return w
	}}
)

// compressor writes one member or frame. Close it once, if everything went well.
func (f Form) compressor(w io.Writer) io.WriteCloser {
	pool := map[Form]*sync.Pool{Gzip: &gzips, Zstd: &zstds}[f]
	if pool == nil {
		return nopCloser{w}
	}
	z := pool.Get().(resettable)
	z.Reset(w)
	return &pooled{z, pool}
}

// pooled goes back into its pool when it is closed.
type pooled struct {
	resettable
	pool *sync.Pool
}

// Close implements io.Closer.
func (p *pooled) Close() error {
	err := p.resettable.Close()
	p.Reset(io.Discard) // it must not keep the file
	p.pool.Put(p.resettable)
	return err
}

type nopCloser struct{ io.Writer }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

// Closing returns the bytes that end an archive: two blocks of zeros as a member of their own.
func (f Form) Closing() []byte {
	var buf bytes.Buffer
	w := f.compressor(&buf)
	if _, err := w.Write(closing); err != nil {
		panic(err) // into memory
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// reader unpacks members or frames, however many there are.
func (f Form) reader(r io.Reader) (io.ReadCloser, error) {
	switch f {
	case Gzip:
		return gzip.NewReader(r)
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}
