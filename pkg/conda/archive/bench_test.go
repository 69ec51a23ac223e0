package archive

import (
	"bytes"
	"os"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func benchInspect(b *testing.B, f dist.Format, opts ...Option) {
	name, data := create(b, f)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Inspect(b.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, opts...); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInspectTinyConda(b *testing.B)     { benchInspect(b, dist.Conda) }
func BenchmarkInspectTinyCondaFull(b *testing.B) { benchInspect(b, dist.Conda, Full()) }
func BenchmarkInspectTinyTarBz2(b *testing.B)    { benchInspect(b, dist.TarBz2) }

func BenchmarkCreateTinyConda(b *testing.B) {
	for b.Loop() {
		create(b, dist.Conda)
	}
}

// BenchmarkExtract measures small files: 2,000 of 8 kB, as in a Python tree.
func BenchmarkExtract(b *testing.B) {
	var in []Input
	body := bytes.Repeat([]byte("def function(argument): return argument\n"), 200)
	for i := range 2000 {
		in = append(in, Input{Path: "lib/d" + string(rune('a'+i%20)) + "/f" + string(rune('a'+i/20%26)) + "/m" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)), Data: body})
	}
	var out bytes.Buffer
	d, err := Create(b.Context(), &out, dist.Conda, demoMeta(), in)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		dir := b.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Extract(b.Context(), bytes.NewReader(out.Bytes()), int64(out.Len()), d.Filename(), root, Limits{}); err != nil {
			b.Fatal(err)
		}
		root.Close()
	}
	b.ReportMetric(float64(2000*b.N)/b.Elapsed().Seconds(), "files/s")
}
