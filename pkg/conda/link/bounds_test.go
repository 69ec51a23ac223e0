package link

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

// endless gives a pattern again and again.
type endless struct {
	pattern []byte
	n       int64 // bytes given
}

// Read implements io.Reader.
func (e *endless) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		n += copy(p[n:], e.pattern)
	}
	e.n += int64(len(p))
	return len(p), nil
}

// repeat is a file of a pattern, which can be read twice.
func repeat(pattern string, size int64) io.Reader {
	return io.NewSectionReader(patternAt(pattern), 0, size)
}

type patternAt string

// ReadAt implements io.ReaderAt.
func (p patternAt) ReadAt(b []byte, off int64) (int, error) {
	for i := range b {
		b[i] = p[(off+int64(i))%int64(len(p))]
	}
	return len(b), nil
}

func TestReplacingIsBounded(t *testing.T) {
	target := &Target{Prefix: "/x", Platform: "linux-64"}
	long := &Target{Prefix: "/a/rather/long/prefix", Platform: "linux-64"}
	wide := string(utf16Bytes(littleEndian, oldPrefix))
	for name, x := range map[string]struct {
		src    io.Reader
		e      Entry
		target *Target
	}{
		"a short placeholder in a text":             {bytes.NewReader(bytes.Repeat([]byte("a "), inMemory/2)), Entry{Placeholder: "a", FileMode: archive.ModeText}, long},
		"a short placeholder in a long text":        {repeat("a ", 4*inMemory), Entry{Placeholder: "a", FileMode: archive.ModeText}, long},
		"a short placeholder in a binary":           {bytes.NewReader(bytes.Repeat([]byte("ab\x00"), inMemory/3)), Entry{Placeholder: "ab", FileMode: archive.ModeBinary}, target},
		"a short placeholder in a first line":       {io.MultiReader(strings.NewReader("#!/"), bytes.NewReader(bytes.Repeat([]byte("a "), inMemory/4))), Entry{Placeholder: "a", FileMode: archive.ModeText}, long},
		"a short placeholder in one string":         {bytes.NewReader(bytes.Repeat([]byte("ab"), inMemory/2)), Entry{Placeholder: "ab", FileMode: archive.ModeBinary}, target},
		"a wide placeholder in a pipe of no end":    {&endless{pattern: []byte(wide)}, Entry{Placeholder: oldPrefix, FileMode: archive.ModeBinary}, target},
		"a pipe of no end without any placeholders": {&endless{pattern: []byte("0123456789")}, Entry{Placeholder: oldPrefix, FileMode: archive.ModeText}, target},
	} {
		start := time.Now()
		if _, _, err := Rewrite(io.Discard, x.src, &x.e, x.target); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("%s: it took %s to find out", name, d)
		}
	}
}

// TestManyWideStrings would take hours if each string were put between those that there are by moving the rest.
func TestManyWideStrings(t *testing.T) {
	plain, wide := []byte("/ab\x00"), append(utf16Bytes(littleEndian, "/ab"), 0, 0)
	data := bytes.Repeat(slices.Concat(plain, wide), 250_000)
	codes := encodings("/ab", "/x")
	start := time.Now()
	found, err := cstrings(data, codes)
	if err != nil || len(found) != 500_000 {
		t.Errorf("%d strings, %v", len(found), err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("it took %s", d)
	}
}

// TestAdmitLikeOneByOne compares the merge with the rule as it is said: in order of rank, what overlaps nothing.
func TestAdmitLikeOneByOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		var kept, want []cstring
		for rank := range 3 {
			var list []cstring
			for range rng.IntN(8) {
				at := rng.IntN(60)
				list = append(list, cstring{at: []int{at}, end: at + 1 + rng.IntN(8), rank: rank})
			}
			slices.SortStableFunc(list, func(a, b cstring) int { return a.at[0] - b.at[0] })
			kept = admit(kept, list)
			for _, s := range list {
				if !slices.ContainsFunc(want, func(k cstring) bool {
					return k.at[0] == s.at[0] || k.at[0] < s.at[0] && s.at[0] < k.end || s.at[0] < k.at[0] && k.at[0] < s.end
				}) {
					want = append(want, s)
				}
			}
		}
		slices.SortFunc(want, func(a, b cstring) int { return a.at[0] - b.at[0] })
		if diff := cmp.Diff(want, kept, cmp.AllowUnexported(cstring{})); diff != "" && len(want)+len(kept) > 0 {
			t.Fatal(diff)
		}
	}
}
