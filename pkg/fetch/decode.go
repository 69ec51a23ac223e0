package fetch

import (
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// ownSuffixes maps encodings to the names of files that are themselves so compressed. Web servers that guess an
// encoding from the name label them, and the bytes are meant as they are: digests and sizes are of the .gz.
var ownSuffixes = map[string][]string{
	"gzip":  {".gz", ".tgz"},
	"zstd":  {".zst"},
	"bzip2": {".bz2", ".tbz2"},
	"xz":    {".xz", ".txz"},
	"br":    {".br"},
}

// decode undoes a Content-Encoding, or says why it is not taken.
func (r *Remote) decode(req Request, u *url.URL, raw *http.Response, resp *Response, b *body) error {
	enc := strings.ToLower(strings.TrimSpace(strings.Join(raw.Header.Values("Content-Encoding"), ",")))
	enc = strings.TrimPrefix(enc, "x-")
	if enc == "" || enc == "identity" {
		return nil
	}
	ext := strings.ToLower(path.Ext(u.Path))
	for _, s := range ownSuffixes[enc] {
		if ext == s || strings.EqualFold(path.Ext(req.Path), s) {
			return nil
		}
	}
	if enc != "gzip" {
		return fail(u, ReasonEncoding, never, "upstream sends Content-Encoding %.20q, which was not asked for", enc)
	}
	if resp.Status == http.StatusPartialContent {
		return fail(u, ReasonEncoding, never, "upstream sends a range of a gzip encoding")
	}
	b.src = &gunzip{u: u, in: counter{r: (*wire)(b)}, ratio: r.c.cfg.MaxRatio}
	resp.Size, resp.Total, resp.decoded = UnknownSize, UnknownSize, true
	return nil
}

// gunzip decodes while it watches the ratio. It starts at the first Read, so that a slow upstream meets a progress check.
type gunzip struct {
	u     *url.URL
	in    counter
	z     *gzip.Reader
	out   int64
	ratio int64
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(&g.in)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // not even a header
		}
		if err != nil {
			return 0, err
		}
		g.z = z
	}
	n, err := g.z.Read(p)
	g.out += int64(n)
	const free = 1 << 20 // small bodies may be as repetitive as they like
	if g.out > free && g.out/g.ratio > g.in.n {
		return 0, fail(g.u, ReasonTooLarge, never, "upstream's gzip encoding unpacks to more than %d times its size", g.ratio)
	}
	return n, err
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
