package blob

import (
	"context"
	"io"
	"os"
	"sync"
)

// NewBatch implements Batcher. A commit flushes the file system twice, whatever the number of blobs: once for the data
// before any name appears, once for the names.
func (d *Dir) NewBatch() (Batch, error) {
	b := &dirBatch{d: d}
	if err := b.reset(); err != nil {
		return nil, diskError("begin batch", err)
	}
	return b, nil
}

type dirBatch struct {
	d  *Dir
	mu sync.Mutex
	// fsys is opened before the first write: syncfs reports the write errors since its file was opened, to each
	// open file once, so batches must not share one.
	fsys   *os.File
	temps  map[Digest]string // temporary names of what will be committed
	recent []Digest          // there already, but perhaps not yet durably named
}

// reset makes the batch empty.
func (b *dirBatch) reset() (err error) {
	b.temps, b.recent = map[Digest]string{}, nil
	if b.d.durable && b.fsys == nil {
		b.fsys, err = b.d.root.Open(".")
	}
	return err
}

func (b *dirBatch) Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	s, err := b.d.stage(ctx, r, o, *buf)
	if err != nil {
		return Info{}, err
	}
	if !o.Replace {
		if present, young := b.d.present(s.info); present {
			b.d.drop(s)
			if young {
				b.mu.Lock()
				b.recent = append(b.recent, s.info.Digest)
				b.mu.Unlock()
			}
			return s.info, nil
		}
	}
	b.mu.Lock()
	_, twice := b.temps[s.info.Digest]
	b.mu.Unlock()
	if twice {
		b.d.drop(s)
		return s.info, nil
	}
	if err := b.d.spill(&s); err != nil {
		return Info{}, diskError("put blob", err)
	}
	if err := s.file.Close(); err != nil {
		_ = b.d.root.Remove(s.temp)
		return Info{}, diskError("put blob", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, twice := b.temps[s.info.Digest]; twice { // by another goroutine, while this one wrote
		_ = b.d.root.Remove(s.temp)
		return s.info, nil
	}
	b.temps[s.info.Digest] = s.temp
	s.info.Created = true
	return s.info, nil
}

func (b *dirBatch) Commit(ctx context.Context) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		b.removeTemps()
		if rerr := b.reset(); err == nil {
			err = diskError("begin batch", rerr)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(b.temps) > 0 && b.d.durable {
		if err := b.d.flushFS(b.fsys); err != nil {
			// The error was reported to this open file and would not be again: the next commit needs a new one.
			b.fsys.Close()
			b.fsys = nil
			return diskError("commit batch", err)
		}
	}
	renamed := b.recent
	for dg, temp := range b.temps {
		if err := b.d.root.Rename(temp, blobPath(dg)); err != nil {
			b.d.judge(err, renamed...)
			return diskError("commit batch", err)
		}
		delete(b.temps, dg)
		renamed = append(renamed, dg)
	}
	return diskError("commit batch", b.settle(renamed))
}

// settle makes the names durable: directory by directory for a few, else all at once.
func (b *dirBatch) settle(digests []Digest) error {
	if !b.d.durable || len(digests) == 0 {
		return nil
	}
	if len(digests) <= 4 {
		return b.d.settle(digests...)
	}
	err := b.d.flushFS(b.fsys)
	if err != nil {
		b.fsys.Close()
		b.fsys = nil
	}
	b.d.judge(err, digests...)
	return err
}

func (b *dirBatch) Abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removeTemps()
	b.temps, b.recent = map[Digest]string{}, nil
	if b.fsys != nil {
		b.fsys.Close()
		b.fsys = nil
	}
}

func (b *dirBatch) removeTemps() {
	for _, temp := range b.temps {
		_ = b.d.root.Remove(temp) // what stays is the janitor's
	}
}
