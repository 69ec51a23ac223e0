package blobtest

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Bytes returns n bytes that look random and are the same for the same seed.
func Bytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// Sizes around which stores change their ways: memory to file at 256 KiB, one PUT to multipart at 8 MiB.
var sizes = []int{0, 1, 2048, 256<<10 - 1, 256 << 10, 256<<10 + 1, 8<<20 - 1, 8 << 20, 8<<20 + 1, 20<<20 + 3}

// Run checks that the stores which newStore makes behave as package blob promises. Each subtest gets a store of its own,
// which must be empty, and fails if temporary data is left at its end.
func Run(t *testing.T, newStore func(t *testing.T) blob.Store) {
	setup := func(t *testing.T) blob.Store {
		s := newStore(t)
		t.Cleanup(func() { NoLeftovers(t, s) })
		return s
	}
	for name, test := range map[string]func(*testing.T, blob.Store){
		"what is put can be read back":                testRoundTrip,
		"putting twice stores once":                   testTwice,
		"a body that is not as expected is refused":   testMismatch,
		"a body over its bound is refused":            testMaxSize,
		"a body that breaks off leaves nothing":       testBrokenBody,
		"a cancelled put leaves nothing":              testCancelled,
		"an absent blob is not found":                 testAbsent,
		"any range can be read":                       testRanges,
		"listing is ordered and can be resumed":       testList,
		"equal and different puts at once":            testConcurrent,
		"replace writes again":                        testReplace,
		"a batch shows nothing before its commit":     testBatch,
		"an aborted batch leaves nothing":             testBatchAbort,
		"a failed put harms no other of its batch":    testBatchFailedPut,
		"a batch can be filled from many goroutines":  testBatchConcurrent,
		"a presigned URL gives one blob with headers": testPresign,
	} {
		t.Run(name, func(t *testing.T) { test(t, setup(t)) })
	}
}

// NoLeftovers fails the test if the store holds temporary data.
func NoLeftovers(t testing.TB, s blob.Store) {
	t.Helper()
	if c, ok := blob.As[blob.TempCleaner](s); ok {
		if n, err := c.CleanTemp(context.Background(), -time.Hour); n != 0 || err != nil {
			t.Errorf("CleanTemp found %d leftovers, error %v; want none", n, err)
		}
	}
}

func put(t *testing.T, s blob.Store, data []byte, o blob.PutOptions) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), bytes.NewReader(data), o)
	if err != nil {
		t.Fatalf("Put %d bytes: %v", len(data), err)
	}
	return info
}

func digests(t *testing.T, s blob.Store, after blob.Digest) []blob.Digest {
	t.Helper()
	var got []blob.Digest
	if err := s.List(t.Context(), after, func(st blob.Stat) error { got = append(got, st.Digest); return nil }); err != nil {
		t.Fatalf("List: %v", err)
	}
	return got
}

func wantEmpty(t *testing.T, s blob.Store) {
	t.Helper()
	if got := digests(t, s, blob.Digest{}); len(got) != 0 {
		t.Errorf("the store holds %v, want nothing", got)
	}
}

func wantBlob(t *testing.T, s blob.Store, data []byte) {
	t.Helper()
	b, err := s.Open(t.Context(), blob.Sum(data))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) || b.Size() != int64(len(data)) {
		t.Fatalf("read %d of %d bytes (equal: %t), error %v", len(got), len(data), bytes.Equal(got, data), err)
	}
}

func testRoundTrip(t *testing.T, s blob.Store) {
	for i, size := range sizes {
		data := Bytes(byte(i), size)
		before := time.Now().Add(-time.Minute)
		// OneByteReader would take minutes; HalfReader still yields odd pieces.
		info, err := s.Put(t.Context(), iotest.HalfReader(bytes.NewReader(data)), blob.PutOptions{MD5: i%2 == 0})
		if err != nil {
			t.Fatalf("Put %d bytes: %v", size, err)
		}
		want := blob.Info{Digest: blob.Sum(data), Size: int64(size), Created: true}
		if i%2 == 0 {
			want.MD5 = md5.Sum(data)
		}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("%d bytes: (-want +got)\n%s", size, diff)
		}
		st, err := s.Stat(t.Context(), info.Digest)
		if err != nil || st.Digest != info.Digest || st.Size != info.Size || st.ModTime.Before(before) {
			t.Errorf("Stat = %+v, %v", st, err)
		}
		wantBlob(t, s, data)
		if err := blob.Verify(t.Context(), s, info.Digest); err != nil {
			t.Errorf("Verify: %v", err)
		}
	}
}

func testTwice(t *testing.T, s blob.Store) {
	for _, size := range []int{0, 100, 300 << 10, 9 << 20} {
		data := Bytes(1, size)
		first, second := put(t, s, data, blob.PutOptions{}), put(t, s, data, blob.PutOptions{})
		third := put(t, s, data, blob.PutOptions{Expect: &first.Digest, ExpectSize: &first.Size})
		if !first.Created || second.Created || third.Created {
			t.Errorf("%d bytes: created = %t, %t, %t, want true, false, false", size, first.Created, second.Created, third.Created)
		}
		wantBlob(t, s, data)
	}
	if n := len(digests(t, s, blob.Digest{})); n != 4 {
		t.Errorf("%d blobs are listed, want 4", n)
	}
}

func testMismatch(t *testing.T, s blob.Store) {
	for _, size := range []int{0, 10, 300 << 10, 9 << 20} {
		data := Bytes(2, size)
		other, otherMD5 := blob.Sum([]byte("other")), blob.MD5(md5.Sum([]byte("other")))
		for field, o := range map[string]blob.PutOptions{
			"sha256":   {Expect: &other},
			"md5":      {ExpectMD5: &otherMD5},
			"size":     {ExpectSize: new(int64(size + 1))},
			"size max": {ExpectSize: new(int64(size - 1))},
			"size 0":   {ExpectSize: new(int64(-1)), Expect: &other}, // the size is reported first
		} {
			_, err := s.Put(t.Context(), bytes.NewReader(data), o)
			var me *blob.MismatchError
			if !errors.As(err, &me) || me.Field != strings.Fields(field)[0] || !fault.Is(err, fault.Invalid) {
				t.Errorf("%d bytes, wrong %s: error %v", size, field, err)
			}
		}
		sum, m := blob.Sum(data), blob.MD5(md5.Sum(data))
		wantEmpty(t, s)
		put(t, s, data, blob.PutOptions{Expect: &sum, ExpectMD5: &m, ExpectSize: new(int64(size))})
		// A wrong body under a digest that is there must not pass for it either.
		if _, err := s.Put(t.Context(), bytes.NewReader(append(Bytes(3, size), 1)), blob.PutOptions{Expect: &sum}); !fault.Is(err, fault.Invalid) {
			t.Errorf("other bytes for a stored digest: error %v", err)
		}
		if err := s.Delete(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, s)
}

func testMaxSize(t *testing.T, s blob.Store) {
	for _, size := range []int{10, 300 << 10, 9 << 20} {
		r := &countingReader{r: bytes.NewReader(Bytes(4, 3*size))}
		_, err := s.Put(t.Context(), r, blob.PutOptions{MaxSize: int64(size)})
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Invalid || f.Reason != blob.ReasonTooLarge {
			t.Errorf("%d bytes: error %v", size, err)
		}
		if size > 8<<20 && r.n == 3*size {
			t.Errorf("%d bytes were all read in spite of the bound", r.n)
		}
		put(t, s, Bytes(4, size), blob.PutOptions{MaxSize: int64(size)})
		if err := s.Delete(t.Context(), blob.Sum(Bytes(4, size))); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, s)
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func testBrokenBody(t *testing.T, s blob.Store) {
	broken := errors.New("the line broke")
	for _, size := range []int{0, 10, 300 << 10, 9 << 20, 17 << 20} {
		for _, cause := range []error{broken, io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
			body := io.MultiReader(bytes.NewReader(Bytes(5, size)), iotest.ErrReader(cause))
			if info, err := s.Put(t.Context(), body, blob.PutOptions{}); err == nil || cause == broken && !errors.Is(err, broken) {
				t.Errorf("%d bytes, then %q: %+v, error %v", size, cause, info, err)
			}
		}
	}
	wantEmpty(t, s)
}

func testCancelled(t *testing.T, s blob.Store) {
	for _, size := range []int{10, 300 << 10, 17 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		body := io.MultiReader(bytes.NewReader(Bytes(6, size)), readerFunc(func(p []byte) (int, error) {
			cancel()
			return copy(p, "x"), nil
		}))
		if _, err := s.Put(ctx, body, blob.PutOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%d bytes: error %v, want context.Canceled", size, err)
		}
		cancel()
	}
	wantEmpty(t, s)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func testAbsent(t *testing.T, s blob.Store) {
	near := put(t, s, []byte("near"), blob.PutOptions{}).Digest
	sibling := near
	sibling[31] ^= 1 // shares every prefix that a layout could use
	for _, d := range []blob.Digest{{}, sibling, blob.Sum([]byte("absent"))} {
		if _, err := s.Open(t.Context(), d); !fault.Is(err, fault.NotFound) {
			t.Errorf("Open: error %v, want NotFound", err)
		}
		if _, err := s.Stat(t.Context(), d); !fault.Is(err, fault.NotFound) {
			t.Errorf("Stat: error %v, want NotFound", err)
		}
		if err := s.Delete(t.Context(), d); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	wantBlob(t, s, []byte("near"))
	if err := s.Delete(t.Context(), near); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), near); !fault.Is(err, fault.NotFound) {
		t.Errorf("Stat after Delete: error %v, want NotFound", err)
	}
}

func testRanges(t *testing.T, s blob.Store) {
	data := Bytes(7, 3<<20+17) // more than the first window of a ranged read
	b, err := s.Open(t.Context(), put(t, s, data, blob.PutOptions{}).Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := iotest.TestReader(io.NewSectionReader(b, 1<<20, 500), data[1<<20:1<<20+500]); err != nil {
		t.Error(err)
	}
	size := int64(len(data))
	for _, r := range []struct{ off, n int64 }{{0, 1}, {0, size}, {size - 1, 1}, {size - 5, 5}, {1<<20 - 1, 2}, {5, 2 << 20}} {
		got := make([]byte, r.n)
		if n, err := b.ReadAt(got, r.off); int64(n) != r.n || err != nil && err != io.EOF || !bytes.Equal(got, data[r.off:r.off+r.n]) {
			t.Errorf("ReadAt %d bytes at %d: %d, %v", r.n, r.off, n, err)
		}
		if pos, err := b.Seek(r.off, io.SeekStart); pos != r.off || err != nil {
			t.Fatalf("Seek to %d: %d, %v", r.off, pos, err)
		}
		if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, data[r.off:r.off+r.n]) {
			t.Errorf("Read %d bytes at %d: %v", r.n, r.off, err)
		}
	}
	if n, err := b.ReadAt(make([]byte, 10), size-3); n != 3 || err != io.EOF {
		t.Errorf("ReadAt over the end: %d, %v, want 3, EOF", n, err)
	}
	if n, err := b.ReadAt(make([]byte, 10), size); n != 0 || err != io.EOF {
		t.Errorf("ReadAt at the end: %d, %v, want 0, EOF", n, err)
	}
	if _, err := b.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek before the start succeeded")
	}
	if pos, err := b.Seek(-2, io.SeekEnd); pos != size-2 || err != nil {
		t.Errorf("Seek from the end: %d, %v", pos, err)
	}
	if rest, err := io.ReadAll(b); !bytes.Equal(rest, data[size-2:]) || err != nil {
		t.Errorf("rest = %d bytes, %v, want 2", len(rest), err)
	}
}

func testList(t *testing.T, s blob.Store) {
	wantEmpty(t, s)
	var want []blob.Digest
	for i := range 40 {
		want = append(want, put(t, s, Bytes(byte(i), 10+i), blob.PutOptions{}).Digest)
	}
	slices.SortFunc(want, func(a, b blob.Digest) int { return bytes.Compare(a[:], b[:]) })
	if diff := cmp.Diff(want, digests(t, s, blob.Digest{})); diff != "" {
		t.Errorf("List (-want +got)\n%s", diff)
	}
	for _, i := range []int{0, 17, 39} {
		if got := digests(t, s, want[i]); !slices.Equal(got, want[i+1:]) {
			t.Errorf("List after number %d: %v, want %v", i, got, want[i+1:])
		}
	}
	absent := want[20]
	absent[31]-- // resuming works where the last one was deleted meanwhile
	if got := digests(t, s, absent); len(got) == 0 || got[0] != want[20] {
		t.Errorf("List after an absent digest starts with %v, want %v", got, want[20])
	}
	enough, n := errors.New("enough"), 0
	err := s.List(t.Context(), blob.Digest{}, func(st blob.Stat) error {
		if st.Size < 10 || st.Size >= 50 {
			t.Errorf("size = %d", st.Size)
		}
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if n != 3 || !errors.Is(err, enough) {
		t.Errorf("List that had enough: %d calls, error %v", n, err)
	}
}

func testConcurrent(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for _, data := range [][]byte{Bytes(8, 5000), Bytes(9, 300<<10), Bytes(byte(100+i), 3000)} {
				info, err := s.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
				if err != nil || info.Digest != blob.Sum(data) {
					t.Errorf("Put: %+v, %v", info, err)
				} else if _, err := s.Stat(t.Context(), info.Digest); err != nil {
					t.Errorf("Stat right after Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	wantBlob(t, s, Bytes(8, 5000))
	wantBlob(t, s, Bytes(9, 300<<10))
	if n := len(digests(t, s, blob.Digest{})); n != 18 {
		t.Errorf("%d blobs, want 18", n)
	}
}

func testReplace(t *testing.T, s blob.Store) {
	for _, size := range []int{10, 300 << 10, 9 << 20} {
		data := Bytes(10, size)
		put(t, s, data, blob.PutOptions{})
		if info := put(t, s, data, blob.PutOptions{Replace: true}); !info.Created {
			t.Errorf("%d bytes: Replace did not write", size)
		}
		wantBlob(t, s, data)
	}
}
