package sync

import (
	"context"
	"errors"
	"io"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

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
