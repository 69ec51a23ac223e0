package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

func (b *bundle) attempt(dryRun bool) *scrub {
	return &scrub{
		worker: b.w, dryRun: dryRun, progress: quiet, hold: func(context.Context, pgx.Tx) error { return nil },
		warn: func(string) {},
	}
}

// scrub runs a pass to its end and returns how many attempts it took.
func (b *bundle) scrub(want *storagev1.ScrubResult) (attempts int) {
	b.t.Helper()
	for {
		attempts++
		s := b.attempt(want.GetDryRun())
		done, err := s.run(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		if !done {
			continue
		}
		if diff := cmp.Diff(want, s.result(), protocmp.Transform()); diff != "" {
			b.t.Errorf("scrub (-want +got)\n%s", diff)
		}
		return attempts
	}
}

// open compares the findings that are not resolved.
func (b *bundle) open(want ...finding) {
	b.t.Helper()
	got, err := b.w.store.findings(b.t.Context(), blob.Digest{}, false, 100)
	if err != nil {
		b.t.Fatal(err)
	}
	opts := []cmp.Option{
		cmpopts.IgnoreFields(finding{}, "Detail", "FoundAt", "LastAt"), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b finding) bool { return a.Digest.String() < b.Digest.String() }),
	}
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		b.t.Errorf("findings (-want +got)\n%s", diff)
	}
}

func TestScrub(t *testing.T) {
	t.Run("rotten and missing blobs are found, and taken out of service", func(t *testing.T) {
		b := setup(t)
		b.put("whole", "a")
		rotten := b.put("rotten", "a")
		gone := b.put("gone", "a")
		b.put("nobody's", "")
		b.blobs.Corrupt(rotten)
		if err := b.blobs.Delete(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		b.scrub(&storagev1.ScrubResult{DryRun: true, Checked: 3, CheckedBytes: 19, Corrupt: 1, Missing: 1})
		b.open()
		if !b.has(rotten) {
			t.Fatal("a dry run took a blob out of service")
		}
		b.scrub(&storagev1.ScrubResult{Checked: 3, CheckedBytes: 19, Corrupt: 1, Missing: 1})
		was := []finding{{Digest: rotten, Problem: corrupt, Size: 6, Quarantined: true}, {Digest: gone, Problem: missing, Size: 4}}
		b.open(was...)
		if _, err := b.blobs.Open(t.Context(), rotten); !fault.Is(err, fault.NotFound) {
			t.Errorf("Open of a rotten blob: %v", err)
		}
		b.scrub(&storagev1.ScrubResult{Checked: 2, CheckedBytes: 13, Missing: 2}) // the rotten one is not forgotten
		b.open(was...)

		b.put("rotten", "") // its bytes come again
		b.scrub(&storagev1.ScrubResult{Checked: 3, CheckedBytes: 19, Missing: 1, Resolved: 1})
		b.open(was[1])
		b.drop("a") // nobody misses the other one
		b.scrub(&storagev1.ScrubResult{Checked: 3, CheckedBytes: 19, Resolved: 1})
		b.open()
	})
	t.Run("a pass goes on where the attempt before it ended", func(t *testing.T) {
		b := setup(t)
		b.w.page = 3
		at := time.Now()
		b.w.now = func() time.Time { at = at.Add(time.Minute); return at }
		b.w.slice = 10 * time.Minute
		var bytes int64
		for i := range 40 {
			text := strings.Repeat("x", i+1)
			b.put(text, "a")
			bytes += int64(len(text))
		}
		opened := map[blob.Digest]int{}
		b.blobs.Fail = func(op string, d blob.Digest) error {
			if op == "open" {
				opened[d]++
			}
			return nil
		}
		if n := b.scrub(&storagev1.ScrubResult{Checked: 40, CheckedBytes: bytes}); n < 3 {
			t.Errorf("%d attempts: no slice ended", n)
		}
		for d, n := range opened {
			if n != 1 {
				t.Errorf("blob %s was read %d times", d, n)
			}
		}
		if len(opened) != 40 {
			t.Errorf("%d blobs were read", len(opened))
		}
	})
	t.Run("an attempt that lost its claim writes nothing", func(t *testing.T) {
		b := setup(t)
		rotten := b.put("rotten", "a")
		b.blobs.Corrupt(rotten)
		s := b.attempt(false)
		lost := errors.New("the claim is lost")
		s.hold = func(context.Context, pgx.Tx) error { return lost }
		if _, err := s.run(t.Context()); !errors.Is(err, lost) {
			t.Errorf("run: %v", err)
		}
		b.open()
		b.scrub(&storagev1.ScrubResult{Missing: 1}) // the bytes were out of service before
		b.open(finding{Digest: rotten, Problem: missing, Size: 6})
	})
	t.Run("a blob that the store cannot read is a finding", func(t *testing.T) {
		b := setup(t)
		d := b.put("on a bad sector", "a")
		b.put("beside it", "a")
		b.blobs.Fail = func(op string, of blob.Digest) error {
			if op == "open" && of == d {
				return errors.New("input/output error")
			}
			return nil
		}
		b.scrub(&storagev1.ScrubResult{Checked: 2, CheckedBytes: 24, Unreadable: 1})
		b.open(finding{Digest: d, Problem: unreadable, Size: 15})
		b.blobs.Fail = nil
		b.scrub(&storagev1.ScrubResult{Checked: 2, CheckedBytes: 24, Resolved: 1})
		b.open()
	})
	t.Run("a store that is away is not a store of damaged blobs", func(t *testing.T) {
		b := setup(t)
		for i := range 20 {
			b.put(fmt.Sprint(i), "a")
		}
		b.blobs.Fail = func(op string, _ blob.Digest) error {
			if op == "open" {
				return errors.New("connection refused")
			}
			return nil
		}
		s := b.attempt(false)
		if _, err := s.run(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("run: %v", err)
		}
		b.open()
	})
}

func TestAReaderPaysForWhatItReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := &pace{rate: 1000}
		r := paced{ctx: t.Context(), r: bytes.NewReader(make([]byte, 10_000)), pace: p}
		buf := make([]byte, 300)
		for {
			if _, err := r.Read(buf); err != nil {
				break
			}
		}
		if took := time.Since(begun); took < 9900*time.Millisecond || took > 10_100*time.Millisecond {
			t.Errorf("10000 bytes at 1000 a second took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.pay(ctx, 1_000_000); !errors.Is(err, context.Canceled) {
			t.Errorf("pay after the end: %v", err)
		}
	})
}
