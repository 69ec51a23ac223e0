package segment

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/activate"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// Var is an environment variable.
type Var struct{ Name, Value string }

// Vars are the variables that packages want to be set while the environment is active: etc/conda/env_vars.d/*.json, by
// file name, of which later ones win. PATH and CONDA_* are left out: they say which environment is active, and that is not
// for a package to say.
func (e *Env) Vars() ([]Var, error) {
	type source struct {
		p *Part
		e *link.Entry
	}
	var files []source
	e.each(func(p *Part, entry *link.Entry) {
		if dir, base := path.Split(entry.Path); dir == "etc/conda/env_vars.d/" && strings.HasSuffix(base, ".json") {
			files = append(files, source{p, entry})
		}
	})
	slices.SortFunc(files, func(a, b source) int { return strings.Compare(a.e.Path, b.e.Path) })
	var out []Var
	for _, f := range files {
		err := f.p.Each([]link.Entry{*f.e}, func(_ *link.Entry, c *Content) error {
			if c.Reader == nil {
				return nil
			}
			data, err := io.ReadAll(io.LimitReader(c.Reader, 1<<20))
			if err != nil {
				return err
			}
			vars, err := activate.ParseVars(data)
			if err != nil {
				return err
			}
			for name, value := range vars {
				if err := activate.CheckName(name); err != nil {
					return err
				}
				if activate.Reserved(name) {
					continue
				}
				if strings.ContainsRune(value, 0) {
					return fmt.Errorf("%s: the value contains a zero", name)
				}
				out = slices.DeleteFunc(out, func(o Var) bool { return o.Name == name })
				out = append(out, Var{name, value})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Activation lists the scripts that packages want to run when the environment is activated, sorted.
func (e *Env) Activation() []string {
	var out []string
	e.each(func(_ *Part, entry *link.Entry) {
		if dir, base := path.Split(entry.Path); dir == "etc/conda/activate.d/" && strings.HasSuffix(base, ".sh") {
			out = append(out, entry.Path)
		}
	})
	slices.Sort(out)
	return out
}

// each calls fn for what lies where it belongs.
func (e *Env) each(fn func(*Part, *link.Entry)) {
	for _, p := range e.Parts {
		for i := range p.Entries {
			fn(p, &p.Entries[i])
		}
	}
}
