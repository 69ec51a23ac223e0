package sync

import (
	"context"
	"errors"
	"io"
	gosync "sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// batcher collects small files from many goroutines into batches of blobs. Whoever fills a batch commits it, while the
// others go on with the next; note is told of the files that are durable then.
type batcher struct {
	store   blob.Store
	batches blob.Batcher // nil: the store makes each blob durable by itself
	note    func([]stored) error

	mu  gosync.Mutex
	cur *openBatch
}

type openBatch struct {
	batch blob.Batch
	born  time.Time
	users gosync.WaitGroup // puts under way

	mu    gosync.Mutex
	files []stored
	bytes int64
}

func newBatcher(store blob.Store, note func([]stored) error) (*batcher, error) {
	b := &batcher{store: store, note: note}
	b.batches, _ = blob.As[blob.Batcher](store)
	return b, nil
}

// put stores one file; it is durable, and noted, once its batch is.
func (b *batcher) put(ctx context.Context, path string, r io.Reader, o blob.PutOptions) error {
	if b.batches == nil {
		info, err := b.store.Put(ctx, r, o)
		if err != nil {
			return classify(err)
		}
		return b.note([]stored{{path, info.Digest, info.Size}})
	}
	ob, err := b.join()
	if err != nil {
		return &storeError{err}
	}
	info, err := ob.batch.Put(ctx, r, o)
	if err != nil {
		ob.users.Done()
		return classify(err)
	}
	ob.mu.Lock()
	ob.files = append(ob.files, stored{path, info.Digest, info.Size})
	ob.bytes += info.Size
	full := len(ob.files) >= batchFiles || ob.bytes >= batchBytes || time.Since(ob.born) >= batchAge
	ob.mu.Unlock()
	ob.users.Done()
	if full && b.take(ob) {
		return b.commit(ctx, ob)
	}
	return nil
}

// classify tells the file's own fault from the storage's.
func classify(err error) error {
	if fault.Is(err, fault.Invalid) || errors.Is(err, context.Canceled) {
		return err
	}
	return &storeError{err}
}

// join returns the current batch, with a place in it.
func (b *batcher) join() (*openBatch, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur == nil {
		batch, err := b.batches.NewBatch()
		if err != nil {
			return nil, err
		}
		b.cur = &openBatch{batch: batch, born: time.Now()}
	}
	b.cur.users.Add(1)
	return b.cur, nil
}

// take makes the caller the one who commits ob; only one caller gets it.
func (b *batcher) take(ob *openBatch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur != ob {
		return false
	}
	b.cur = nil
	return true
}

func (b *batcher) commit(ctx context.Context, ob *openBatch) error {
	defer ob.batch.Abort()
	ob.users.Wait()
	if len(ob.files) == 0 {
		return nil
	}
	if err := ob.batch.Commit(ctx); err != nil {
		return &storeError{err}
	}
	return b.note(ob.files)
}

// flush commits what is left, after the last put has returned.
func (b *batcher) flush(ctx context.Context) error {
	b.mu.Lock()
	ob := b.cur
	b.cur = nil
	b.mu.Unlock()
	if ob == nil {
		return nil
	}
	return b.commit(ctx, ob)
}

// abort drops what was not committed.
func (b *batcher) abort() {
	b.mu.Lock()
	ob := b.cur
	b.cur = nil
	b.mu.Unlock()
	if ob != nil {
		ob.users.Wait()
		ob.batch.Abort()
	}
}
