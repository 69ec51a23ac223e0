package link

import (
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Order sorts packages into the order in which they are linked: what a package depends on comes before it, and packages
// that do not depend on each other come in descending order of their names. It does not depend on the order of items.
// Names must be unique.
//
// Where packages depend on each other in a circle, it is cut between a package for one platform and a noarch one, which
// comes later: python needs pip, but pip cannot be linked before python.
func Order[T any](items []T, record func(*T) *repodata.Record) []T {
	g := graph{index: make(map[string]int, len(items)), records: make([]*repodata.Record, len(items)), cuts: map[[2]string]bool{}}
	for i := range items {
		g.records[i] = record(&items[i])
		g.index[g.records[i].Name] = i
		g.names = append(g.names, g.records[i].Name)
	}
	slices.Sort(g.names)
	g.cut()
	out := make([]T, 0, len(items))
	for _, i := range g.order() {
		out = append(out, items[i])
	}
	return out
}

type graph struct {
	names   []string
	index   map[string]int
	records []*repodata.Record
	cuts    map[[2]string]bool // edges that are ignored
}

// dependency is the name in a match spec, of any form: "channel::name >=1", "name>=1", "name[version='>=1']".
func dependency(spec string) string {
	if head, rest, ok := strings.Cut(spec, "::"); ok && !strings.ContainsAny(head, "[ ") {
		spec = rest
	}
	spec = strings.TrimSpace(spec)
	if i := strings.IndexAny(spec, " \t=<>!~[;"); i >= 0 {
		spec = spec[:i]
	}
	return strings.ToLower(spec)
}

// cut finds circles, each from its first package by name, and removes one edge of each.
func (g *graph) cut() {
	visited := map[string]bool{}
	var path []string
	var walk func(name string)
	walk = func(name string) {
		if i := slices.Index(path, name); i >= 0 {
			g.cutCircle(path[i:])
			return
		}
		if visited[name] {
			return
		}
		visited[name] = true
		i, ok := g.index[name]
		if !ok {
			return
		}
		path = append(path, name)
		for _, d := range g.records[i].Depends {
			walk(dependency(d))
		}
		path = path[:len(path)-1]
	}
	for _, name := range g.names {
		walk(name)
	}
}

func (g *graph) cutCircle(circle []string) {
	for i, a := range circle {
		b := circle[(i+1)%len(circle)]
		aArch, bArch := g.arch(a), g.arch(b)
		switch {
		case aArch && !bArch:
			g.cuts[[2]string{a, b}] = true
			return
		case !aArch && bArch, i == len(circle)-1:
			g.cuts[[2]string{b, a}] = true
			return
		}
	}
}

func (g *graph) arch(name string) bool { return g.records[g.index[name]].NoArch == repodata.NoArchNone }

// order walks from those that nothing depends on, last name first, dependencies before what needs them.
func (g *graph) order() []int {
	needed := map[string]bool{}
	for _, r := range g.records {
		for _, d := range r.Depends {
			if name := dependency(d); !g.cuts[[2]string{r.Name, name}] {
				needed[name] = true
			}
		}
	}
	visited := map[string]bool{}
	var out []int
	var visit func(name string)
	visit = func(name string) {
		i, ok := g.index[name]
		if !ok || visited[name] {
			return
		}
		visited[name] = true
		var deps []string
		for _, d := range g.records[i].Depends {
			if dep := dependency(d); !g.cuts[[2]string{name, dep}] {
				deps = append(deps, dep)
			}
		}
		slices.Sort(deps)
		for _, d := range slices.Backward(deps) {
			visit(d)
		}
		out = append(out, i)
	}
	for _, name := range slices.Backward(g.names) {
		if !needed[name] {
			visit(name)
		}
	}
	// What is left hangs on circles that were not cut.
	for _, name := range slices.Backward(g.names) {
		visit(name)
	}
	return out
}
