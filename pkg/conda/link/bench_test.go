package link_test

import (
	"fmt"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// BenchmarkPlan plans 60 packages with 30,000 paths and settles who has which.
func BenchmarkPlan(b *testing.B) {
	var packages []*link.Package
	for i := range 60 {
		p := &link.Package{Name: fmt.Sprintf("p%02d", i), Version: "1", Build: "0"}
		for j := range 500 {
			p.Paths = append(p.Paths, archive.PathEntry{Path: fmt.Sprintf("lib/python3.12/site-packages/p%02d/d%d/f%d.py", i, j/20, j), Type: archive.PathHardLink})
		}
		packages = append(packages, p)
	}
	target := &link.Target{Prefix: "/opt/env", Platform: "linux-64"}
	for b.Loop() {
		var plans []link.Plans
		for _, p := range packages {
			entries, err := link.Plan(p, target)
			if err != nil {
				b.Fatal(err)
			}
			plans = append(plans, link.Plans{Name: p.Name, Entries: entries})
		}
		if len(link.Clobbers(plans)) != 0 {
			b.Fatal("there is nothing to settle")
		}
	}
}
