package sync

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

// largeIndex is an index of n records of the size that large public channels have.
func largeIndex(tb testing.TB, n int) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprint(w, `{"info":{"subdir":"linux-64"},"packages":{},"packages.conda":{`)
	for i := range n {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, `"package-%06d-1.%d.0-py312h%07x_0.conda":{"build":"py312h%07x_0","build_number":0,"constrains":["other >=1.0","yet-another <3"],`+
			`"depends":["__glibc >=2.17,<3.0.a0","libgcc >=13","libstdcxx >=13","numpy >=1.19,<3","python >=3.12,<3.13.0a0","python_abi 3.12.* *_cp312"],`+
			`"license":"BSD-3-Clause","license_family":"BSD","md5":"%032x","name":"package-%06d","sha256":"%064x","size":%d,"subdir":"linux-64","timestamp":1717171717171,"version":"1.%d.0"}`,
			i/20, i%20, i, i, i, i/20, i, 100000+i, i%20)
	}
	fmt.Fprint(w, `},"removed":[]}`)
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// peak returns the most memory that the process had, in MiB.
func peak(tb testing.TB) int {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	kb, _ := strconv.Atoi(strings.Fields(rest)[0])
	return kb >> 10
}

// BenchmarkLargePlan reads an index of 200,000 records from an upstream and makes a plan of it.
func BenchmarkLargePlan(b *testing.B) {
	data := largeIndex(b, 200_000)
	store, err := blob.OpenDir(b.TempDir(), blob.DirOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	up := fetchtest.New(b)
	up.Script("/linux-64/repodata.json.zst", fetchtest.File(data))
	c, err := fetch.New(fetch.Config{Egress: fetch.Policy{AllowLoopback: true}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	remote, err := c.Remote(fetch.RemoteConfig{BaseURL: up.URL})
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	for b.Loop() {
		began := time.Now()
		u := &upstream{remote: remote, blobs: store, max: 1 << 30}
		ix := u.fetch(b.Context(), subdirState{Subdir: "linux-64"}, false)
		if ix.err != nil || ix.Records != 200_000 {
			b.Fatal(ix.err, ix.Records)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/fetch")
		_, total, err := makePlan(b.Context(), planInput{blobs: store, remote: remote}, []index{ix}, &Result{})
		if err != nil || total != 200_000 {
			b.Fatal(err, total)
		}
	}
	b.ReportMetric(float64(peak(b)), "MiB")
}
