package sync

import (
	"context"
	"errors"
	"io"
	gosync "sync"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// batcher collects small files from many goroutines into batches of blobs, one point of durability for each batch; note
// is told of the files that are durable.
//
// What a crash loses are the files that are not noted yet, and each of them is asked for again. So a goroutine goes on
// only when its own file is noted: no more can be lost than there are goroutines. One of those that wait ends the batch,
// and while it does, the files of the others fill the next one. So it costs little: a batch is as large as the disk is
// slow.
type batcher struct {
	store   blob.Store
	batches blob.Batcher // nil: the store makes each blob durable by itself
	note    func([]stored) error

	mu         gosync.Mutex
	cur        *openBatch
	committing bool // somebody ends batches; one at a time is enough for a disk
}

// openBatch is a batch. Its fields are guarded by the batcher's lock until it is taken; then they are the taker's.
type openBatch struct {
	batch blob.Batch
	users gosync.WaitGroup // puts under way
	files []stored
	ended chan struct{}
	err   error // set before ended is closed
}

func newBatcher(store blob.Store, note func([]stored) error) *batcher {
	b := &batcher{store: store, note: note}
	b.batches, _ = blob.As[blob.Batcher](store)
	return b
}

// put stores one file; it is durable, and noted, when put returns. f.Digest and f.Size are filled in.
func (b *batcher) put(ctx context.Context, f stored, r io.Reader, o blob.PutOptions) error {
	if b.batches == nil {
		info, err := b.store.Put(ctx, r, o)
		if err != nil {
			return classify(err)
		}
		f.Digest, f.Size = info.Digest, info.Size
		return b.note([]stored{f})
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
	f.Digest, f.Size = info.Digest, info.Size
	b.mu.Lock()
	ob.files = append(ob.files, f)
	b.mu.Unlock()
	ob.users.Done()
	return b.settle(ctx, ob)
}

// settle waits until a batch has ended. If nobody ends batches, this goroutine does, until there is none.
func (b *batcher) settle(ctx context.Context, own *openBatch) error {
	b.mu.Lock()
	if !b.committing {
		b.committing = true
		for b.cur != nil {
			next := b.cur
			b.cur = nil
			b.mu.Unlock()
			b.commit(ctx, next)
			b.mu.Lock()
		}
		b.committing = false
	}
	b.mu.Unlock()
	select {
	case <-own.ended:
		return own.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
		b.cur = &openBatch{batch: batch, ended: make(chan struct{})}
	}
	b.cur.users.Add(1)
	return b.cur, nil
}

// commit ends a batch that was taken, and tells those that wait for it.
func (b *batcher) commit(ctx context.Context, ob *openBatch) {
	defer close(ob.ended)
	defer ob.batch.Abort()
	ob.users.Wait()
	if len(ob.files) == 0 { // none of them could be put
		return
	}
	if err := ob.batch.Commit(ctx); err != nil {
		ob.err = &storeError{err}
		return
	}
	ob.err = b.note(ob.files)
}

// abort drops a batch that nobody waits for: its puts have failed.
func (b *batcher) abort() {
	b.mu.Lock()
	ob := b.cur
	b.cur = nil
	b.mu.Unlock()
	if ob != nil {
		ob.batch.Abort()
		close(ob.ended)
	}
}
