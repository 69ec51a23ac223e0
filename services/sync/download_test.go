package sync

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	gosync "sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// want makes an entry for the bytes of an upstream file, with the digests that are asked for.
func want(path string, data []byte, digests ...string) *channelsv1.PlanEntry {
	e := &channelsv1.PlanEntry{Path: path, Size: -1, Arch: path[:bytes.IndexByte([]byte(path), '/')]}
	for _, d := range digests {
		switch d {
		case "sha256":
			s := sha256.Sum256(data)
			e.Sha256 = s[:]
		case "md5":
			s := md5.Sum(data)
			e.Md5 = s[:]
		case "size":
			e.Size = int64(len(data))
		}
	}
	return e
}

func (b *bundle) downloader(job uuid.UUID) *downloader {
	b.t.Helper()
	got, err := b.store.downloads(b.t.Context(), job)
	if err != nil {
		b.t.Fatal(err)
	}
	return &downloader{remote: b.remote, blobs: b.blobs, store: b.store, job: job, workers: 4, maxFile: 8 << 20, got: got, progress: func(int64, int64) {}}
}

func each(entries ...*channelsv1.PlanEntry) func() (*channelsv1.PlanEntry, error) {
	return func() (*channelsv1.PlanEntry, error) {
		if len(entries) == 0 {
			return nil, io.EOF
		}
		e := entries[0]
		entries = entries[1:]
		return e, nil
	}
}

func reasons(failed []Failure) map[string]string {
	out := map[string]string{}
	for _, f := range failed {
		out[f.Path] = f.Reason
	}
	return out
}

func (b *bundle) stored(data []byte) bool {
	_, err := b.blobs.Stat(context.Background(), blob.Sum(data))
	return err == nil
}

func TestEachFileFailsByItself(t *testing.T) {
	b := setup(t)
	var entries []*channelsv1.PlanEntry
	wantFailed := map[string]string{}
	for i, size := range []int{100, 3 << 20} {
		for j, digests := range [][]string{{"sha256", "size"}, {"sha256"}, {"md5", "size"}, {"md5"}, {"size"}} {
			data := bytes.Repeat([]byte{byte(1 + i), byte(1 + j), 'x', 'y'}, size/4)
			good := fmt.Sprintf("noarch/good%d%d-1-0.conda", i, j)
			b.ch.Put(good, data)
			bad := fmt.Sprintf("noarch/bad%d%d-1-0.conda", i, j)
			b.ch.Put(bad, append(bytes.Clone(data[:size-1]), 'z'))
			if len(digests) == 1 && digests[0] == "size" {
				wantFailed[good], wantFailed[bad] = reasonPackage, reasonPackage // nothing but the archive itself tells
			} else {
				wantFailed[bad] = reasonMismatch
			}
			entries = append(entries, want(good, data, digests...), want(bad, data, digests...))
		}
	}
	d := b.downloader(uuid.New())
	if err := d.run(t.Context(), each(entries...)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantFailed, reasons(d.failed)); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if d.done.Load() != int64(len(entries)) {
		t.Errorf("%d done", d.done.Load())
	}
}

func TestAMismatchIsAskedForOnceMore(t *testing.T) {
	b := setup(t)
	data, stale := []byte("the file"), []byte("the FILE")
	b.up.Script("/noarch/a-1-0.conda", fetchtest.File(stale), fetchtest.File(data))
	b.up.Script("/noarch/b-1-0.conda", fetchtest.File(stale))
	b.up.Script("/noarch/c-1-0.conda", fetchtest.Status(404))
	d := b.downloader(uuid.New())
	err := d.run(t.Context(), each(want("noarch/a-1-0.conda", data, "sha256", "size"), want("noarch/b-1-0.conda", data, "sha256", "size"), want("noarch/c-1-0.conda", data, "sha256", "size")))
	if err != nil || !b.stored(data) || b.stored(stale) {
		t.Errorf("%v, stored %v, the wrong one %v", err, b.stored(data), b.stored(stale))
	}
	got := [3]int{b.up.Count("/noarch/a-1-0.conda"), b.up.Count("/noarch/b-1-0.conda"), b.up.Count("/noarch/c-1-0.conda")}
	if got != [3]int{2, 2, 1} {
		t.Errorf("asked for %v times", got)
	}
	if diff := cmp.Diff(map[string]string{"noarch/b-1-0.conda": reasonMismatch, "noarch/c-1-0.conda": "UPSTREAM_NOT_FOUND"}, reasons(d.failed)); diff != "" {
		t.Error(diff)
	}
}

func TestAnInterruptedJobGoesOnWhereItWas(t *testing.T) {
	b := setup(t)
	job := uuid.New()
	var entries []*channelsv1.PlanEntry
	for i := range 6 {
		data := fmt.Appendf(nil, "file %d", i)
		path := fmt.Sprintf("noarch/p%d-1-0.conda", i)
		b.ch.Put(path, data)
		entries = append(entries, want(path, data, "md5", "size"))
	}
	if err := b.downloader(job).run(t.Context(), each(entries[:3]...)); err != nil {
		t.Fatal(err)
	}
	b.up.Reset()
	// The second attempt finds one index record changed, and one blob lost.
	changed := []byte("FILE 1")
	b.ch.Put("noarch/p1-1-0.conda", changed)
	entries[1] = want("noarch/p1-1-0.conda", changed, "md5", "size")
	if err := b.blobs.Delete(t.Context(), blob.Sum([]byte("file 2"))); err != nil {
		t.Fatal(err)
	}
	d := b.downloader(job)
	if err := d.run(t.Context(), each(entries...)); err != nil || len(d.failed) != 0 {
		t.Fatalf("%v %v", err, d.failed)
	}
	wantAsked := map[string]string{}
	for i := 1; i < 6; i++ {
		wantAsked[fmt.Sprintf("/noarch/p%d-1-0.conda", i)] = ""
	}
	if diff := cmp.Diff(wantAsked, b.asked()); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if f := d.got["noarch/p1-1-0.conda"]; f.Digest != blob.Sum(changed) || !f.is(entries[1]) {
		t.Errorf("%+v", f)
	}
}

func TestALargeFileThatBreaksOffIsContinuedOrBegunAnew(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.2 MB
	for name, h := range map[string][]string{"continued": {"cut"}, "begun anew": {"cut", "whole"}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			if len(h) == 1 {
				b.up.Script("/noarch/l-1-0.conda", fetchtest.CutFile(data, 1200<<10))
			} else {
				b.up.Script("/noarch/l-1-0.conda", fetchtest.Truncate(data, 2<<20, fetchtest.RightLength), fetchtest.Body(data))
			}
			d := b.downloader(uuid.New())
			if err := d.run(t.Context(), each(want("noarch/l-1-0.conda", data, "sha256", "size"))); err != nil || len(d.failed) != 0 || !b.stored(data) {
				t.Errorf("%v %v", err, d.failed)
			}
		})
	}
}

func TestAStreamThatRestartsKeepsNothingOfTheFirst(t *testing.T) {
	blobs := setup(t).blobs
	whole := []byte("what counts")
	s := newStream(t.Context(), blobs, blob.PutOptions{})
	for _, step := range []func() error{
		func() error { _, err := s.Write([]byte("dropped")); return err },
		s.Restart,
		s.Restart,
		func() error { _, err := s.Write(whole); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := s.finish()
	if err != nil || info.Digest != blob.Sum(whole) {
		t.Errorf("%+v, %v", info, err)
	}
	s.abort() // after the end it does nothing
	if _, err := blobs.Stat(t.Context(), blob.Sum([]byte("dropped"))); !fault.Is(err, fault.NotFound) {
		t.Errorf("the dropped bytes: %v", err)
	}
}

func TestAStorageThatFailsEndsTheRun(t *testing.T) {
	full := fault.New(fault.Unavailable, "disk full").WithReason(blob.ReasonFull)
	for _, size := range []int{100, 3 << 20} {
		b := setup(t)
		data := bytes.Repeat([]byte("x"), size)
		b.ch.Put("noarch/a-1-0.conda", data)
		b.blobs.Fail = func(op string, _ blob.Digest) error {
			if op == "put" || op == "commit" {
				return full
			}
			return nil
		}
		d := b.downloader(uuid.New())
		err := d.run(t.Context(), each(want("noarch/a-1-0.conda", data, "sha256", "size")))
		if !errors.Is(err, full) || len(d.failed) != 0 {
			t.Errorf("%d bytes: %v, %v", size, err, d.failed)
		}
	}
}

func TestACancelledRunEndsAtOnce(t *testing.T) {
	b := setup(t)
	var entries []*channelsv1.PlanEntry
	for i := range 20 {
		path := fmt.Sprintf("noarch/p%d-1-0.conda", i)
		b.up.Script("/"+path, fetchtest.Hang())
		entries = append(entries, want(path, bytes.Repeat([]byte("x"), 100+i%2*(3<<20)), "sha256", "size"))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("cancelled")
	arrived := b.up.Arrived()
	go func() { <-arrived; cancel(stop) }()
	began := time.Now()
	d := b.downloader(uuid.New())
	if err := d.run(ctx, each(entries...)); !errors.Is(err, stop) || time.Since(began) > 500*time.Millisecond || len(d.failed) != 0 {
		t.Errorf("%v after %s, failed %v", err, time.Since(began), d.failed)
	}
}

func TestPackagesAreLookedInto(t *testing.T) {
	b := setup(t)
	good, _ := synctest.Package(t, "noarch", "good", "1", dist.Conda)
	b.ch.Put("noarch/good-1-0.conda", good)
	b.ch.Put("noarch/other-1-0.conda", good)
	b.ch.Put("linux-64/good-1-0.conda", good)
	b.ch.Put("noarch/stale-1-0.conda", []byte("x"))
	d := b.downloader(uuid.New())
	d.inspect = true
	err := d.run(t.Context(), each(
		want("linux-64/good-1-0.conda", good, "sha256", "size"), want("noarch/good-1-0.conda", good, "sha256", "size"),
		want("noarch/other-1-0.conda", good, "sha256", "size"), want("noarch/stale-1-0.conda", []byte("y"), "sha256", "size")))
	if err != nil {
		t.Fatal(err)
	}
	wantFailed := map[string]string{"noarch/other-1-0.conda": reasonPackage, "noarch/stale-1-0.conda": reasonMismatch, "linux-64/good-1-0.conda": reasonPackage}
	if diff := cmp.Diff(wantFailed, reasons(d.failed)); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if len(d.bad) != 2 {
		t.Errorf("%d are remembered", len(d.bad))
	}
}

func TestAPutReturnsWhenItsFileIsNoted(t *testing.T) {
	b := setup(t)
	var mu gosync.Mutex
	var sizes []int
	noted := map[string]bool{}
	committing, hold := make(chan struct{}), make(chan struct{})
	bt := newBatcher(b.blobs, func(files []stored) error {
		mu.Lock()
		sizes = append(sizes, len(files))
		first := len(sizes) == 1
		mu.Unlock()
		if first {
			close(committing)
			<-hold
		}
		mu.Lock()
		defer mu.Unlock()
		for _, f := range files {
			noted[f.Path] = true
		}
		return nil
	})
	if bt.batches == nil {
		t.Fatal("the store has no batches")
	}
	done := make(chan error, 7)
	put := func(i int) {
		path := fmt.Sprint(i)
		err := bt.put(t.Context(), stored{Path: path}, bytes.NewReader([]byte(path)), blob.PutOptions{})
		mu.Lock()
		defer mu.Unlock()
		if err == nil && !noted[path] {
			err = fmt.Errorf("file %s is not noted when its put returns", path)
		}
		done <- err
	}
	go put(0) // commits alone, and is held
	<-committing
	for i := 1; i <= 6; i++ {
		go put(i)
	}
	for joined := 0; joined < 6; time.Sleep(time.Millisecond) {
		bt.mu.Lock()
		if bt.cur != nil {
			joined = len(bt.cur.files)
		}
		bt.mu.Unlock()
	}
	select {
	case err := <-done:
		t.Fatalf("a put returned before its batch was committed: %v", err)
	default:
	}
	close(hold)
	for range 7 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]int{1, 6}, sizes); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
}

func TestAFailedCommitFailsThoseThatWait(t *testing.T) {
	b := setup(t)
	full := errors.New("no space left")
	bt := newBatcher(b.blobs, func([]stored) error { return &storeError{full} })
	err := bt.put(t.Context(), stored{Path: "a"}, bytes.NewReader([]byte("a")), blob.PutOptions{})
	if !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}
