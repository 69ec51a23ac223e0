package plane

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
)

func TestFactsAreFound(t *testing.T) {
	for _, n := range []int{0, 1, 2, 2047, 2048, 2049, 60_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			blobs := &blobtest.Memory{}
			b := &factsBuilder{}
			want := func(i int) fact {
				sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
				switch i % 3 {
				case 0:
					return fact{sha256: sum[:], md5: sum[:16], size: int64(i)}
				case 1:
					return fact{md5: sum[:16], size: -1}
				}
				return fact{sha256: sum[:], size: 1 << 40}
			}
			for i := range n {
				b.add(fmt.Sprintf("file-%d", i), want(i))
			}
			info, err := b.put(t.Context(), blobs)
			if err != nil {
				t.Fatal(err)
			}
			f, err := openFacts(t.Context(), blobs, info.Digest[:])
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			step := max(1, n/3000)
			for i := 0; i < n; i += step {
				got, ok, err := f.find(fmt.Sprintf("file-%d", i))
				if err != nil || !ok {
					t.Fatalf("file-%d: %v, %v", i, ok, err)
				}
				if diff := cmp.Diff(want(i), got, cmp.AllowUnexported(fact{})); diff != "" {
					t.Fatal(diff)
				}
			}
			for i := range 500 {
				if _, ok, err := f.find(fmt.Sprintf("other-%d", i)); ok || err != nil {
					t.Fatalf("other-%d: %v, %v", i, ok, err)
				}
			}
		})
	}
}

func TestABlobThatHoldsNoFactsIsRefused(t *testing.T) {
	blobs := &blobtest.Memory{}
	b := &factsBuilder{}
	b.add("x", fact{})
	if _, err := openFacts(t.Context(), blobs, make([]byte, 32)); err == nil {
		t.Error("a blob that is not there")
	}
	if _, err := openFacts(t.Context(), blobs, nil); err == nil {
		t.Error("no digest")
	}
}
