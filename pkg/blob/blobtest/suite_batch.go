package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func newBatch(t *testing.T, s blob.Store) blob.Batch {
	t.Helper()
	batcher, ok := blob.As[blob.Batcher](s)
	if !ok {
		t.Skip("the store has no batches")
	}
	b, err := batcher.NewBatch()
	if err != nil {
		t.Fatalf("NewBatch: %v", err)
	}
	t.Cleanup(b.Abort)
	return b
}

func batchPut(t *testing.T, b blob.Batch, data []byte) blob.Info {
	t.Helper()
	info, err := b.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
	if err != nil || info.Digest != blob.Sum(data) {
		t.Fatalf("batch Put %d bytes: %+v, %v", len(data), info, err)
	}
	return info
}

// batchBodies mixes small, file-sized, large and many.
func batchBodies() [][]byte {
	bodies := [][]byte{{}, Bytes(20, 300<<10), Bytes(21, 9<<20)}
	for i := range 40 {
		bodies = append(bodies, Bytes(byte(30+i), 2000+i))
	}
	for i := range 6 { // together more than an S3 batch holds in memory
		bodies = append(bodies, Bytes(byte(90+i), 7<<20))
	}
	return bodies
}

func testBatch(t *testing.T, s blob.Store) {
	b := newBatch(t, s)
	there := put(t, s, []byte("there before"), blob.PutOptions{})
	for _, data := range batchBodies() {
		if info := batchPut(t, b, data); !info.Created {
			t.Errorf("%d bytes: not created", len(data))
		}
	}
	if batchPut(t, b, Bytes(30, 2000)).Created {
		t.Error("the second of two equal bodies was created")
	}
	if batchPut(t, b, []byte("there before")).Created {
		t.Error("a blob that was there was created")
	}
	if got := digests(t, s, blob.Digest{}); len(got) != 1 || got[0] != there.Digest {
		t.Errorf("before the commit %d blobs are visible, want 1", len(got))
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	for _, data := range batchBodies() {
		wantBlob(t, s, data)
	}
	NoLeftovers(t, s)

	if err := b.Commit(t.Context()); err != nil {
		t.Errorf("empty Commit: %v", err)
	}
	batchPut(t, b, []byte("second round"))
	if err := b.Commit(t.Context()); err != nil {
		t.Errorf("second Commit: %v", err)
	}
	b.Abort()
	b.Abort()
	wantBlob(t, s, []byte("second round"))
}

func testBatchAbort(t *testing.T, s blob.Store) {
	b := newBatch(t, s)
	for _, data := range batchBodies() {
		batchPut(t, b, data)
	}
	b.Abort()
	wantEmpty(t, s)
	NoLeftovers(t, s)

	b = newBatch(t, s)
	batchPut(t, b, []byte("cancelled"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Commit: error %v", err)
	}
	wantEmpty(t, s)
}

func testBatchFailedPut(t *testing.T, s blob.Store) {
	b := newBatch(t, s)
	batchPut(t, b, []byte("good"))
	wrong := blob.Sum([]byte("something else"))
	for _, size := range []int{10, 300 << 10, 9 << 20} {
		if _, err := b.Put(t.Context(), bytes.NewReader(Bytes(22, size)), blob.PutOptions{Expect: &wrong}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%d bytes: error %v, want Invalid", size, err)
		}
	}
	batchPut(t, b, []byte("also good"))
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, s, []byte("good"))
	wantBlob(t, s, []byte("also good"))
	if n := len(digests(t, s, blob.Digest{})); n != 2 {
		t.Errorf("%d blobs, want 2", n)
	}
}

func testBatchConcurrent(t *testing.T, s blob.Store) {
	b := newBatch(t, s)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				data := Bytes(byte(j), 1000+i%2) // each body comes from four goroutines
				if _, err := b.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(digests(t, s, blob.Digest{})); n != 20 {
		t.Errorf("%d blobs, want 20", n)
	}
}

func testPresign(t *testing.T, s blob.Store) {
	p, ok := blob.As[blob.Presigner](s)
	if !ok {
		t.Skip("the store has no presigned URLs")
	}
	data := Bytes(23, 1000)
	d := put(t, s, data, blob.PutOptions{}).Digest
	other := put(t, s, []byte("other"), blob.PutOptions{}).Digest
	u, err := p.PresignGet(t.Context(), d, time.Minute, blob.PresignHeaders{ContentType: "application/x-tar", ContentDisposition: `attachment; filename="a b.tar"`})
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) (int, http.Header, []byte) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		req.Header.Set("Range", "bytes=10-19")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header, body
	}
	code, h, body := get(u.String())
	if code != http.StatusPartialContent || !bytes.Equal(body, data[10:20]) ||
		h.Get("Content-Type") != "application/x-tar" || h.Get("Content-Disposition") != `attachment; filename="a b.tar"` {
		t.Errorf("status %d, %d bytes, headers %v", code, len(body), h)
	}
	stolen := *u
	stolen.Path = string(bytes.ReplaceAll([]byte(u.Path), []byte(d.String()), []byte(other.String())))
	if code, _, _ := get(stolen.String()); code != http.StatusForbidden {
		t.Errorf("the signature opens another blob: status %d", code)
	}
}
