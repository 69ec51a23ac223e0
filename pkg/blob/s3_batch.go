package blob

import (
	"bytes"
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// batchMemory is how many bytes of small blobs a batch holds until Commit; beyond it they wait in the bucket.
	batchMemory = 32 << 20
	// batchPuts is how many requests a commit has in flight; one costs about a millisecond.
	batchPuts = 16
)

// NewBatch implements Batcher. Every PUT of S3 is durable by itself; what a batch saves is waiting: its blobs are sent
// sixteen at a time.
func (s *S3) NewBatch() (Batch, error) {
	b := &s3Batch{s: s}
	b.reset()
	return b, nil
}

type s3Batch struct {
	s      *S3
	mu     sync.Mutex
	held   int
	staged map[Digest]s3Staged
}

// s3Staged is a verified body that waits in memory or, if data is nil, under a temporary key.
type s3Staged struct {
	info    Info
	data    []byte
	tmp     string
	replace bool
}

func (b *s3Batch) reset() { b.staged, b.held = map[Digest]s3Staged{}, 0 }

func (b *s3Batch) Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error) {
	buf := b.s.parts.Get().(*[]byte)
	defer b.s.parts.Put(buf)
	in := NewIntake(o)
	defer in.Release()
	n, err := in.Read(ctx, r, *buf)
	if err != nil && err != io.EOF {
		return Info{}, err
	}
	st := s3Staged{replace: o.Replace}
	if err == io.EOF {
		if st.info, err = in.Finish(); err != nil {
			return Info{}, err
		}
		if known, info := b.known(ctx, st.info, o.Replace); known {
			return info, nil
		}
		b.mu.Lock()
		hold := b.held+n <= batchMemory
		if hold {
			b.held += n
		}
		b.mu.Unlock()
		if hold {
			st.data = bytes.Clone((*buf)[:n])
		} else if st.tmp, err = b.s.stash(ctx, st.info, (*buf)[:n]); err != nil {
			return Info{}, err
		}
	} else {
		if st.tmp, st.info, err = b.s.upload(ctx, in, r, buf); err != nil {
			return Info{}, err
		}
		if known, info := b.known(ctx, st.info, o.Replace); known {
			b.s.removeTemp(ctx, st.tmp)
			return info, nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, twice := b.staged[st.info.Digest]; twice {
		if st.tmp != "" {
			b.s.removeTemp(ctx, st.tmp)
		}
		b.held -= len(st.data)
		return old.info, nil
	}
	b.staged[st.info.Digest] = st
	info := st.info
	info.Created = true
	return info, nil
}

// known reports whether the blob is in the batch or the bucket already.
func (b *s3Batch) known(ctx context.Context, info Info, replace bool) (bool, Info) {
	b.mu.Lock()
	_, twice := b.staged[info.Digest]
	b.mu.Unlock()
	if twice {
		return true, info
	}
	if replace {
		return false, info
	}
	st, err := b.s.Stat(ctx, info.Digest) // on error Commit finds out
	return err == nil && st.Size == info.Size, info
}

func (b *s3Batch) Commit(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		b.removeTemps(ctx)
		b.reset()
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(batchPuts)
	for _, st := range b.staged {
		g.Go(func() (err error) {
			if st.tmp != "" {
				_, err = b.s.promote(gctx, st.tmp, st.info, st.replace)
			} else {
				_, err = b.s.putSmall(gctx, st.info, st.data, st.replace)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (b *s3Batch) Abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removeTemps(context.Background())
	b.reset()
}

func (b *s3Batch) removeTemps(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(batchPuts)
	for _, st := range b.staged {
		if st.tmp != "" {
			g.Go(func() error { b.s.removeTemp(ctx, st.tmp); return nil })
		}
	}
	_ = g.Wait()
}
