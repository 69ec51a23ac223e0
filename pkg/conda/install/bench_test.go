package install

import (
	"fmt"
	"os"
	"testing"
)

// BenchmarkLink28600 links an environment of the size of a real scientific one out of a warm cache.
func BenchmarkLink28600(b *testing.B) {
	w := newWorld(b)
	var set []Package
	for n := range 110 {
		m := made{name: fmt.Sprintf("bench-%03d", n), version: "1"}
		for k := range 260 {
			f := file(fmt.Sprintf("lib/bench-%03d/dir%02d/file%03d.py", n, k/20, k), fmt.Sprintf("# %d %d\n", n, k))
			if k%25 == 0 {
				f = file(fmt.Sprintf("bin/bench-%03d-%03d", n, k), "#!@/bin/python\n")
			}
			m.files = append(m.files, f)
		}
		set = append(set, m.write(b, w.channel))
	}
	w.mustInstall(set...)
	prefix := w.prefix
	b.ResetTimer()
	for n := 0; b.Loop(); n++ {
		w.prefix = fmt.Sprintf("%s-%d", prefix, n)
		res := w.mustInstall(set...)
		if res.Linked+res.Copied+res.Rewritten != 28600 {
			b.Fatalf("%+v", res)
		}
		b.StopTimer()
		if err := os.RemoveAll(w.prefix); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
