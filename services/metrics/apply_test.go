package metrics

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	channel = uuid.MustParse("11111111-1111-1111-1111-111111111111")
	noon    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

// batch makes one of an instance, with the count n for each path.
func batch(instance string, seq int64, at time.Time, n int64, paths ...string) *metricsv1.AccessBatch {
	ch := &metricsv1.ChannelAccess{ChannelId: channel[:], Paths: paths}
	for range paths {
		ch.Counts = append(ch.Counts, n)
	}
	return &metricsv1.AccessBatch{Instance: instance, Epoch: 1, Seq: seq, Hour: at.Unix(), MadeMs: at.UnixMilli(), Channels: []*metricsv1.ChannelAccess{ch}}
}

func mustApply(t testing.TB, pool *pgxpool.Pool, batches ...*metricsv1.AccessBatch) applied {
	t.Helper()
	out, err := apply(t.Context(), pool, batches, noon)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func all(p period) window { return window{p, earliest, latest} }

func seriesOf(t testing.TB, pool *pgxpool.Pool, path string, w window) (map[string]int64, int64) {
	t.Helper()
	points, total, err := store{pool}.series(t.Context(), channel, path, w)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, p := range points {
		out[p.At.UTC().Format("2006-01-02T15")] = p.N
	}
	return out, total
}

const file = "linux-64/numpy-2.0-0.conda"

func TestApply(t *testing.T) {
	t.Run("a batch counts once, in whatever order and company it comes", func(t *testing.T) {
		pool := pgtest.New(t, Schema)
		b := func(seq int64) *metricsv1.AccessBatch { return batch("a", seq, noon, 1, file) }
		for _, c := range []struct {
			batches []*metricsv1.AccessBatch
			added   int
			total   int64
		}{
			{[]*metricsv1.AccessBatch{b(2)}, 1, 1},
			{[]*metricsv1.AccessBatch{b(2), b(2), b(5)}, 1, 2},
			{[]*metricsv1.AccessBatch{b(1), b(1)}, 1, 3}, // late
			{[]*metricsv1.AccessBatch{b(4), b(3), b(5), b(1)}, 2, 5},
			{[]*metricsv1.AccessBatch{batch("b", 2, noon, 1, file), b(2)}, 1, 6}, // another gateway has numbers of its own
		} {
			out := mustApply(t, pool, c.batches...)
			if _, total := seriesOf(t, pool, file, all(hour)); len(out.added) != c.added || total != c.total {
				t.Errorf("%v: added %d, total %d; want %d, %d", c.batches, len(out.added), total, c.added, c.total)
			}
		}
		var seen string
		if err := pool.QueryRow(t.Context(), `SELECT seen::text FROM metrics.sources WHERE instance = 'a'`).Scan(&seen); err != nil || seen != "{[1,6)}" {
			t.Errorf("%s, %v", seen, err)
		}
	})
	t.Run("replicas with the same batches at once", func(t *testing.T) {
		pool := pgtest.New(t, Schema)
		var wg sync.WaitGroup
		const gateways, seqs = 3, 40
		for w := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(7, uint64(w)))
				for _, i := range rng.Perm(gateways * seqs) {
					paths := []string{file, fmt.Sprintf("noarch/p%d-1-0.conda", i%5), fmt.Sprintf("noarch/q%d-1-0.conda", i%3)}
					rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
					mustApply(t, pool, batch(strconv.Itoa(i%gateways), int64(1+i/gateways), noon.Add(time.Duration(-i%2)*time.Hour), 2, paths...))
				}
			})
		}
		wg.Wait()
		if _, total := seriesOf(t, pool, file, all(hour)); total != 2*gateways*seqs {
			t.Errorf("%d, want %d", total, 2*gateways*seqs)
		}
		if _, total := seriesOf(t, pool, "", all(hour)); total != 3*2*gateways*seqs {
			t.Errorf("the channel has %d, want %d", total, 3*2*gateways*seqs)
		}
	})
	t.Run("a gateway whose clock is ahead counts now", func(t *testing.T) {
		pool := pgtest.New(t, Schema)
		mustApply(t, pool, batch("a", 1, noon.AddDate(5, 0, 0), 1, file), batch("a", 2, noon.Add(time.Hour), 1, file), batch("a", 3, noon.AddDate(0, 0, -6), 1, file))
		got, _ := seriesOf(t, pool, file, all(hour))
		if diff := cmp.Diff(map[string]int64{"2026-11-15T12": 1, "2026-11-21T12": 1, "2026-11-21T13": 1}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSeries(t *testing.T) {
	pool := pgtest.New(t, Schema)
	day := func(d, h int) time.Time { return time.Date(2026, 11, d, h, 0, 0, 0, time.UTC) }
	seq := int64(0)
	for at, n := range map[time.Time]int64{day(1, 0): 1, day(1, 23): 2, day(2, 5): 4, day(20, 11): 8, time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC): 16} {
		seq++
		mustApply(t, pool, batch("a", seq, at, n, file))
	}
	check := func(name string, i metricsv1.Interval, start, end time.Time, want map[string]int64) {
		t.Helper()
		bound := func(t time.Time) *timestamppb.Timestamp {
			if t.IsZero() {
				return nil
			}
			return timestamppb.New(t)
		}
		w, err := newWindow(i, bound(start), bound(end))
		if err != nil {
			t.Fatal(err)
		}
		got, total := seriesOf(t, pool, file, w)
		if diff := cmp.Diff(want, got); diff != "" || total != 31 {
			t.Errorf("%s: total %d %s", name, total, diff)
		}
	}
	const h, d, m, y = metricsv1.Interval_INTERVAL_HOUR, metricsv1.Interval_INTERVAL_DAY, metricsv1.Interval_INTERVAL_MONTH, metricsv1.Interval_INTERVAL_YEAR
	none := time.Time{}
	days := func(name string) {
		check(name+": days", d, none, none, map[string]int64{"2025-12-31T00": 16, "2026-11-01T00": 3, "2026-11-02T00": 4, "2026-11-20T00": 8})
		check(name+": months", m, none, none, map[string]int64{"2025-12-01T00": 16, "2026-11-01T00": 15})
		check(name+": years", y, none, none, map[string]int64{"2025-01-01T00": 16, "2026-01-01T00": 15})
		check(name+": a start within a day leaves it out, an end within one does not", d, day(1, 1), day(2, 1), map[string]int64{"2026-11-02T00": 4})
		check(name+": an end is not included", d, day(1, 0), day(2, 0), map[string]int64{"2026-11-01T00": 3})
		check(name+": a start within a year", y, day(1, 0), none, map[string]int64{})
	}
	check("hours", h, day(1, 0), day(2, 0), map[string]int64{"2026-11-01T00": 1, "2026-11-01T23": 2})
	days("from hours")

	// Hours that are older than three weeks go into their days, and nothing is lost. The database's clock decides.
	since := func(at time.Time) time.Duration { return time.Since(at) }
	n, err := Fold(t.Context(), pool, Keep{Hours: since(day(19, 12)), Days: 100 * 365 * 24 * time.Hour}, true)
	if err != nil || n != 8 { // four of the file, four of the channel
		t.Errorf("a dry run folds %d, %v", n, err)
	}
	if n, err = Fold(t.Context(), pool, Keep{Hours: since(day(19, 12)), Days: 100 * 365 * 24 * time.Hour}, false); err != nil || n != 8 {
		t.Errorf("folded %d, %v", n, err)
	}
	check("hours that are left", h, none, none, map[string]int64{"2026-11-20T11": 8})
	days("from days")
	if n, err = Fold(t.Context(), pool, Keep{Hours: since(day(19, 12)), Days: since(time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC))}, false); err != nil || n != 2 {
		t.Errorf("folded %d, %v", n, err)
	}
	check("days that are left", d, none, none, map[string]int64{"2026-11-01T00": 3, "2026-11-02T00": 4, "2026-11-20T00": 8})
	check("months", m, none, none, map[string]int64{"2025-12-01T00": 16, "2026-11-01T00": 15})
	// A late batch of an hour that is folded already.
	mustApply(t, pool, batch("late", 1, day(1, 3), 0, file), batch("late", 2, day(1, 3), 5, "noarch/late-1-0.conda"))
	if n, err = Fold(t.Context(), pool, Keep{Hours: since(day(19, 12)), Days: 100 * 365 * 24 * time.Hour}, false); err != nil || n != 2 {
		t.Errorf("folded %d, %v", n, err)
	}
	if got, _ := seriesOf(t, pool, "", all(day2)); got["2026-11-01T00"] != 8 {
		t.Errorf("the channel's first of November: %v", got)
	}
	if _, err := newWindow(99, nil, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("interval 99: %v", err)
	}
}

const day2 = day // where a variable is called day

func TestForget(t *testing.T) {
	pool := pgtest.New(t, Schema)
	mustApply(t, pool, batch("a", 1, noon, 1, file))
	if err := forget(t.Context(), pool, channel); err != nil {
		t.Fatal(err)
	}
	if err := forget(t.Context(), pool, channel); err != nil { // again
		t.Fatal(err)
	}
	out := mustApply(t, pool, batch("a", 2, noon, 1, file))
	if _, total := seriesOf(t, pool, file, all(hour)); total != 0 || len(out.added) != 1 || out.downloads != 0 {
		t.Errorf("%d downloads of a channel that is gone, %+v", total, out)
	}
	// One that slipped in is found by upkeep, and so are numbers that are long forgotten.
	if _, err := pool.Exec(t.Context(), `INSERT INTO metrics.items (channel_id, path, package, total) VALUES ($1, 'x', '', 1)`, channel); err != nil {
		t.Fatal(err)
	}
	if n, err := PurgeSources(t.Context(), pool, false); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, total := seriesOf(t, pool, "x", all(hour)); total != 0 {
		t.Errorf("%d downloads slipped in", total)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE metrics.sources SET updated_at = now() - interval '30 days'`); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false, false} {
		n, err := PurgeSources(t.Context(), pool, dry)
		if want := map[bool]int64{true: 1}[dry]; err != nil || (dry && n != want) {
			t.Errorf("dry %v: %d, %v", dry, n, err)
		}
	}
	var left int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM metrics.sources`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d sources are left, %v", left, err)
	}
}

// BenchmarkApply adds a second's batches of 10,000 downloads, each second of other files of 100,000: the skew of real
// traffic (the first files get most) by default, none with ENTREPOT_BENCH_FLAT.
func BenchmarkApply(b *testing.B) {
	pool := pgtest.New(b, Schema)
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.1, 8, 99_999)
	pick := zipf.Uint64
	if os.Getenv("ENTREPOT_BENCH_FLAT") != "" {
		pick = func() uint64 { return rng.Uint64N(100_000) }
	}
	var seq int64
	for b.Loop() {
		counts := map[string]int64{}
		for range 10_000 {
			counts[fmt.Sprintf("linux-64/package-%06d-1.0-0.conda", pick())]++
		}
		seq++
		ch := &metricsv1.ChannelAccess{ChannelId: channel[:]}
		for p, n := range counts {
			ch.Paths, ch.Counts = append(ch.Paths, p), append(ch.Counts, n)
		}
		mustApply(b, pool, &metricsv1.AccessBatch{Instance: "a", Epoch: 1, Seq: seq, Hour: noon.Unix(), Channels: []*metricsv1.ChannelAccess{ch}})
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "downloads/s")
}
