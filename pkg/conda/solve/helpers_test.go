package solve

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// option changes a package under test.
type option func(*Package)

func build(s string, number uint64) option {
	return func(p *Package) { p.Build, p.BuildNumber = s, number }
}
func features(f ...string) option { return func(p *Package) { p.TrackFeatures = f } }
func constrains(c ...string) option {
	return func(p *Package) { p.Constrains = c }
}
func built(ms int64) option       { return func(p *Package) { p.Timestamp = ms } }
func indexed(ms int64) option     { return func(p *Package) { p.IndexedTimestamp = ms } }
func flags(f ...string) option    { return func(p *Package) { p.Flags = f } }
func extension(ext string) option { return func(p *Package) { p.FileName = ext } }
func extra(group string, specs ...string) option {
	return func(p *Package) {
		if p.ExtraDepends == nil {
			p.ExtraDepends = map[string][]string{}
		}
		p.ExtraDepends[group] = specs
	}
}

// pkg makes a package from "name version" and its dependencies.
func pkg(nv string, depends []string, opts ...option) *Package {
	name, version, _ := strings.Cut(nv, " ")
	p := &Package{}
	p.Name, p.Version, p.Build, p.Depends = name, version, "0", depends
	p.FileName = ".conda"
	for _, o := range opts {
		o(p)
	}
	if strings.HasPrefix(p.FileName, ".") {
		p.FileName = fmt.Sprintf("%s-%s-%s%s", p.Name, p.Version, p.Build, p.FileName)
	}
	return p
}

func needs(specs ...string) []string { return specs }

// channel makes a repo.
func channel(name string, packages ...*Package) Repo {
	for _, p := range packages {
		p.Channel, p.Subdir = name, "linux-64"
	}
	return Repo{Channel: name, Subdir: "linux-64", Packages: packages}
}

func index(t testing.TB, repos ...Repo) *Index {
	t.Helper()
	ix, err := NewIndex(repos)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// solve returns the solution as "a 1.0 b 2.0", or the error.
func solve(t testing.TB, ix *Index, r Request, specs ...string) string {
	t.Helper()
	r.Specs = append(r.Specs, parseSpecs(t, specs...)...)
	sol, err := ix.Solve(context.Background(), r)
	if err != nil {
		return err.Error()
	}
	if problem := check(sol, &r); problem != "" {
		t.Errorf("the solution is not valid: %s", problem)
	}
	out := make([]string, len(sol.Packages))
	for i, p := range sol.Packages {
		out[i] = p.Name + " " + p.Version
		if p.Build != "0" {
			out[i] += " " + p.Build
		}
	}
	return strings.Join(out, ", ")
}
