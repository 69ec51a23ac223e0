package channels

import (
	"bytes"
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// putBatch is how many small blobs are made durable together.
	putBatch = 256
	// putFew is how many are made durable one by one: a batch flushes the whole file system, and a single upload would
	// wait for the hundreds of megabytes that others are writing.
	putFew = 4
	// putParallel is how many requests an object store gets at once: one costs about a millisecond.
	putParallel = 16
)

// putter stores many small blobs, in durable batches where the store has them, else side by side. It is for one goroutine.
type putter struct {
	store   blob.Store
	batch   blob.Batch
	pending [][]byte // while there is no batch
	n       int
}

func newPutter(store blob.Store) *putter { return &putter{store: store} }

// add takes a blob and returns its digest; it is durable after commit.
func (p *putter) add(ctx context.Context, data []byte) (blob.Digest, error) {
	if p.n == putBatch {
		if err := p.commit(ctx); err != nil {
			return blob.Digest{}, err
		}
	}
	p.n++
	if p.batch == nil && p.n > putFew {
		if err := p.begin(ctx); err != nil {
			return blob.Digest{}, err
		}
	}
	if p.batch != nil {
		info, err := p.batch.Put(ctx, bytes.NewReader(data), blob.PutOptions{})
		return info.Digest, err
	}
	p.pending = append(p.pending, data)
	return blob.Sum(data), nil
}

// begin opens a batch for what is pending, if the store has batches.
func (p *putter) begin(ctx context.Context) (err error) {
	b, ok := blob.As[blob.Batcher](p.store)
	if !ok {
		return nil
	}
	if p.batch, err = b.NewBatch(); err != nil {
		return err
	}
	for _, data := range p.pending {
		if _, err := p.batch.Put(ctx, bytes.NewReader(data), blob.PutOptions{}); err != nil {
			return err
		}
	}
	p.pending = p.pending[:0]
	return nil
}

// commit makes what was added durable.
func (p *putter) commit(ctx context.Context) error {
	p.n = 0
	if p.batch != nil {
		return p.batch.Commit(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(putParallel)
	for _, data := range p.pending {
		g.Go(func() error {
			_, err := p.store.Put(ctx, bytes.NewReader(data), blob.PutOptions{})
			return err
		})
	}
	p.pending = p.pending[:0]
	return g.Wait()
}

// abort frees what was not committed. It may be called after commit.
func (p *putter) abort() {
	if p.batch != nil {
		p.batch.Abort()
	}
}

// eachStored asks the store for many digests at once and tells which are there, by the index in digests.
func eachStored(ctx context.Context, store blob.Store, files []stagedDigest, fn func(i int, stored bool, size int64)) error {
	type answer struct {
		stored bool
		size   int64
	}
	answers := make([]answer, len(files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(putParallel)
	const step = 64 // so that a directory, where a question costs microseconds, is not drowned in goroutines
	for from := 0; from < len(files); from += step {
		g.Go(func() error {
			for i := from; i < min(from+step, len(files)); i++ {
				if files[i].Digest == nil {
					continue
				}
				st, err := store.Stat(ctx, *files[i].Digest)
				switch {
				case err == nil:
					answers[i] = answer{true, st.Size}
				case !fault.Is(err, fault.NotFound):
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, a := range answers {
		fn(i, a.stored, a.size)
	}
	return nil
}
