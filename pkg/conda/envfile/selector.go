package envfile

import (
	"errors"
	"fmt"
	"strings"
)

// expression says whether a selector holds on a machine with these facts.
type expression func(facts map[string]bool) bool

// words are what selectors may name.
var words = map[string]bool{
	"linux": true, "osx": true, "win": true, "unix": true, "emscripten": true, "wasi": true, "freebsd": true, "zos": true,
	"x86": true, "x86_64": true, "aarch64": true, "arm64": true, "ppc64le": true, "s390x": true, "armv6l": true, "armv7l": true, "riscv64": true,
	"linux32": true, "linux64": true, "win32": true, "win64": true, "osx64": true,
}

// factsOf are the words that are true of a platform.
func factsOf(platform string) map[string]bool {
	system, arch, _ := strings.Cut(platform, "-")
	f := map[string]bool{system: true, arch: true}
	if system == "linux" || system == "osx" || system == "freebsd" || system == "emscripten" {
		f["unix"] = true
	}
	switch arch {
	case "64":
		f["x86"], f["x86_64"], f[system+"64"] = true, true, true
	case "32":
		f["x86"], f[system+"32"] = true, true
	}
	return f
}

// parseSelector reads words joined by and, or, not and parentheses.
func parseSelector(text string) (expression, error) {
	text = strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text)
	p := selector{words: strings.Fields(text)}
	e, err := p.or(0)
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q is too much", p.words[0])
	}
	return e, err
}

type selector struct{ words []string }

func (p *selector) next(word string) bool {
	if len(p.words) == 0 || p.words[0] != word {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *selector) or(depth int) (expression, error) {
	left, err := p.and(depth)
	for err == nil && p.next("or") {
		var right expression
		a := left
		if right, err = p.and(depth); err == nil {
			left = func(f map[string]bool) bool { return a(f) || right(f) }
		}
	}
	return left, err
}

func (p *selector) and(depth int) (expression, error) {
	left, err := p.not(depth)
	for err == nil && p.next("and") {
		var right expression
		a := left
		if right, err = p.not(depth); err == nil {
			left = func(f map[string]bool) bool { return a(f) && right(f) }
		}
	}
	return left, err
}

func (p *selector) not(depth int) (expression, error) {
	if depth > 50 {
		return nil, errors.New("nested too deeply")
	}
	switch {
	case p.next("not"):
		e, err := p.not(depth + 1)
		return func(f map[string]bool) bool { return !e(f) }, err
	case p.next("("):
		e, err := p.or(depth + 1)
		if err == nil && !p.next(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return e, err
	case len(p.words) == 0:
		return nil, errors.New("something is missing at its end")
	}
	word := p.words[0]
	p.words = p.words[1:]
	if !words[word] {
		return nil, fmt.Errorf("%q is no platform word such as linux, unix or x86_64", word)
	}
	return func(f map[string]bool) bool { return f[word] }, nil
}
