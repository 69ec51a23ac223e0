package channels_test

import (
	"fmt"
	"testing"
	"time"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/services/channels"
)

// fill puts n files of n/5 packages into a mirror and turns it into a hosted channel: making n archives takes longer
// than what is measured.
func (b *bundle) fill(channel string, n int) {
	b.t.Helper()
	b.mirror(channel)
	entries := manyEntries(n)
	for i := range entries {
		_, data := entry("linux-64", fmt.Sprintf("package-%05d", i/5), fmt.Sprintf("1.%d", i%5), "")
		b.keepBytes(data)
	}
	b.mustApply(channel, b.plan(nil, entries...), 1, keep)
	if _, err := b.pool.Exec(b.t.Context(), `UPDATE channels.channels SET kind = 1, mirror = NULL`); err != nil {
		b.t.Fatal(err)
	}
}

// BenchmarkUpload is one upload into a channel of 5,000 files until the shard index shows it. The window in which
// uploads are collected is part of it.
func BenchmarkUpload(b *testing.B) {
	for _, window := range []time.Duration{-1, 0} {
		b.Run(fmt.Sprintf("window=%t", window == 0), func(b *testing.B) {
			x := setupConfig(b, channels.Config{BatchWindow: window})
			x.fill("big", 5000)
			i := 0
			for b.Loop() {
				b.StopTimer()
				f := x.stage(spec{name: "package-00042", version: fmt.Sprintf("2.%d", i), subdir: "linux-64"})
				i++
				b.StartTimer()
				if _, err := x.api.AddFiles(x.as(x.admin), &channelsv1.AddFilesRequest{Channel: "big", Files: []*channelsv1.StagedFile{f}}); err != nil {
					b.Fatal(err)
				}
				if !x.resolve("big", "linux-64/repodata_shards.msgpack.zst").GetFound() {
					b.Fatal("no index")
				}
			}
		})
	}
}

// BenchmarkIndex is a build of the large index files.
func BenchmarkIndex(b *testing.B) {
	x := setup(b)
	x.fill("big", 5000)
	ch, err := x.api.GetChannel(x.as(x.admin), &channelsv1.GetChannelRequest{Channel: "big"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if n, err := channels.BuildMonoliths(b.Context(), x.svc, ch.GetId(), "linux-64"); err != nil || n != 5000 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkImport is a sync's part in this service: the first import of n files, and the comparison of an unchanged plan.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{2000, 200_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x := setup(b)
			entries := manyEntries(n)
			for i := range entries {
				_, data := entry("linux-64", fmt.Sprintf("package-%05d", i/5), fmt.Sprintf("1.%d", i%5), "")
				x.keepBytes(data)
			}
			p := x.plan(nil, entries...)
			var first, again time.Duration
			i := 0
			for b.Loop() {
				name := fmt.Sprintf("mir%d", i)
				i++
				x.mirror(name)
				start := time.Now()
				x.mustApply(name, p, 1, prune)
				first += time.Since(start)
				start = time.Now()
				if r, _ := x.diff(name, p, prune); r.GetUnchanged() != int64(n) {
					b.Fatal(r)
				}
				again += time.Since(start)
			}
			b.ReportMetric(float64(first.Milliseconds())/float64(b.N), "ms/first")
			b.ReportMetric(float64(again.Milliseconds())/float64(b.N), "ms/unchanged")
		})
	}
}
