package image_test

import (
	"io"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// BenchmarkImage makes the digests of an image of 40 packages with 4,000 files of 64 MB: with an empty cache, and with a
// full one; and writes it.
func BenchmarkImage(b *testing.B) {
	k := segmenttest.New(b)
	packages := k.Fetch(k.Many(40, 100, 16<<10, 1)...)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			o := options(b)
			b.StartTimer()
			build(b, packages, o)
		}
	})
	o := options(b)
	img := build(b, packages, o)
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			build(b, packages, o)
		}
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := img.WriteTar(b.Context(), io.Discard, ""); err != nil {
				b.Fatal(err)
			}
		}
	})
}
