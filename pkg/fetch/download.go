package fetch

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Sink receives the bytes of one download, in order.
type Sink interface {
	io.Writer
	// Restart throws away everything written so far; the file begins anew with the next Write.
	Restart() error
}

// Summer is an optional ability of a Sink that hashes what it is given anyway, so that nothing is hashed twice.
type Summer interface {
	// SumSHA256 returns the digest of everything written since the last Restart.
	SumSHA256() [sha256.Size]byte
}

// DownloadRequest names a file and what is known about it. Digests are hexadecimal; empty means unknown, and only those
// that are set are computed.
type DownloadRequest struct {
	Path, URL string // as in Request
	Query     url.Values
	// Size is the exact size in bytes, or UnknownSize.
	Size                                      int64
	SHA256, MD5, SHA1, SHA224, SHA384, SHA512 string
	// MaxSize caps the file; it may be 0 if Size is known.
	MaxSize int64
	// IfNoneMatch and IfModifiedSince make the download conditional; see Result.NotModified.
	IfNoneMatch     string
	IfModifiedSince time.Time
	Accept          string
	AcceptEncoding  string
}

// Result is what a finished download was.
type Result struct {
	Size         int64
	SHA256       string // hexadecimal; empty if it was neither asked for nor summed by the sink
	ETag         string
	LastModified time.Time
	ContentType  string
	FinalURL     string // as in Response
	NotModified  bool   // the sink was not touched
	Attempts     int    // requests made, redirects not counted
	Resumes      int    // how many of them continued where the one before broke off
}

type algorithm struct {
	name string
	size int
	make func() hash.Hash
	want func(*DownloadRequest) *string
}

var algorithms = []algorithm{
	{"sha256", sha256.Size, sha256.New, func(r *DownloadRequest) *string { return &r.SHA256 }},
	{"md5", md5.Size, md5.New, func(r *DownloadRequest) *string { return &r.MD5 }},
	{"sha1", sha1.Size, sha1.New, func(r *DownloadRequest) *string { return &r.SHA1 }},
	{"sha224", sha256.Size224, sha256.New224, func(r *DownloadRequest) *string { return &r.SHA224 }},
	{"sha384", sha512.Size384, sha512.New384, func(r *DownloadRequest) *string { return &r.SHA384 }},
	{"sha512", sha512.Size, sha512.New, func(r *DownloadRequest) *string { return &r.SHA512 }},
}

type expected struct {
	algorithm
	hex string
	h   hash.Hash // nil if the sink sums
}

// Download streams a file into sink, continues when it breaks off, and returns nil only if the sink holds exactly the
// file that was asked for. After an error the sink's content is worthless. An error of the sink is returned as it is.
func (r *Remote) Download(ctx context.Context, req DownloadRequest, sink Sink) (Result, error) {
	d, err := r.newDownload(req, sink)
	if err != nil {
		return Result{}, err
	}
	ctx, op := r.c.tel.start(ctx, r, http.MethodGet, d.u)
	err = d.run(ctx, op)
	op.end(err, d.received)
	if err != nil {
		return Result{}, err
	}
	return d.res, nil
}

// DownloadTo is for small files: it keeps the file in memory, retries it as a whole, and calls f once, with a reader of
// the complete and verified bytes that is valid until f returns. f is not called when the file was not modified.
func (r *Remote) DownloadTo(ctx context.Context, req DownloadRequest, f func(io.Reader) error) (Result, error) {
	m := memories.Get().(*memory)
	defer func() {
		if m.Cap() <= 1<<20 { // one large file must not be kept for many small ones
			memories.Put(m)
		}
	}()
	m.Reset()
	res, err := r.Download(ctx, req, m)
	if err != nil || res.NotModified {
		return res, err
	}
	return res, f(bytes.NewReader(m.Bytes()))
}

type memory struct{ bytes.Buffer }

func (m *memory) Restart() error { m.Reset(); return nil }

var memories = sync.Pool{New: func() any { return new(memory) }}

// copyBuffers are 64 KiB: one system call brings about that much, and a sink hashes it from the second-level cache.
var copyBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// download is the state of one Download over its attempts.
type download struct {
	r        *Remote
	req      DownloadRequest
	get      Request
	u        *url.URL
	sink     Sink
	want     []expected
	res      Result
	off      int64  // bytes in the sink
	dirty    bool   // the sink has been written to
	etag     string // of the bytes in the sink
	total    int64  // size the upstream announced for them
	whole    bool   // ranges do not work on it: it was decoded
	pieces   int    // responses that the bytes in the sink come from
	record   int64  // the furthest any attempt came
	received int64
}

func (r *Remote) newDownload(req DownloadRequest, sink Sink) (*download, error) {
	d := &download{r: r, req: req, sink: sink, total: UnknownSize}
	for _, a := range algorithms {
		p := a.want(&d.req)
		if *p == "" {
			continue
		}
		*p = strings.ToLower(*p)
		if b, err := hex.DecodeString(*p); err != nil || len(b) != a.size {
			return nil, fault.Field(a.name, "%.140q is not a %s digest", *p, a.name)
		}
		e := expected{algorithm: a, hex: *p}
		if _, sums := sink.(Summer); !sums || a.name != "sha256" {
			e.h = a.make()
		}
		d.want = append(d.want, e)
	}
	if req.Size < UnknownSize {
		return nil, fault.Field("size", "size must not be negative; %d means unknown", UnknownSize)
	}
	limit := req.MaxSize
	if req.Size >= 0 {
		if limit > 0 && req.Size > limit {
			return nil, fault.Field("size", "size %d is over the limit of %d bytes", req.Size, limit)
		}
		limit = max(req.Size, 1)
	}
	d.get = Request{
		Path: req.Path, URL: req.URL, Query: req.Query, IfNoneMatch: req.IfNoneMatch, IfModifiedSince: req.IfModifiedSince,
		MaxSize: limit, Accept: req.Accept, AcceptEncoding: req.AcceptEncoding,
	}
	u, err := r.prepare(&d.get)
	d.u = u
	return d, err
}

// progress that makes a failure not count: with it, a connection that breaks every minute still brings a large file.
const progress = 1 << 20

func (d *download) run(ctx context.Context, op *operation) error {
	failures := 0
	for {
		err := d.attempt(ctx, op)
		if err == nil {
			if err = d.verify(); err == nil {
				return nil
			}
			if d.pieces < 2 {
				return err
			}
			// The pieces may be of two files that had one name; the whole in one piece decides.
			d.whole = true
			if err := d.restart(); err != nil {
				return err
			}
			failures++
			op.retry(err)
			continue
		}
		var s *sinkError
		if errors.As(err, &s) {
			return s.err
		}
		if d.off >= d.record+progress {
			failures = 0
		}
		d.record = max(d.record, d.off)
		failures++
		if err := d.r.pause(ctx, op, d.u, err, failures); err != nil {
			return err
		}
	}
}

// attempt makes one request and copies what comes.
func (d *download) attempt(ctx context.Context, op *operation) error {
	get := d.get
	strong := d.etag != "" && !strings.HasPrefix(d.etag, "W/")
	// Without a strong ETag a digest still tells if the pieces belong together; without either nothing would.
	resume := d.off > 0 && !d.whole && (strong || len(d.want) > 0)
	if resume {
		get.Range = &Range{Start: d.off, End: -1}
		if strong {
			get.IfRange = d.etag
		}
		get.IfNoneMatch, get.IfModifiedSince = "", time.Time{}
	} else if err := d.restart(); err != nil {
		return err
	}
	d.res.Attempts++
	resp, err := d.r.once(ctx, get, d.u)
	if err != nil {
		if resume && rangeRefused(err) {
			return d.anew(ctx, op, fail(d.u, reasonOf(err), backoff, "upstream refused to continue at byte %d", d.off))
		}
		return err
	}
	defer resp.Body.Close()
	op.status(resp)
	if resp.NotModified {
		d.res.NotModified = true
		d.describe(resp)
		return nil
	}
	if resp.Status == http.StatusPartialContent {
		if !d.continues(resp) {
			_ = resp.Body.Close()
			return d.anew(ctx, op, fail(d.u, ReasonProtocol, backoff, "the file changed between two parts"))
		}
		d.res.Resumes++
	} else if resume {
		// If-Range did its work: the whole of another version, or a server that does not know ranges.
		if err := d.restart(); err != nil {
			return err
		}
	}
	return d.copy(resp)
}

// anew starts again from zero, at once: the server is well, it only cannot continue. Ranges are not tried again, so this
// happens once.
func (d *download) anew(ctx context.Context, op *operation, why error) error {
	op.retry(why)
	d.whole = true
	return d.attempt(ctx, op)
}

// rangeRefused: 416, or an answer to the range that makes no sense.
func rangeRefused(err error) bool {
	return StatusOf(err) == http.StatusRequestedRangeNotSatisfiable || reasonOf(err) == ReasonProtocol || reasonOf(err) == ReasonEncoding
}

// continues reports whether a part belongs to the bytes that are already in the sink.
func (d *download) continues(resp *Response) bool {
	if resp.ETag != "" && d.etag != "" && resp.ETag != d.etag {
		return false
	}
	for _, total := range []int64{d.total, d.req.Size} {
		if resp.Total >= 0 && total >= 0 && resp.Total != total {
			return false
		}
	}
	return true
}

func (d *download) copy(resp *Response) error {
	if resp.Offset == 0 {
		if d.req.Size >= 0 && resp.Total >= 0 && resp.Total != d.req.Size {
			return fail(d.u, ReasonSize, never, "upstream announces %d bytes, expected are %d", resp.Total, d.req.Size)
		}
		if resp.EndUnknown && d.req.Size < 0 && len(d.want) == 0 {
			return fail(d.u, ReasonTruncated, never, "upstream sends no length, so nothing tells whether the file is complete")
		}
		d.etag, d.total, d.whole = resp.ETag, resp.Total, resp.decoded
		d.describe(resp)
	}
	d.pieces++
	buf := copyBuffers.Get().(*[64 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			d.dirty = true
			if _, werr := d.sink.Write(buf[:n]); werr != nil {
				return &sinkError{werr}
			}
			for _, w := range d.want {
				if w.h != nil {
					w.h.Write(buf[:n])
				}
			}
			d.off += int64(n)
			d.received += int64(n)
		}
		switch {
		case d.off > d.get.MaxSize: // a body's own cap does not know of the parts before it
			return tooLarge(d.u, d.get.MaxSize, "sends more")
		case err == nil:
			continue
		case err == io.EOF:
		case d.off == d.req.Size && len(d.want) > 0 && reasonOf(err) == ReasonTruncated:
			// only the end mark is missing; the digest decides
		default:
			return err
		}
		break
	}
	for _, size := range []int64{d.req.Size, d.total} {
		if size >= 0 && d.off < size {
			return fail(d.u, ReasonTruncated, backoff, "body ended after %d of %d bytes", d.off, size)
		}
	}
	return nil
}

func (d *download) describe(resp *Response) {
	d.res.ETag, d.res.LastModified, d.res.ContentType, d.res.FinalURL = resp.ETag, resp.LastModified, resp.ContentType, resp.FinalURL
}

func (d *download) restart() error {
	if d.dirty {
		if err := d.sink.Restart(); err != nil {
			return &sinkError{err}
		}
	}
	for _, w := range d.want {
		if w.h != nil {
			w.h.Reset()
		}
	}
	d.off, d.pieces, d.dirty, d.etag, d.total = 0, 0, false, "", UnknownSize
	return nil
}

// verify compares size and digests at the end.
func (d *download) verify() error {
	if d.res.NotModified {
		return nil
	}
	d.res.Size = d.off
	if d.req.Size >= 0 && d.off != d.req.Size {
		return fail(d.u, ReasonSize, never, "file has %d bytes, expected are %d", d.off, d.req.Size)
	}
	if s, ok := d.sink.(Summer); ok {
		sum := s.SumSHA256()
		d.res.SHA256 = hex.EncodeToString(sum[:])
	}
	for _, w := range d.want {
		got := d.res.SHA256
		if w.h != nil {
			got = hex.EncodeToString(w.h.Sum(nil))
		}
		if got != w.hex {
			return fail(d.u, ReasonDigest, never, "file has %s %s, expected is %s", w.name, got, w.hex)
		}
		if w.name == "sha256" {
			d.res.SHA256 = got
		}
	}
	return nil
}

// sinkError keeps the caller's own failures apart from the upstream's.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }
