package blob

import (
	"container/list"
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

var _ Store = (*Cache)(nil)

const (
	// DefaultCacheBlob is the largest blob a Cache keeps: from 1 MiB up, sendfile from the page cache is as fast as memory.
	DefaultCacheBlob = 1 << 20
	// loadTimeout bounds a load, which belongs to all who wait for it and so to none of their contexts.
	loadTimeout = 30 * time.Second
	// maxLarge bounds the memory of which blobs are too large.
	maxLarge = 1 << 16
	// entryOverhead is what an entry costs beside its bytes: key, list element, map slot.
	entryOverhead = 256
)

// Hot keeps recently opened small blobs in memory, in at most a given number of bytes. Small files are where serving from
// disk, S3 or another process pays most for opening and least for bytes. Many readers of one absent blob cause one load.
// Every load is verified, so a rotten blob is never cached and never served from here.
type Hot struct {
	max     int64 // bytes in all
	maxBlob int64

	flights singleflight.Group

	mu      sync.Mutex
	entries map[Digest]*list.Element // of *hotEntry
	recent  list.List                // front: used last
	large   map[Digest]struct{}      // known to be over maxBlob: opened once, not twice
	bytes   int64
	removes uint64 // raised by Remove, so that a load under way does not bring a deleted blob back
	hits    uint64
	misses  uint64
}

type hotEntry struct {
	digest  Digest
	data    []byte
	modTime time.Time
}

func (e *hotEntry) cost() int64 { return int64(len(e.data)) + entryOverhead }

// NewHot returns an empty cache of at most maxBytes of memory for blobs of at most maxBlob bytes each; maxBlob 0 means
// DefaultCacheBlob.
func NewHot(maxBytes, maxBlob int64) *Hot {
	if maxBlob <= 0 {
		maxBlob = DefaultCacheBlob
	}
	return &Hot{max: maxBytes, maxBlob: maxBlob, entries: map[Digest]*list.Element{}, large: map[Digest]struct{}{}}
}

// Open returns the blob from memory, or by way of open, whose small results it keeps. open may be called with a context
// that outlives ctx, because others may be waiting for the same blob.
func (h *Hot) Open(ctx context.Context, d Digest, open func(context.Context) (Blob, error)) (Blob, error) {
	b, large := h.get(d)
	if b != nil {
		return b, nil
	}
	if large {
		return open(ctx)
	}
	ch := h.flights.DoChan(string(d[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return h.load(ctx, d, open)
	})
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		if e := r.Val.(*hotEntry); e != nil {
			return FromBytes(e.data, e.modTime), nil
		}
		return open(ctx)
	}
}

func (h *Hot) get(d Digest) (b Blob, large bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	el := h.entries[d]
	if el == nil {
		h.misses++
		_, large = h.large[d]
		return nil, large
	}
	h.hits++
	h.recent.MoveToFront(el)
	e := el.Value.(*hotEntry)
	return FromBytes(e.data, e.modTime), false
}

// load returns nil for a blob too large to keep.
func (h *Hot) load(ctx context.Context, d Digest, open func(context.Context) (Blob, error)) (*hotEntry, error) {
	h.mu.Lock()
	removes := h.removes
	h.mu.Unlock()
	b, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size() > h.maxBlob {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.large) >= maxLarge {
			clear(h.large)
		}
		h.large[d] = struct{}{}
		return nil, nil
	}
	data, err := readVerified(b, d, h.maxBlob)
	if err != nil {
		return nil, err
	}
	e := &hotEntry{digest: d, data: data, modTime: b.ModTime()}
	h.mu.Lock()
	defer h.mu.Unlock()
	if removes == h.removes && h.entries[d] == nil && e.cost() <= h.max {
		h.entries[d] = h.recent.PushFront(e)
		h.bytes += e.cost()
		for h.bytes > h.max {
			h.remove(h.recent.Back())
		}
	}
	return e, nil
}

// remove drops an entry; h.mu is held.
func (h *Hot) remove(el *list.Element) {
	e := h.recent.Remove(el).(*hotEntry)
	delete(h.entries, e.digest)
	h.bytes -= e.cost()
}

// Remove forgets the blob.
func (h *Hot) Remove(d Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removes++
	delete(h.large, d)
	if el := h.entries[d]; el != nil {
		h.remove(el)
	}
}

// CacheStats counts what a cache did since it was made.
type CacheStats struct {
	Hits, Misses uint64
	Entries      int
	Bytes        int64 // with overhead
}

// Stats returns the counts.
func (h *Hot) Stats() CacheStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return CacheStats{Hits: h.hits, Misses: h.misses, Entries: len(h.entries), Bytes: h.bytes}
}

// Cache is a Store with a Hot before it.
type Cache struct {
	store Store
	hot   *Hot
}

// NewCache returns a cache of at most maxBytes of memory for blobs of at most maxBlob bytes each; maxBlob 0 means DefaultCacheBlob.
func NewCache(s Store, maxBytes, maxBlob int64) *Cache {
	return &Cache{store: s, hot: NewHot(maxBytes, maxBlob)}
}

// Unwrap returns the store behind the cache, for As.
func (c *Cache) Unwrap() Store { return c.store }

// Stats returns the cache's counts.
func (c *Cache) Stats() CacheStats { return c.hot.Stats() }

// Put implements Store. It does not fill the cache: most of what is put is not read soon.
func (c *Cache) Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error) {
	return c.store.Put(ctx, r, o)
}

// Open implements Store: from memory, or through it, or (large blobs) from the store behind.
func (c *Cache) Open(ctx context.Context, d Digest) (Blob, error) {
	return c.hot.Open(ctx, d, func(ctx context.Context) (Blob, error) { return c.store.Open(ctx, d) })
}

// Delete implements Store.
func (c *Cache) Delete(ctx context.Context, d Digest) error {
	err := c.store.Delete(ctx, d)
	c.hot.Remove(d)
	return err
}

// Stat implements Store.
func (c *Cache) Stat(ctx context.Context, d Digest) (Stat, error) { return c.store.Stat(ctx, d) }

// List implements Store.
func (c *Cache) List(ctx context.Context, after Digest, fn func(Stat) error) error {
	return c.store.List(ctx, after, fn)
}
