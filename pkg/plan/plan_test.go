package plan_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry(path string) *channelsv1.PlanEntry {
	return &channelsv1.PlanEntry{Path: path, Sha256: bytes.Repeat([]byte{7}, 32), Size: 1, Name: "a", Version: "1", Build: "0", Arch: "noarch", Record: []byte(`{"name":"a"}`)}
}

func write(h *channelsv1.PlanHeader, entries ...*channelsv1.PlanEntry) ([]byte, error) {
	var b bytes.Buffer
	w, err := plan.NewWriter(&b, h)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := w.Write(e); err != nil {
			return nil, errors.Join(err, ignore(w.Close()))
		}
	}
	err = w.Close()
	return b.Bytes(), err
}

// ignore is for a Close whose error repeats the one before it.
func ignore(error) error { return nil }

func read(b []byte, l plan.Limits) (*channelsv1.PlanHeader, []*channelsv1.PlanEntry, error) {
	r, err := plan.NewReader(bytes.NewReader(b), l)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	var all []*channelsv1.PlanEntry
	for e, err := range r.All() {
		if err != nil {
			return nil, nil, err
		}
		all = append(all, e)
	}
	return r.Header(), all, nil
}

// raw makes a blob without the writer's checks.
func raw(t *testing.T, ms ...proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if _, err := protodelim.MarshalTo(w, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		segment := rapid.StringMatching(`[a-z0-9][a-z0-9.+!_-]{0,20}`)
		paths := rapid.MapOf(rapid.Map(rapid.SliceOfN(segment, 1, 3), func(s []string) string { return strings.Join(s, "/") }), rapid.Int64()).Draw(t, "paths")
		h := &channelsv1.PlanHeader{Format: "conda", Entries: int64(len(paths)), Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Info: []byte(`{"x":1}`), Removed: rapid.SliceOf(segment).Draw(t, "removed")}}}
		var want []*channelsv1.PlanEntry
		for p, n := range paths {
			e := &channelsv1.PlanEntry{Path: p, Size: n, BuildNumber: n, Record: fmt.Appendf(nil, `{"n":%d}`, n), Url: rapid.String().Draw(t, "url")}
			if rapid.Bool().Draw(t, "hashed") {
				e.Sha256 = rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "sha256")
				e.Md5 = rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "md5")
			}
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 1:
				e.Keep = true
			case 2:
				e.Redirect = true
			}
			want = append(want, e)
		}
		slices.SortFunc(want, func(a, b *channelsv1.PlanEntry) int { return strings.Compare(a.Path, b.Path) })
		b, err := write(h, want...)
		if err != nil {
			t.Fatal(err)
		}
		gotHeader, got, err := read(b, plan.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		h.Version = plan.Version
		if d := cmp.Diff(h, gotHeader, protocmp.Transform()); d != "" {
			t.Fatalf("header (-want +got):\n%s", d)
		}
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Fatalf("entries (-want +got):\n%s", d)
		}
		again, err := write(h, want...)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("an equal plan is another blob (%v)", err)
		}
	})
}

func TestACutPlanIsNeverRead(t *testing.T) {
	h := &channelsv1.PlanHeader{Format: "conda", Entries: 50}
	var entries []*channelsv1.PlanEntry
	for i := range 50 {
		entries = append(entries, entry(fmt.Sprintf("noarch/a-%02d-0.conda", i)))
	}
	b, err := write(h, entries...)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(b) {
		if _, _, err := read(b[:n], plan.Limits{}); !fault.Is(err, fault.Invalid) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestNeitherSideTakesABadPlan(t *testing.T) {
	h := func(n int64) *channelsv1.PlanHeader {
		return &channelsv1.PlanHeader{Version: 1, Format: "conda", Entries: n}
	}
	with := func(change func(*channelsv1.PlanEntry)) *channelsv1.PlanEntry {
		e := entry("noarch/a-1-0.conda")
		change(e)
		return e
	}
	tests := map[string][]proto.Message{
		"another version":      {&channelsv1.PlanHeader{Version: 2, Format: "conda"}},
		"no format":            {&channelsv1.PlanHeader{Version: 1}},
		"negative count":       {h(-1)},
		"subdir twice":         {&channelsv1.PlanHeader{Version: 1, Format: "conda", Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch"}, {Subdir: "noarch"}}}},
		"subdir that walks":    {&channelsv1.PlanHeader{Version: 1, Format: "conda", Subdirs: []*channelsv1.PlanSubdir{{Subdir: "../noarch"}}}},
		"info is no object":    {&channelsv1.PlanHeader{Version: 1, Format: "conda", Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Info: []byte("[]")}}}},
		"too few entries":      {h(2), entry("noarch/a")},
		"too many entries":     {h(1), entry("noarch/a"), entry("noarch/b")},
		"unsorted":             {h(2), entry("noarch/b"), entry("noarch/a")},
		"a path twice":         {h(2), entry("noarch/b"), entry("noarch/b")},
		"a path that walks":    {h(1), entry("noarch/../../etc/passwd")},
		"an absolute path":     {h(1), entry("/noarch/a")},
		"an encoded path":      {h(1), entry("noarch/%2e%2e/a")},
		"a short sha256":       {h(1), with(func(e *channelsv1.PlanEntry) { e.Sha256 = e.Sha256[1:] })},
		"a long md5":           {h(1), with(func(e *channelsv1.PlanEntry) { e.Md5 = make([]byte, 17) })},
		"kept and redirected":  {h(1), with(func(e *channelsv1.PlanEntry) { e.Keep, e.Redirect = true, true })},
		"a record that is not": {h(1), with(func(e *channelsv1.PlanEntry) { e.Record = []byte("null") })},
		"a giant name":         {h(1), with(func(e *channelsv1.PlanEntry) { e.Name = strings.Repeat("a", 5000) })},
	}
	for name, ms := range tests {
		t.Run("read: "+name, func(t *testing.T) {
			if _, _, err := read(raw(t, ms...), plan.Limits{}); !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("write: "+name, func(t *testing.T) {
			var entries []*channelsv1.PlanEntry
			for _, m := range ms[1:] {
				entries = append(entries, m.(*channelsv1.PlanEntry))
			}
			if _, err := write(ms[0].(*channelsv1.PlanHeader), entries...); !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, b := range map[string][]byte{"nothing": nil, "no zstd": []byte("hello"), "an empty frame": raw(t)} {
		t.Run("read: "+name, func(t *testing.T) {
			if _, _, err := read(b, plan.Limits{}); !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLimitsHoldBeforeMemoryDoes(t *testing.T) {
	t.Run("a few bytes that unfold to gigabytes", func(t *testing.T) {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := protodelim.MarshalTo(w, &channelsv1.PlanHeader{Version: 1, Format: "conda", Entries: 1}); err != nil {
			t.Fatal(err)
		}
		zeros := make([]byte, 1<<20)
		for range 256 { // empty messages: length 0, without end
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := read(b.Bytes(), plan.Limits{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("entries, message and bytes", func(t *testing.T) {
		b, err := write(&channelsv1.PlanHeader{Format: "conda", Entries: 2}, entry("noarch/a"), entry("noarch/b"))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []plan.Limits{{Entries: 1}, {Message: 20}, {Bytes: 100}} {
			if _, _, err := read(b, l); !fault.Is(err, fault.Invalid) {
				t.Errorf("%+v: %v", l, err)
			}
		}
	})
	t.Run("a long plan passes in bounded memory", func(t *testing.T) {
		const n = 100_000
		pr, pw := io.Pipe()
		go func() {
			w, err := plan.NewWriter(pw, &channelsv1.PlanHeader{Format: "conda", Entries: n})
			for i := 0; i < n && err == nil; i++ {
				e := entry(fmt.Sprintf("noarch/a-%07d-0.conda", i))
				e.Record = bytes.Repeat([]byte(" "), 1000)
				e.Record[0], e.Record[999] = '{', '}'
				err = w.Write(e)
			}
			if err == nil {
				err = w.Close()
			}
			_ = pw.CloseWithError(err)
		}()
		r, err := plan.NewReader(pr, plan.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		seen, most := 0, uint64(0)
		for _, err := range r.All() {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; seen%20_000 == 0 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		if seen != n || most > 64<<20 {
			t.Errorf("%d entries, %d bytes of heap", seen, most)
		}
	})
}

func TestRottenBytesOfAStoredPlanAreNoticed(t *testing.T) {
	store, err := blob.OpenDir(t.TempDir(), blob.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := &channelsv1.PlanHeader{Format: "conda", Entries: 1}
	info, err := plan.Put(t.Context(), store, h, func(add func(*channelsv1.PlanEntry) error) error { return add(entry("noarch/a")) })
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.Open(t.Context(), store, info.Digest, plan.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Open(t.Context(), store, blob.Sum([]byte("x")), plan.Limits{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a plan that is not there: %v", err)
	}
	other := errors.New("the database went away")
	if _, err := plan.Put(t.Context(), store, h, func(func(*channelsv1.PlanEntry) error) error { return other }); !errors.Is(err, other) {
		t.Errorf("the filler's error: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	b, err := write(&channelsv1.PlanHeader{Format: "conda", Entries: 1}, entry("noarch/a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, got, err := read(b, plan.Limits{Bytes: 1 << 20, Message: 1 << 18})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if _, err := write(h, got...); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
