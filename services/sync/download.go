package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"

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
	remote   fetcher
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
	bad    []badArchive
}

// badArchive has the digest that the index says, and is no good nevertheless.
type badArchive struct {
	digest []byte
	why    string
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
			had, err := d.has(gctx, e)
			if err != nil {
				return err
			}
			if had {
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
	return g.Wait()
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
		if !otherFile(reasonOf(err)) {
			break
		}
	}
	if whole := wholeRun(err); whole != nil {
		return fmt.Errorf("%s: %w", e.GetPath(), whole)
	}
	d.mu.Lock()
	f := Failure{Path: e.GetPath(), Error: err.Error(), Reason: reasonOf(err)}
	d.failed = append(d.failed, f)
	if f.Reason == reasonPackage && len(e.GetSha256()) > 0 {
		d.bad = append(d.bad, badArchive{e.GetSha256(), f.Error})
	}
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

// otherFile reports whether a failure may mean that the file is another one than the index speaks of.
func otherFile(reason string) bool { return reason == reasonMismatch || reason == fetch.ReasonTooLarge }

// has reports whether the job, before it was interrupted, has stored a file whose SHA-256 the index does not tell. For
// the others storage itself is the record: Diff asks it, and what it names as missing is missing.
func (d *downloader) has(ctx context.Context, e *channelsv1.PlanEntry) (bool, error) {
	if len(e.GetSha256()) > 0 {
		return false, nil
	}
	d.mu.Lock()
	f, ok := d.got[e.GetPath()]
	d.mu.Unlock()
	if !ok || !f.is(e) {
		return false, nil
	}
	_, err := d.blobs.Stat(ctx, f.Digest)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
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
	_, err = d.remote.DownloadTo(ctx, req, func(r io.Reader) error {
		data := r.(*bytes.Reader)
		n = data.Size()
		if d.looksInside(e) {
			if err := matches(data, e.GetSha256()); err != nil { // what is wrong then is that it is another file
				return err
			}
			if err := check(ctx, data, n, e); err != nil {
				return err
			}
		}
		return b.put(ctx, stored{Path: e.GetPath(), Want: wantOf(e)}, data, put)
	})
	return n, err
}

// matches compares a file with the digest that is wanted of it, if any.
func matches(data *bytes.Reader, want []byte) error {
	if len(want) == 0 {
		return nil
	}
	h := sha256.New()
	if _, err := data.WriteTo(h); err != nil {
		return err
	}
	if got := h.Sum(nil); !bytes.Equal(got, want) {
		return &blob.MismatchError{Field: "sha256", Want: hex.EncodeToString(want), Got: hex.EncodeToString(got)}
	}
	_, err := data.Seek(0, io.SeekStart)
	return err
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

// note remembers stored files whose digest only we know, in the database first.
func (d *downloader) note(ctx context.Context, files []stored) error {
	files = slices.DeleteFunc(slices.Clone(files), func(f stored) bool { return len(f.Want) == sha256.Size })
	if len(files) == 0 {
		return nil
	}
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
