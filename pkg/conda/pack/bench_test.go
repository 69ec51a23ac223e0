package pack_test

import (
	"io"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// BenchmarkPack writes an archive of 40 packages with 4,000 files of 64 MB: with an empty cache, and with a full one.
func BenchmarkPack(b *testing.B) {
	k := segmenttest.New(b)
	packages := k.Fetch(k.Many(40, 100, 16<<10, 1)...)
	for _, f := range []pack.Format{pack.TarGz, pack.TarZst, pack.Zip} {
		b.Run(string(f)+"/cold", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				o := options(b, f)
				b.StartTimer()
				benchWrite(b, packages, o)
			}
		})
		if f == pack.Zip {
			continue // nothing of it is kept
		}
		b.Run(string(f)+"/warm", func(b *testing.B) {
			o := options(b, f)
			benchWrite(b, packages, o)
			for b.Loop() {
				benchWrite(b, packages, o)
			}
		})
	}
}

func benchWrite(b *testing.B, packages []segment.Package, o pack.Options) {
	b.Helper()
	res, err := pack.Write(b.Context(), io.Discard, packages, o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(res.Bytes)/(1<<20), "MiB")
}
