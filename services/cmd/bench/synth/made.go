package synth

import (
	"fmt"
	"math/rand/v2"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
)

// Made is a base for where no true records are at hand: a Python with libraries that need each other, some built for it and
// some not. It is easier to solve than a real channel.
func Made(seed uint64, names int) []solve.Repo {
	rng := rand.New(rand.NewPCG(seed, 22))
	repos := []solve.Repo{{Channel: "made", Subdir: "linux-64"}, {Channel: "made", Subdir: "noarch"}}
	add := func(repo int, name, version, build string, depends ...string) {
		p := &solve.Package{Channel: "made", FileName: fmt.Sprintf("%s-%s-%s.conda", name, version, build)}
		p.Name, p.Version, p.Build, p.Subdir, p.Depends = name, version, build, repos[repo].Subdir, depends
		p.Timestamp, p.Size, p.License = 1_600_000_000_000+rng.Int64N(1e11), uint64(rng.IntN(1<<22)), "BSD-3-Clause"
		if repo == 1 {
			p.NoArch = repodata.NoArchPython
		}
		repos[repo].Packages = append(repos[repo].Packages, p)
	}
	for minor := 8; minor <= 14; minor++ {
		add(0, "python", fmt.Sprintf("3.%d.%d", minor, rng.IntN(9)), fmt.Sprintf("h%07x_0_cpython", rng.IntN(1<<28)), fmt.Sprintf("python_abi 3.%d.* *_cp3%d", minor, minor))
		add(1, "python_abi", fmt.Sprintf("3.%d", minor), fmt.Sprintf("8_cp3%d", minor))
	}
	for i := range names {
		name := fmt.Sprintf("lib%04d", i)
		for version := range 1 + rng.IntN(4) {
			var depends []string
			for range rng.IntN(5) {
				if i > 0 {
					depends = append(depends, fmt.Sprintf("lib%04d >=%d.0", rng.IntN(i), 1+rng.IntN(2)))
				}
			}
			text := fmt.Sprintf("%d.0.%d", 2+version, rng.IntN(5))
			switch i % 3 {
			case 0:
				for _, minor := range []int{11, 12, 13} {
					own := append([]string{fmt.Sprintf("python >=3.%d,<3.%d.0a0", minor, minor+1), fmt.Sprintf("python_abi 3.%d.* *_cp3%d", minor, minor)}, depends...)
					add(0, name, text, fmt.Sprintf("py3%dh%07x_0", minor, rng.IntN(1<<28)), own...)
				}
			case 1:
				add(0, name, text, fmt.Sprintf("h%07x_0", rng.IntN(1<<28)), depends...)
			default:
				add(1, name, text, "pyhd8ed1ab_0", append([]string{"python >=3.9"}, depends...)...)
			}
		}
	}
	return repos
}
