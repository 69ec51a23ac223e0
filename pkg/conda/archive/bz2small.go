package archive

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"io"
	"sync"
)

// A bzip2 stream says for blocks of which size it was made, nearly always of 900 kB, and the decoder clears four times as
// much memory before it reads a byte. For small packages that is most of the work of looking into them. But the size is a
// bound and no more: a stream whose blocks are below 100 kB decodes just as well if it claims that.
const (
	smallBz2     = 48 << 10 // files up to this are tried
	smallBz2Data = 1 << 20  // and given up if they hold more than this
	leastLevel   = '1'
)

var smallBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// decodeSmallBz2 unpacks a small file into out, or reports that it has to be read the usual way: because it is not small,
// because its blocks are not, or because something is wrong with it, which the usual way then finds, too.
func decodeSmallBz2(src io.ReaderAt, size int64, out *bytes.Buffer) bool {
	if size < 4 || size > smallBz2 {
		return false
	}
	data := make([]byte, size)
	if n, err := src.ReadAt(data, 0); int64(n) != size || err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	if data[3] < leastLevel || data[3] > '9' {
		return false
	}
	data[3] = leastLevel
	out.Reset()
	n, err := io.Copy(out, io.LimitReader(bzip2.NewReader(bytes.NewReader(data)), smallBz2Data+1))
	return err == nil && n <= smallBz2Data
}
