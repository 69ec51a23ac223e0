// Package synth makes conda channels of any size that are as hard to solve as real ones, for benchmarks and tests.
//
// It begins with the true records of a channel, which all stay. Then it replays each name's history in generations: every
// generation has a copy of each record, a little older, with a build hash and a time of its own, and some copies of
// packages built for one Python are for another one. Pins between packages of one generation are shifted with them, so that every copy
// can be installed whenever the original could. At last come names without records: stubs of noarch packages, each of which
// needs a few names that were there before, popular ones more often.
//
// Everything follows from a seed; nothing is random otherwise.
package synth

import (
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
)

// Record is a record of the channel.
type Record struct {
	Subdir      string
	FileName    string
	Name        string
	Version     string
	Build       string
	BuildNumber uint64
	Depends     []string
	Constrains  []string
	Features    []string // track_features
	License     string
	NoArch      string
	Size        uint64
	Timestamp   int64 // milliseconds
	SHA256, MD5 string
	// Generation counts back from 0, the true records; those of later ones appeared earlier. Stubs have -1.
	Generation int
}

// Options of a channel.
type Options struct {
	Seed    uint64
	Records int      // how many there shall be, at least those of the base
	Names   []string // of packages; those without records become stubs
	// Base has the true records, of the platform's subdir and of noarch; see Made.
	Base []solve.Repo
}

// Channel returns the records of a channel, sorted by subdir and file name.
func Channel(o Options) []Record {
	var base []Record
	for _, repo := range o.Base {
		for _, p := range repo.All() {
			base = append(base, Record{
				Subdir: p.Subdir, FileName: p.FileName, Name: p.Name, Version: p.Version, Build: p.Build, BuildNumber: p.BuildNumber,
				Depends: p.Depends, Constrains: p.Constrains, Features: p.TrackFeatures, License: p.License, NoArch: string(p.NoArch),
				Size: p.Size, Timestamp: p.Timestamp, SHA256: p.SHA256, MD5: p.MD5,
			})
		}
	}
	g := &generator{rng: rand.New(rand.NewPCG(o.Seed, 21)), seen: map[string]bool{}, exact: map[string]*Record{}}
	for i := range base {
		r := &base[i]
		g.exact[r.Name+" "+r.Version+" "+r.Build] = r
		g.add(*r)
	}
	byName := map[string][]*Record{}
	for i := range base {
		byName[base[i].Name] = append(byName[base[i].Name], &base[i])
	}
	stubs := stubNames(byName, o.Names)
	g.histories(byName, o.Records-len(stubs))
	for generation := 1; len(g.out)+len(stubs) < o.Records; generation++ {
		before := len(g.out)
		for i := range base {
			if len(g.out)+len(stubs) >= o.Records {
				break
			}
			if generation <= g.generations[base[i].Name] {
				g.add(g.older(&base[i], generation))
			}
		}
		if len(g.out) == before {
			break // nothing to make copies of
		}
	}
	g.stubs(base, stubs, o.Records-len(g.out))
	slices.SortFunc(g.out, func(a, b Record) int {
		if a.Subdir != b.Subdir {
			return strings.Compare(a.Subdir, b.Subdir)
		}
		return strings.Compare(a.FileName, b.FileName)
	})
	return g.out
}

type generator struct {
	rng   *rand.Rand
	seen  map[string]bool
	exact map[string]*Record // "name version build" of the base
	// generations says how many copies of each record of a name there are.
	generations map[string]int
	out         []Record
}

func (g *generator) add(r Record) {
	key := r.Subdir + "/" + r.FileName
	if !g.seen[key] {
		g.seen[key] = true
		g.out = append(g.out, r)
	}
}

// histories says how long each name's history becomes. In complete histories of real channels half of the names have 18
// records, one in ten 82, one in a hundred 813: names with many records here get many there. No more than most records
// are asked for in all.
func (g *generator) histories(byName map[string][]*Record, most int) {
	names := slices.SortedFunc(maps.Keys(byName), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(byName[a]), len(byName[b])), strings.Compare(a, b))
	})
	g.generations = map[string]int{}
	total := len(g.out)
	for i, name := range slices.Backward(names) {
		target := 18 * math.Exp(spread(float64(2*i+1)/float64(2*len(names))))
		real := len(byName[name])
		n := max(0, int(target/float64(real)+0.5)-1)
		n = min(n, max(0, most-total)/real)
		g.generations[name] = n
		total += n * real
	}
}

// spread is the logarithm of how much longer than the median a history at a quantile is.
func spread(q float64) float64 {
	z := math.Sqrt2 * math.Erfinv(2*q-1)
	return z * (1.18 + 0.44*max(0, min(1, z-1.28)))
}

var (
	pythonBuild = regexp.MustCompile(`^(?:.*_)?py3(\d+)`)
	buildHash   = regexp.MustCompile(`h[0-9a-f]{7}`)
	lastNumber  = regexp.MustCompile(`(\d+)$`)
)

// otherPython is the Python that a copy is built for, of 3.8 to 3.14: another one in every third generation.
func otherPython(minor, generation int) int { return 8 + (minor-8+generation/3)%7 }

// older is a record's copy in a generation.
func (g *generator) older(r *Record, generation int) Record {
	out := *r
	out.Generation = generation
	out.Version, out.Build = shift(r, generation)
	ext := ".conda"
	if strings.HasSuffix(r.FileName, ".tar.bz2") {
		ext = ".tar.bz2"
	}
	out.FileName = out.Name + "-" + out.Version + "-" + out.Build + ext
	minor, next := pythonOf(r), 0
	if minor >= 0 {
		next = otherPython(minor, generation)
	}
	out.Depends = make([]string, len(r.Depends))
	for i, spec := range r.Depends {
		out.Depends[i] = g.shiftSpec(spec, generation, minor, next)
	}
	if r.Timestamp > 0 {
		out.Timestamp = max(1_300_000_000_000, r.Timestamp-int64(generation)*20*86_400_000-int64(g.rng.IntN(86_400_000)))
	}
	out.SHA256, out.MD5 = digests(out.FileName)
	return out
}

// pythonOf is the minor version of the Python that a record is built for; -1 if it is built for none that others exist of.
func pythonOf(r *Record) int {
	m := pythonBuild.FindStringSubmatch(r.Build)
	if m == nil || r.Name == "python_abi" || r.Name == "python" {
		return -1
	}
	minor, err := strconv.Atoi(m[1])
	if err != nil || minor < 8 || minor > 14 {
		return -1
	}
	return minor
}

// shift gives version and build of a record's copy. The version lies right before the original's.
func shift(r *Record, generation int) (version, build string) {
	version = r.Version
	if loc := lastNumber.FindStringIndex(version); loc != nil {
		n, err := strconv.Atoi(version[loc[0]:])
		switch {
		case err != nil:
		case n > 0:
			version = fmt.Sprintf("%s%d.%d", version[:loc[0]], n-1, 1000-generation)
		default:
			version = fmt.Sprintf("%src%d", version, 1000-generation)
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", r.Name, r.Build, generation))
	build = buildHash.ReplaceAllString(r.Build, "h"+hex.EncodeToString(sum[:])[:7])
	if minor := pythonOf(r); minor >= 0 {
		build = strings.Replace(build, fmt.Sprintf("py3%d", minor), fmt.Sprintf("py3%d", otherPython(minor, generation)), 1)
	}
	return version, build
}

// shiftSpec is a dependency of a copy: an exact pin goes to the same generation, one on a Python to another.
func (g *generator) shiftSpec(spec string, generation, minor, next int) string {
	if target := g.exact[spec]; target != nil {
		if generation > g.generations[target.Name] {
			return spec
		}
		version, build := shift(target, generation)
		return target.Name + " " + version + " " + build
	}
	if minor < 0 || !strings.HasPrefix(spec, "python") {
		return spec
	}
	for _, s := range [][2]string{
		{fmt.Sprintf(">=3.%d,<3.%d.0a0", minor, minor+1), fmt.Sprintf(">=3.%d,<3.%d.0a0", next, next+1)},
		{fmt.Sprintf("python_abi 3.%d.* *_cp3%d", minor, minor), fmt.Sprintf("python_abi 3.%d.* *_cp3%d", next, next)},
	} {
		spec = strings.ReplaceAll(spec, s[0], s[1])
	}
	return spec
}

// stubNames are the names without records.
func stubNames(have map[string][]*Record, names []string) (out []string) {
	for _, name := range names {
		if have[name] == nil && stubName.MatchString(name) {
			out = append(out, name)
		}
	}
	return out
}

// stubs adds noarch packages of names without records: so many in all, a few versions of each.
func (g *generator) stubs(base []Record, names []string, total int) {
	var popular []string // each name as often as records need it
	for _, r := range base {
		for _, spec := range r.Depends {
			name, _, _ := strings.Cut(spec, " ")
			if !strings.HasPrefix(name, "_") && r.NoArch == "python" {
				popular = append(popular, name)
			}
		}
	}
	for i, name := range names {
		depends := []string{"python >=3.9"}
		for range g.rng.IntN(6) {
			if len(popular) > 0 {
				depends = append(depends, popular[g.rng.IntN(len(popular))])
			}
		}
		slices.Sort(depends)
		depends = slices.Compact(depends)
		mean := max(1, (total+len(names)-i-1)/(len(names)-i))
		n := mean
		if i < len(names)-1 {
			n = min(1+g.rng.IntN(2*mean), total-(len(names)-i-1))
		}
		total -= n
		for v := range n {
			r := Record{
				Subdir: "noarch", Name: name, Version: fmt.Sprintf("%d.%d.%d", v/24, v/6%4, v%6), Build: "pyhd8ed1ab_0", Depends: depends,
				NoArch: "python", License: "MIT", Size: uint64(20_000 + g.rng.IntN(200_000)), Timestamp: 1_600_000_000_000 + g.rng.Int64N(1e11), Generation: -1,
			}
			r.FileName = r.Name + "-" + r.Version + "-" + r.Build + ".conda"
			r.SHA256, r.MD5 = digests(r.FileName)
			g.add(r)
		}
		popular = append(popular, name)
	}
}

// digests are made of the file's name: there is no file.
func digests(file string) (sha, short string) {
	long, brief := sha256.Sum256([]byte(file)), md5.Sum([]byte(file))
	return hex.EncodeToString(long[:]), hex.EncodeToString(brief[:])
}

var stubName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,60}$`)
