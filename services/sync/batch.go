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

const (
	// batchFiles and batchBytes end a batch: one point of durability for many small files.
	batchFiles = 256
	batchBytes = 64 << 20
	// batchAge ends a batch that fills slowly.
	batchAge = 200 * time.Millisecond
	// quick is how fast a file comes that waits for the batch to fill: to have it again after a crash costs as little.
	quick = 20 * time.Millisecond
)

// batcher collects small files from many goroutines into batches of blobs; note is told of the files that are durable.
//
// What a crash loses are the files that are not noted yet, and each of them is asked for again. So a file that was slow
// to come makes its batch end at once, and its goroutine waits for that, at most as long as the file took: with slow
// files hardly more are lost than are under way, and with quick ones, which come by the thousand a second, nobody waits.
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
	batch  blob.Batch
	born   time.Time
	users  gosync.WaitGroup // puts under way
	files  []stored
	bytes  int64
	urgent bool
	ended  chan struct{}
}

func (o *openBatch) due() bool {
	return o.urgent || len(o.files) >= batchFiles || o.bytes >= batchBytes || time.Since(o.born) >= batchAge
}

func newBatcher(store blob.Store, note func([]stored) error) *batcher {
	b := &batcher{store: store, note: note}
	b.batches, _ = blob.As[blob.Batcher](store)
	return b
}

// put stores one file that took so long to come; it is durable, and noted, once its batch is. f.Digest and f.Size are
// filled in.
func (b *batcher) put(ctx context.Context, f stored, took time.Duration, r io.Reader, o blob.PutOptions) error {
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
	ob.bytes += f.Size
	ob.urgent = ob.urgent || took >= quick
	b.mu.Unlock()
	ob.users.Done()
	if err := b.commitDue(ctx); err != nil || took < quick {
		return err
	}
	patience := time.NewTimer(took)
	defer patience.Stop()
	select {
	case <-ob.ended: // also if it failed: whoever committed it says so
	case <-patience.C:
	case <-ctx.Done():
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
		b.cur = &openBatch{batch: batch, born: time.Now(), ended: make(chan struct{})}
	}
	b.cur.users.Add(1)
	return b.cur, nil
}

// commitDue ends batches for as long as one is due, unless another goroutine is at it, which then sees this one's too.
func (b *batcher) commitDue(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.committing {
		return nil
	}
	b.committing = true
	defer func() { b.committing = false }()
	for b.cur != nil && b.cur.due() {
		ob := b.cur
		b.cur = nil
		b.mu.Unlock()
		err := b.commit(ctx, ob)
		b.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// commit ends a batch that was taken.
func (b *batcher) commit(ctx context.Context, ob *openBatch) error {
	defer close(ob.ended)
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

// take makes the caller the one who ends what is left. It is called after the last put has returned.
func (b *batcher) take() *openBatch {
	b.mu.Lock()
	defer b.mu.Unlock()
	ob := b.cur
	b.cur = nil
	return ob
}

// flush commits what is left, after the last put has returned.
func (b *batcher) flush(ctx context.Context) error {
	if ob := b.take(); ob != nil {
		return b.commit(ctx, ob)
	}
	return nil
}

// abort drops what was not committed, after the last put has returned.
func (b *batcher) abort() {
	if ob := b.take(); ob != nil {
		ob.batch.Abort()
		close(ob.ended)
	}
}
