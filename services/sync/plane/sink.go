package plane

import (
	"context"
	"errors"
	"io"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// sink stores a download as a blob, and with a spool lets readers follow it.
type sink struct {
	ctx   context.Context
	blobs blob.Store
	opts  blob.PutOptions
	spool *spool // may be nil

	pw   *io.PipeWriter
	done chan putResult
}

type putResult struct {
	info blob.Info
	err  error
}

var _ fetch.Sink = (*sink)(nil)

func newSink(ctx context.Context, blobs blob.Store, opts blob.PutOptions, sp *spool) *sink {
	s := &sink{ctx: ctx, blobs: blobs, opts: opts, spool: sp}
	s.begin()
	return s
}

func (s *sink) begin() {
	pr, pw := io.Pipe()
	s.pw, s.done = pw, make(chan putResult, 1)
	go func(done chan<- putResult) {
		info, err := s.blobs.Put(s.ctx, pr, s.opts)
		pr.CloseWithError(errors.Join(errors.New("the store takes no more"), err))
		done <- putResult{info, err}
	}(s.done)
}

// Write implements fetch.Sink.
func (s *sink) Write(p []byte) (int, error) {
	if n, err := s.pw.Write(p); err != nil {
		return n, err
	}
	if s.spool != nil {
		return s.spool.Write(p)
	}
	return len(p), nil
}

// Restart implements fetch.Sink.
func (s *sink) Restart() error {
	s.abort()
	s.begin()
	if s.spool != nil {
		s.spool.restart()
	}
	return nil
}

var errDropped = errors.New("the download was dropped")

// abort ends the put without storing anything. After finish it does nothing.
func (s *sink) abort() {
	if s.done != nil {
		s.pw.CloseWithError(errDropped)
		<-s.done
		s.done = nil
	}
}

// finish waits until the blob is durable.
func (s *sink) finish() (blob.Info, error) {
	s.pw.Close()
	r := <-s.done
	s.done = nil
	return r.info, r.err
}

// download stores a file of the upstream as a blob.
func (p *Plane) download(ctx context.Context, remote *fetch.Remote, req fetch.DownloadRequest, sp *spool, opts blob.PutOptions) (blob.Info, fetch.Result, error) {
	s := newSink(ctx, p.deps.Blobs, opts, sp)
	defer s.abort()
	res, err := remote.Download(ctx, req, s)
	if err != nil || res.NotModified {
		return blob.Info{}, res, err
	}
	info, err := s.finish()
	if err != nil {
		return info, res, err
	}
	return info, res, p.hold(ctx, info)
}

// isWrong reports whether an error says that a file is complete and not what it should be.
func isWrong(err error) bool {
	var m *blob.MismatchError
	if errors.As(err, &m) {
		return true
	}
	var f *fault.Error
	return errors.As(err, &f) && (f.Reason == fetch.ReasonDigest || f.Reason == fetch.ReasonSize || f.Reason == fetch.ReasonTooLarge)
}
