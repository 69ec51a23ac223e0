package sample

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// kind is what a package is for; its contents follow from it.
type kind int

const (
	library kind = iota
	tool
	interpreter
	module // a python module built for one platform
	purePython
	data
)

// spec is one package file to be made.
type spec struct {
	kind        kind
	name        string
	version     string
	build       string
	buildNumber int64
	subdir      string
	depends     []string
	format      dist.Format
	number      int // position in the plan; the build time follows from it
}

func (s spec) stem() string { return s.name + "-" + s.version + "-" + s.build }

// about is what channeldata.json says of a package.
type about struct{ name, version, summary, subdir string }

func (s spec) about() about {
	what := map[kind]string{
		library: "a library", tool: "a command-line tool", interpreter: "the sample interpreter",
		module: "a compiled python module", purePython: "a python package", data: "data files",
	}[s.kind]
	return about{s.name, s.version, s.name + ": " + what + " of the sample channel", s.subdir}
}

// Names by kind. When they are used up, a number is appended.
var names = map[kind][]string{
	library:    {"libquay", "libcrane", "libbarge", "libwharf", "libcargo", "libanchor"},
	tool:       {"stevedore", "harbor", "pilot", "tally", "derrick", "winch"},
	module:     {"tonnage", "ballast", "draught", "keel"},
	purePython: {"ledger", "waybill", "invoice", "customs", "tariff", "bill-of-lading", "demurrage", "freight"},
	data:       {"port-codes", "signal-flags", "tide-tables", "sea-lanes"},
}

// planner lays out a channel in an order in which every dependency comes before what needs it. So a plan that is cut
// off at any length still solves.
type planner struct {
	rng   *rand.Rand
	most  int
	specs []spec
	used  map[kind]int
	have  map[kind][]spec // one spec per name that others may depend on
}

// plan lays out opts.Packages package files. The layout is the same for every seed: a channel's shape should not
// surprise, only its bytes change.
func plan(opts Options) []spec {
	p := &planner{rng: rand.New(rand.NewPCG(7, 11)), most: opts.Packages, used: map[kind]int{}, have: map[kind][]spec{}}
	p.add(spec{kind: data, name: "tzdata", version: "2025b", build: "h1_0"}, dist.Conda)
	p.project(library)
	for i, v := range []string{"3.12.7", "3.12.8"} {
		p.add(spec{
			kind: interpreter, name: "python", version: v, build: buildString(v, i, "_cpython"), buildNumber: int64(i),
			depends: []string{p.atLeast(p.have[library][0]), "tzdata"},
		}, dist.Conda)
	}
	// The characters that URLs change on the way: `1!2.0.1+dock` travels as 1%212.0.1%2Bdock.
	p.add(spec{kind: tool, name: "x-dock", version: "1!2.0.1+dock", build: "h2_0", depends: []string{p.atLeast(p.have[library][0])}}, dist.Conda)
	cycle := []kind{purePython, library, tool, data, module, purePython}
	for i := 0; len(p.specs) < p.most; i++ {
		p.project(cycle[i%len(cycle)])
	}
	return p.specs[:p.most]
}

// project adds one name in one to three versions. All have one major version, and dependencies ask for "at least, below
// the next major", so the newest of everything always fits together.
func (p *planner) project(k kind) {
	n := p.used[k]
	p.used[k]++
	name := names[k][n%len(names[k])]
	if round := n / len(names[k]); round > 0 {
		name = fmt.Sprintf("%s%d", name, round+1)
	}
	depends := p.dependsOf(k)
	major := 1 + p.rng.IntN(3)
	versions := 1 + p.rng.IntN(3)
	for v := range versions {
		version := fmt.Sprintf("%d.%d.%d", major, v*2+p.rng.IntN(2), p.rng.IntN(10))
		builds := 1
		if v == versions-1 && p.rng.IntN(3) == 0 {
			builds = 2
		}
		for b := range builds {
			s := spec{kind: k, name: name, version: version, buildNumber: int64(b), depends: depends}
			switch k {
			case module:
				s.build = "py312" + buildString(name+version, b, "")
			case purePython:
				s.build = fmt.Sprintf("pyhd8ed1ab_%d", b)
			default:
				s.build = buildString(name+version, b, "")
			}
			formats := []dist.Format{dist.Conda}
			switch p.rng.IntN(5) {
			case 0:
				formats = []dist.Format{dist.TarBz2}
			case 1:
				formats = []dist.Format{dist.Conda, dist.TarBz2}
			}
			p.add(s, formats...)
			if v == 0 && b == 0 {
				p.have[k] = append(p.have[k], s)
			}
		}
	}
}

func (p *planner) add(s spec, formats ...dist.Format) {
	s.subdir = "linux-64"
	if s.kind == purePython || s.kind == data {
		s.subdir = dist.Noarch
	}
	for _, f := range formats {
		s.format = f
		s.number = len(p.specs)
		p.specs = append(p.specs, s)
	}
}

// dependsOf picks what a new project of a kind builds on, among what is there already.
func (p *planner) dependsOf(k kind) []string {
	var out []string
	pick := func(from kind, most int) {
		have := p.have[from]
		for range min(most, len(have)) {
			if d := p.atLeast(have[p.rng.IntN(len(have))]); !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	switch k {
	case library:
		pick(library, 1)
	case tool:
		pick(library, 2)
		pick(data, 1)
	case module:
		out = append(out, "python >=3.12,<3.13.0a0")
		pick(library, 1)
		pick(purePython, 1)
	case purePython:
		out = append(out, "python >=3.10")
		pick(purePython, 2)
	}
	return out
}

func (p *planner) atLeast(s spec) string {
	var major int
	if _, err := fmt.Sscanf(s.version, "%d.", &major); err != nil {
		return s.name
	}
	return fmt.Sprintf("%s >=%s,<%d.0a0", s.name, s.version, major+1)
}

// buildString looks like those of the field: a hash of what went in, and the build number.
func buildString(of string, number int, suffix string) string {
	sum := sha256.Sum256([]byte(of))
	return fmt.Sprintf("h%s_%d%s", hex.EncodeToString(sum[:])[:7], number, suffix)
}
