package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestCache(t *testing.T) {
	type bundle struct {
		mem   *blobtest.Memory
		opens *atomic.Int64
	}
	setup := func(*testing.T) bundle {
		b := bundle{&blobtest.Memory{}, &atomic.Int64{}}
		b.mem.Fail = func(op string, _ blob.Digest) error {
			if op == "open" {
				b.opens.Add(1)
			}
			return nil
		}
		return b
	}
	put := func(t *testing.T, s blob.Store, seed byte, n int) blob.Digest {
		t.Helper()
		info, err := s.Put(t.Context(), bytes.NewReader(blobtest.Bytes(seed, n)), blob.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return info.Digest
	}
	open := func(t *testing.T, s blob.Store, d blob.Digest) {
		t.Helper()
		b, err := s.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || blob.Sum(got) != d {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	}

	t.Run("small blobs are opened once, large ones always", func(t *testing.T) {
		b := setup(t)
		c := blob.NewCache(b.mem, 1<<20, 1000)
		small, large := put(t, c, 1, 1000), put(t, c, 2, 1001)
		for range 3 {
			open(t, c, small)
		}
		if n := b.opens.Load(); n != 1 {
			t.Errorf("%d opens of a small blob, want 1", n)
		}
		for range 3 {
			open(t, c, large)
		}
		if n := b.opens.Load() - 1; n != 4 { // once to see that it is large, then one each
			t.Errorf("%d opens of a large blob, want 4", n)
		}
	})
	t.Run("the least recently used goes first, and memory is bounded", func(t *testing.T) {
		b := setup(t)
		c := blob.NewCache(b.mem, 4000, 0)
		var d [4]blob.Digest
		for i := range d {
			d[i] = put(t, c, byte(i), 1000)
		}
		for _, i := range []int{0, 1, 2, 0, 3} { // 3 pushes 1 out
			open(t, c, d[i])
		}
		n := b.opens.Load()
		open(t, c, d[0])
		open(t, c, d[3])
		if got := b.opens.Load() - n; got != 0 {
			t.Errorf("%d opens of what was used last, want 0", got)
		}
		open(t, c, d[1])
		if got := b.opens.Load() - n; got != 1 {
			t.Errorf("%d opens of what was pushed out, want 1", got)
		}
		if st := c.Stats(); st.Bytes > 4000 || st.Entries != 3 {
			t.Errorf("stats %+v", st)
		}
	})
	t.Run("many readers cause one load", func(t *testing.T) {
		b := setup(t)
		c := blob.NewCache(b.mem, 1<<20, 0)
		d := put(t, c, 1, 1000)
		gate, loading := make(chan struct{}), make(chan struct{}, 100)
		count := b.mem.Fail
		b.mem.Fail = func(op string, d blob.Digest) error {
			if op == "open" {
				loading <- struct{}{}
				<-gate
			}
			return count(op, d)
		}
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { // the first one leaves; the others must not suffer
			if _, err := c.Open(ctx, d); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
		})
		<-loading
		for range 10 {
			wg.Go(func() { open(t, c, d) })
		}
		cancel()
		close(gate)
		wg.Wait()
		if n := b.opens.Load(); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
	})
	t.Run("what is deleted is gone", func(t *testing.T) {
		b := setup(t)
		c := blob.NewCache(b.mem, 1<<20, 0)
		d := put(t, c, 1, 1000)
		open(t, c, d)
		if err := c.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Open(t.Context(), d); !fault.Is(err, fault.NotFound) {
			t.Errorf("error %v, want NotFound", err)
		}
	})
	t.Run("rotten bytes are neither cached nor served", func(t *testing.T) {
		b := setup(t)
		c := blob.NewCache(b.mem, 1<<20, 0)
		d := put(t, c, 1, 1000)
		b.mem.Corrupt(d)
		var f *fault.Error
		if _, err := c.Open(t.Context(), d); !errors.As(err, &f) || f.Reason != blob.ReasonCorrupt {
			t.Errorf("error %v", err)
		}
		if _, err := c.Put(t.Context(), bytes.NewReader(blobtest.Bytes(1, 1000)), blob.PutOptions{Replace: true}); err != nil {
			t.Fatal(err)
		}
		open(t, c, d)
	})
}
