// Package blobtest holds what tests of blobs need: Run, the suite that every blob.Store passes; Memory, the fake that
// passes it, too; StartS3, a real S3 server.
package blobtest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
)

var (
	_ blob.Store       = (*Memory)(nil)
	_ blob.Batcher     = (*Memory)(nil)
	_ blob.TempCleaner = (*Memory)(nil)
)

// Memory is a blob.Store in memory. The zero value is ready. Tests break it with Fail and Corrupt.
type Memory struct {
	// Fail, if set, is asked before every operation ("put", "open", "stat", "delete", "list", "commit") and its error is
	// what the operation returns. The digest is zero where it is not known yet.
	Fail func(op string, d blob.Digest) error
	// Now is the clock of ModTime; nil means time.Now.
	Now func() time.Time

	mu    sync.RWMutex
	blobs map[blob.Digest]memoryBlob
}

type memoryBlob struct {
	data    []byte
	modTime time.Time
}

func (m *Memory) fail(ctx context.Context, op string, d blob.Digest) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if m.Fail != nil {
		return m.Fail(op, d)
	}
	return nil
}

func (m *Memory) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

// read takes in a body as a real store does.
func (m *Memory) read(ctx context.Context, r io.Reader, o blob.PutOptions) (blob.Info, []byte, error) {
	if err := m.fail(ctx, "put", blob.Digest{}); err != nil {
		return blob.Info{}, nil, err
	}
	in := blob.NewIntake(o)
	defer in.Release()
	var data []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(ctx, r, buf)
		data = append(data, buf[:n]...)
		if err == io.EOF {
			break
		} else if err != nil {
			return blob.Info{}, nil, err
		}
	}
	info, err := in.Finish()
	if err != nil {
		return blob.Info{}, nil, err
	}
	return info, data, nil
}

// store makes the bytes visible unless they are there.
func (m *Memory) store(d blob.Digest, data []byte, replace bool) (created bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.blobs[d]; ok && !replace {
		return false
	}
	if m.blobs == nil {
		m.blobs = map[blob.Digest]memoryBlob{}
	}
	m.blobs[d] = memoryBlob{data, m.now()}
	return true
}

// Put implements blob.Store.
func (m *Memory) Put(ctx context.Context, r io.Reader, o blob.PutOptions) (blob.Info, error) {
	info, data, err := m.read(ctx, r, o)
	if err != nil {
		return blob.Info{}, err
	}
	info.Created = m.store(info.Digest, data, o.Replace)
	return info, nil
}

func (m *Memory) get(ctx context.Context, op string, d blob.Digest) (memoryBlob, error) {
	if err := m.fail(ctx, op, d); err != nil {
		return memoryBlob{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.blobs[d]
	if !ok {
		return b, blob.NotFound(d)
	}
	return b, nil
}

// Open implements blob.Store.
func (m *Memory) Open(ctx context.Context, d blob.Digest) (blob.Blob, error) {
	b, err := m.get(ctx, "open", d)
	if err != nil {
		return nil, err
	}
	return blob.FromBytes(b.data, b.modTime), nil
}

// Stat implements blob.Store.
func (m *Memory) Stat(ctx context.Context, d blob.Digest) (blob.Stat, error) {
	b, err := m.get(ctx, "stat", d)
	if err != nil {
		return blob.Stat{}, err
	}
	return blob.Stat{Digest: d, Size: int64(len(b.data)), ModTime: b.modTime}, nil
}

// Delete implements blob.Store.
func (m *Memory) Delete(ctx context.Context, d blob.Digest) error {
	if err := m.fail(ctx, "delete", d); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, d)
	return nil
}

// List implements blob.Store.
func (m *Memory) List(ctx context.Context, after blob.Digest, fn func(blob.Stat) error) error {
	if err := m.fail(ctx, "list", after); err != nil {
		return err
	}
	m.mu.RLock()
	digests := slices.SortedFunc(maps.Keys(m.blobs), func(a, b blob.Digest) int { return slices.Compare(a[:], b[:]) })
	m.mu.RUnlock()
	for _, d := range digests {
		if slices.Compare(d[:], after[:]) <= 0 {
			continue
		}
		st, err := m.Stat(ctx, d)
		if err != nil {
			if context.Cause(ctx) != nil {
				return err
			}
			continue // deleted meanwhile
		}
		if err := fn(st); err != nil {
			return err
		}
	}
	return nil
}

// CleanTemp implements blob.TempCleaner; there is never anything to clean.
func (m *Memory) CleanTemp(context.Context, time.Duration) (int, error) { return 0, nil }

// Corrupt flips a bit of a stored blob, or panics if the blob is absent or empty.
func (m *Memory) Corrupt(d blob.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[d]
	if !ok || len(b.data) == 0 {
		panic(fmt.Sprintf("blobtest: no bytes of %s to corrupt", d))
	}
	b.data = slices.Clone(b.data)
	b.data[len(b.data)/2] ^= 1
	m.blobs[d] = b
}

// NewBatch implements blob.Batcher.
func (m *Memory) NewBatch() (blob.Batch, error) {
	return &memoryBatch{m: m, staged: map[blob.Digest][]byte{}}, nil
}

type memoryBatch struct {
	m      *Memory
	mu     sync.Mutex
	staged map[blob.Digest][]byte
}

func (b *memoryBatch) Put(ctx context.Context, r io.Reader, o blob.PutOptions) (blob.Info, error) {
	info, data, err := b.m.read(ctx, r, o)
	if err != nil {
		return blob.Info{}, err
	}
	b.m.mu.RLock()
	_, present := b.m.blobs[info.Digest]
	b.m.mu.RUnlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	_, twice := b.staged[info.Digest]
	if info.Created = !twice && (!present || o.Replace); info.Created {
		b.staged[info.Digest] = data
	}
	return info, nil
}

func (b *memoryBatch) Commit(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	staged := b.staged
	b.staged = map[blob.Digest][]byte{}
	if err := b.m.fail(ctx, "commit", blob.Digest{}); err != nil {
		return err
	}
	for d, data := range staged {
		b.m.store(d, data, true)
	}
	return nil
}

func (b *memoryBatch) Abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.staged = map[blob.Digest][]byte{}
}
