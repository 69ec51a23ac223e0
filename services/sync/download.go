package sync

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// inMemory is the largest file that is downloaded into memory and stored in a batch; larger ones stream.
const inMemory = 1 << 20

// downloader fetches the files of one run.
type downloader struct {
	remote   *fetch.Remote
	blobs    blob.Store
	store    store
	job      uuid.UUID
	workers  int
	maxFile  int64
	inspect  bool
	progress func(done, bytes int64)

	done, bytes atomic.Int64

	mu     gosync.Mutex
	got    map[string]stored // by path
	failed []Failure
}

// run fetches the entries that next yields until io.EOF. A file that fails is noted; only what concerns the whole run,
// such as a full disk or a lost claim, is an error.
func (d *downloader) run(ctx context.Context, next func() (*channelsv1.PlanEntry, error)) error {
	g, gctx := errgroup.WithContext(ctx)
	work := make(chan *channelsv1.PlanEntry, 2*d.workers)
	b := newBatcher(d.blobs, func(files []stored) error { return d.note(ctx, files) })
	defer b.abort()
	g.Go(func() error {
		defer close(work)
		for {
			e, err := next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.has(e) { // by this job, before it was interrupted
				d.step(0)
				continue
			}
			select {
			case work <- e:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		}
	})
	for range d.workers {
		g.Go(func() error {
			for e := range work {
				if err := d.one(gctx, b, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return b.flush(ctx)
}

// one fetches a file, a second time if its bytes were wrong, for a cache on the way may have been stale.
func (d *downloader) one(ctx context.Context, b *batcher, e *channelsv1.PlanEntry) error {
	var err error
	for range 2 {
		var n int64
		n, err = d.fetch(ctx, b, e)
		if err == nil {
			d.step(n)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if reasonOf(err) != reasonMismatch {
			break
		}
	}
	if whole := wholeRun(err); whole != nil {
		return fmt.Errorf("%s: %w", e.GetPath(), whole)
	}
	d.mu.Lock()
	d.failed = append(d.failed, Failure{Path: e.GetPath(), Error: err.Error(), Reason: reasonOf(err)})
	d.mu.Unlock()
	d.step(0)
	return nil
}

func (d *downloader) step(n int64) {
	done, bytes := d.done.Add(1), d.bytes.Add(n)
	d.progress(done, bytes)
}

// Reasons of failures that are not upstream's answer; those are package fetch's.
const (
	// reasonMismatch: the bytes are not those that the index promises.
	reasonMismatch = "DIGEST_MISMATCH"
	// reasonPackage: the archive is broken, or its inside disagrees with its name.
	reasonPackage = "BAD_PACKAGE"
	// reasonRecord: the index's record of the file cannot be used.
	reasonRecord = "BAD_RECORD"
	// reasonIndex: the index of the subdir cannot be read.
	reasonIndex = "INDEX_UNREADABLE"
)

// has reports whether the job has stored what the entry asks for. An index that changed since asks for something else.
func (d *downloader) has(e *channelsv1.PlanEntry) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.got[e.GetPath()]
	return ok && f.is(e)
}

// storeError marks an error of our own storage, which would fail every other file as well.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

func wholeRun(err error) error {
	var s *storeError
	if errors.As(err, &s) {
		return s.err
	}
	return nil
}

// reasonOf returns the token that a result gives for a failure.
func reasonOf(err error) string {
	var mismatch *blob.MismatchError
	var bad *archive.Error
	var f *fault.Error
	switch {
	case errors.As(err, &mismatch):
		return reasonMismatch
	case errors.As(err, &bad):
		return reasonPackage
	case errors.As(err, &f) && (f.Reason == fetch.ReasonDigest || f.Reason == fetch.ReasonSize):
		return reasonMismatch
	case errors.As(err, &f) && f.Reason != "":
		return f.Reason
	}
	return strings.ToUpper(strings.ReplaceAll(fault.KindOf(err).String(), " ", "_"))
}

func (d *downloader) fetch(ctx context.Context, b *batcher, e *channelsv1.PlanEntry) (int64, error) {
	req := fetch.DownloadRequest{Path: e.GetPath(), Size: fetch.UnknownSize, MaxSize: d.maxFile}
	if u := e.GetUrl(); strings.Contains(u, "://") {
		req.Path, req.URL = "", u
	} else if u != "" {
		req.Path = u
	}
	var put blob.PutOptions
	if size := e.GetSize(); size >= 0 {
		if size > d.maxFile {
			return 0, fault.New(fault.Upstream, "the index says that it has %d bytes, the limit is %d", size, d.maxFile).WithReason(fetch.ReasonTooLarge)
		}
		req.Size, req.MaxSize, put.ExpectSize = size, max(size, 1), &size
	}
	switch {
	case len(e.GetSha256()) > 0:
		want := blob.Digest(e.GetSha256())
		put.Expect = &want
	case len(e.GetMd5()) > 0:
		want := blob.MD5(e.GetMd5())
		put.ExpectMD5 = &want
	}
	if req.Size >= 0 && req.Size <= inMemory {
		return d.small(ctx, b, e, req, put)
	}
	if req.Size < 0 {
		// The store checks the digest once more, but only with it can the client continue a body that broke off, or
		// take one whose end is not marked.
		req.SHA256, req.MD5 = hex.EncodeToString(e.GetSha256()), hex.EncodeToString(e.GetMd5())
	}
	return d.large(ctx, e, req, put)
}

// looksInside reports whether the archive is read: on demand, and where nothing else tells whether the bytes are right.
func (d *downloader) looksInside(e *channelsv1.PlanEntry) bool {
	return d.inspect || len(e.GetSha256())+len(e.GetMd5()) == 0
}

// small keeps a file in memory until its batch has it. The batch hashes it, so the fetch client need not.
func (d *downloader) small(ctx context.Context, b *batcher, e *channelsv1.PlanEntry, req fetch.DownloadRequest, put blob.PutOptions) (n int64, err error) {
	began := time.Now()
	_, err = d.remote.DownloadTo(ctx, req, func(r io.Reader) error {
		took := time.Since(began)
		data := r.(*bytes.Reader)
		n = data.Size()
		if d.looksInside(e) {
			if err := check(ctx, data, n, e); err != nil {
				return err
			}
		}
		return b.put(ctx, stored{Path: e.GetPath(), Want: wantOf(e)}, took, data, put)
	})
	return n, err
}

// check compares a package's inside with its name and subdir.
func check(ctx context.Context, r io.ReaderAt, size int64, e *channelsv1.PlanEntry) error {
	name := e.GetPath()[strings.LastIndexByte(e.GetPath(), '/')+1:]
	_, err := archive.Inspect(ctx, r, size, name, archive.Limits{}, archive.Subdir(e.GetArch()))
	return err
}

// large streams a file into storage.
func (d *downloader) large(ctx context.Context, e *channelsv1.PlanEntry, req fetch.DownloadRequest, put blob.PutOptions) (int64, error) {
	sink := newStream(ctx, d.blobs, put)
	defer sink.abort()
	if _, err := d.remote.Download(ctx, req, sink); err != nil {
		return 0, err
	}
	info, err := sink.finish()
	if err != nil {
		return 0, err
	}
	if d.looksInside(e) {
		b, err := d.blobs.Open(ctx, info.Digest)
		if err != nil {
			return 0, &storeError{err}
		}
		defer b.Close()
		if err := check(ctx, b, info.Size, e); err != nil {
			return 0, err
		}
	}
	return info.Size, d.note(ctx, []stored{{Path: e.GetPath(), Want: wantOf(e), Digest: info.Digest, Size: info.Size}})
}

// note remembers stored files, in the database first.
func (d *downloader) note(ctx context.Context, files []stored) error {
	if err := d.store.addDownloads(ctx, d.job, files); err != nil {
		return &storeError{err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range files {
		d.got[f.Path] = f
	}
	return nil
}

// stream is a fetch.Sink that stores what it is given. Restart begins a new put.
type stream struct {
	ctx   context.Context
	blobs blob.Store
	put   blob.PutOptions

	pw   *io.PipeWriter
	done chan putResult
}

type putResult struct {
	info blob.Info
	err  error
}

func newStream(ctx context.Context, blobs blob.Store, put blob.PutOptions) *stream {
	s := &stream{ctx: ctx, blobs: blobs, put: put}
	s.begin()
	return s
}

func (s *stream) begin() {
	pr, pw := io.Pipe()
	s.pw, s.done = pw, make(chan putResult, 1)
	go func(done chan<- putResult) {
		info, err := s.blobs.Put(s.ctx, pr, s.put)
		pr.CloseWithError(errors.Join(errors.New("the store takes no more"), err))
		done <- putResult{info, err}
	}(s.done)
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.pw.Write(p)
	if err != nil {
		return n, s.putError(err)
	}
	return n, nil
}

// putError tells an error of the storage from one of the bytes.
func (s *stream) putError(err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.Invalid {
		return err // too large, or not what was expected: the file's own fault
	}
	return &storeError{err}
}

var errDropped = errors.New("the download was dropped")

// Restart drops what was written.
func (s *stream) Restart() error {
	s.abort()
	s.begin()
	return nil
}

func (s *stream) abort() {
	if s.done == nil {
		return
	}
	s.pw.CloseWithError(errDropped)
	<-s.done
	s.done = nil
}

func (s *stream) finish() (blob.Info, error) {
	s.pw.Close()
	r := <-s.done
	s.done = nil
	if r.err != nil {
		return r.info, s.putError(r.err)
	}
	return r.info, nil
}
