// Package envfile reads environment.yml, the file in which people say what they want in an environment (CEP 24), and writes
// the form that `conda env export` gives to what is in one.
//
//	name: analysis
//	channels:
//	- conda-forge
//	- nodefaults
//	dependencies:
//	- python >=3.12
//	- libgcc              # [linux]
//	- sel(win): vs2022_win-64
//	- pip:
//	  - rich
//	variables:
//	  MODE: fast
//
// Reading is strict: what is wrong is an *Error with its line and column, never a guess. An unknown key at the top is only
// a warning, since tools keep their own there.
package envfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/yamltree"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// File is an environment.yml.
type File struct {
	Name   string // empty if the file has none
	Prefix string
	// Channels are in order of priority. NoDefaults is set by the pseudo-channel nodefaults, which is not among them: a
	// program that appends channels of its own must not.
	Channels     []string
	NoDefaults   bool
	Dependencies []Dependency
	Pip          []string // requirements for pip, as they stand
	Variables    []Variable
	Platforms    []string // subdirs that the file is meant for; none says nothing
	Category     string   // of conda-lock: main, dev, …
	Warnings     []Warning
}

// Dependency is a package that is asked for.
type Dependency struct {
	Spec matchspec.Spec
	// Selector is the condition on the platform, as written; empty if there is none.
	Selector     string
	Line, Column int

	when expression // nil: always
}

// Variable is an environment variable to be set when the environment is activated.
type Variable struct{ Name, Value string }

// Warning is something that may not be what was meant.
type Warning struct {
	Line, Column int
	Msg          string
}

// Error says what is wrong with a file, and where.
type Error struct {
	Line, Column int // counted from one; zero if it is about the whole
	Msg          string
	Err          error // the cause in a match spec, or nil
}

// Error implements error.
func (e *Error) Error() string {
	return (&yamltree.Error{Line: e.Line, Column: e.Column, Msg: e.Msg}).Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Parse reads a file. Errors are *Error.
func Parse(data []byte) (*File, error) {
	doc, err := yamltree.Parse(data)
	if err == nil {
		p := parser{file: &File{}, lines: strings.Split(string(data), "\n")}
		if err = p.document(doc); err == nil {
			return p.file, nil
		}
	}
	var e *yamltree.Error
	if errors.As(err, &e) {
		return nil, &Error{Line: e.Line, Column: e.Column, Msg: e.Msg}
	}
	return nil, err
}

type parser struct {
	file   *File
	lines  []string
	style  string // of selectors: a file has one
	anyPip bool
}

func (p *parser) document(doc *yamltree.Node) error {
	if err := doc.WantMap("an environment file"); err != nil {
		return err
	}
	for _, f := range doc.Fields {
		var err error
		switch f.Key {
		case "name":
			err = p.text(f.Value, "name", &p.file.Name)
			if err == nil && strings.ContainsAny(p.file.Name, "/: #") {
				err = f.Value.Errorf("the name %q must not contain any of / : # and space", p.file.Name)
			}
		case "prefix":
			err = p.text(f.Value, "prefix", &p.file.Prefix)
		case "category":
			err = p.text(f.Value, "category", &p.file.Category)
		case "channels":
			err = p.channels(f.Value)
		case "platforms":
			err = p.platforms(f.Value)
		case "dependencies":
			err = p.dependencies(f.Value)
		case "variables":
			err = p.variables(f.Value)
		default:
			p.file.Warnings = append(p.file.Warnings, Warning{f.Line, f.Column, fmt.Sprintf("unknown key %q", f.Key)})
		}
		if err != nil {
			return err
		}
	}
	if len(p.file.Pip) > 0 && !slices.ContainsFunc(p.file.Dependencies, func(d Dependency) bool {
		name, ok := d.Spec.ExactName()
		return ok && (name == "pip" || name == "uv")
	}) {
		p.file.Warnings = append(p.file.Warnings, Warning{Msg: "pip is not among the dependencies, but is needed for those under pip:"})
	}
	return nil
}

func (p *parser) text(n *yamltree.Node, what string, to *string) error {
	if n.IsNull() {
		return nil
	}
	var err error
	*to, err = n.Scalar(what)
	return err
}

func (p *parser) channels(n *yamltree.Node) error {
	list, err := n.Strings("channels")
	if err != nil {
		return err
	}
	for i, c := range list {
		switch {
		case c == "nodefaults":
			p.file.NoDefaults = true
		case strings.TrimSpace(c) == "":
			return n.Items[i].Errorf("a channel is empty")
		case !slices.Contains(p.file.Channels, c):
			p.file.Channels = append(p.file.Channels, c)
		}
	}
	return nil
}

func (p *parser) platforms(n *yamltree.Node) error {
	list, err := n.Strings("platforms")
	if err != nil {
		return err
	}
	for i, platform := range list {
		if err := dist.CheckSubdir(platform); err != nil || platform == dist.Noarch {
			return n.Items[i].Errorf("%q is no platform such as linux-64", platform)
		}
	}
	p.file.Platforms = list
	return nil
}

func (p *parser) variables(n *yamltree.Node) error {
	if n.IsNull() {
		return nil
	}
	if err := n.WantMap("variables"); err != nil {
		return err
	}
	for _, f := range n.Fields {
		value, err := f.Value.Scalar("variable " + f.Key)
		if err != nil {
			return err
		}
		if f.Key == "" || strings.ContainsAny(f.Key, "= \t\n\x00") {
			return &yamltree.Error{Line: f.Line, Column: f.Column, Msg: fmt.Sprintf("%q cannot be the name of a variable", f.Key)}
		}
		p.file.Variables = append(p.file.Variables, Variable{f.Key, value})
	}
	return nil
}

func (p *parser) dependencies(n *yamltree.Node) error {
	if n.IsNull() {
		return nil
	}
	if err := n.WantList("dependencies"); err != nil {
		return err
	}
	for _, item := range n.Items {
		var err error
		switch item.Kind {
		case yamltree.String, yamltree.Other:
			err = p.dependency(item, item.Text, p.comment(item), "comment")
		case yamltree.Map:
			err = p.section(item)
		default:
			err = item.Errorf("a dependency must be a match spec such as 'numpy >=1.26'")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// section reads what is not a plain dependency: those for pip, or one behind sel(…).
func (p *parser) section(item *yamltree.Node) error {
	for _, f := range item.Fields {
		if f.Key == "pip" {
			if p.anyPip {
				return &yamltree.Error{Line: f.Line, Column: f.Column, Msg: "there is a second section pip"}
			}
			list, err := f.Value.Strings("pip")
			if err != nil {
				return err
			}
			p.anyPip, p.file.Pip = true, list
			continue
		}
		selector, ok := strings.CutPrefix(f.Key, "sel(")
		selector, closed := strings.CutSuffix(selector, ")")
		if !ok || !closed {
			return &yamltree.Error{Line: f.Line, Column: f.Column, Msg: fmt.Sprintf("unknown section %q: only pip and sel(…) can stand here", f.Key)}
		}
		text, err := f.Value.Scalar("a dependency")
		if err == nil {
			err = p.dependency(f.Value, text, selector, "sel()")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// comment returns the selector in the comment behind an item: # [linux and x86_64].
func (p *parser) comment(item *yamltree.Node) string {
	if item.Line < 1 || item.Line > len(p.lines) {
		return ""
	}
	_, comment, ok := strings.Cut(p.lines[item.Line-1], " #")
	comment = strings.TrimSpace(comment)
	if !ok || !strings.HasPrefix(comment, "[") {
		return ""
	}
	selector, _, ok := strings.Cut(comment[1:], "]")
	if !ok {
		return ""
	}
	return strings.TrimSpace(selector)
}

func (p *parser) dependency(at *yamltree.Node, text, selector, style string) error {
	d := Dependency{Selector: selector, Line: at.Line, Column: at.Column}
	var err error
	if d.Spec, err = matchspec.Parse(text, matchspec.Options{}); err != nil {
		return &Error{Line: at.Line, Column: at.Column, Msg: err.Error(), Err: err}
	}
	if selector != "" {
		if p.style != "" && p.style != style {
			return at.Errorf("selectors are written in two ways, as comments and as sel(…); a file must keep to one")
		}
		p.style = style
		if d.when, err = parseSelector(selector); err != nil {
			return at.Errorf("selector [%s]: %v", selector, err)
		}
	}
	p.file.Dependencies = append(p.file.Dependencies, d)
	return nil
}

// Specs are the dependencies that count on a platform.
func (f *File) Specs(platform string) []matchspec.Spec {
	facts := factsOf(platform)
	var out []matchspec.Spec
	for _, d := range f.Dependencies {
		if d.when == nil || d.when(facts) {
			out = append(out, d.Spec)
		}
	}
	return out
}
