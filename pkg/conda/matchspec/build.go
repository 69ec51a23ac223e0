package matchspec

import (
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// versionBuild reads what follows the name: a version spec and perhaps a build.
func (p *parser) versionBuild(spec *Spec, s part) error {
	v, build, byEqual := splitBuild(s.s)
	text := stripSpaces(v)
	if text == "=" || text == "==" {
		return p.fail(s.at, "there is no version after %q", text)
	}
	if strings.HasPrefix(text, "=") {
		text = p.normalise(s, text, build != "", byEqual)
	}
	if err := p.version(spec, part{text, s.at}); err != nil {
		return err
	}
	if build == "" || build == "*" {
		return nil
	}
	var err error
	if spec.Build, err = ParsePattern(build); err != nil {
		return p.fail(s.at+len(s.s)-len(build), "build: %v", err)
	}
	return nil
}

// splitBuild finds the build: it stands behind a space or '=' which does not belong to an operator, and holds no
// character of one. byEqual tells the two separators apart.
func splitBuild(s string) (v, build string, byEqual bool) {
	const operators, forbidden = "=!|,<>~", "-=,|<>~"
	last := byte(0) // last character before i that is no space
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == ' ' || c == '\t' || c == '=') && last != 0 && strings.IndexByte(operators, last) < 0 {
			rest := strings.TrimSpace(s[i+1:])
			if rest != "" && !strings.ContainsAny(rest, forbidden) {
				return s[:i], rest, c == '='
			}
		}
		if c != ' ' && c != '\t' {
			last = c
		}
	}
	return s, "", false
}

// normalise reads a version that begins with '='. With a build, "=1.8" has always meant equality for the tools, though
// CEP 29 says it is the family; see the package comment.
func (p *parser) normalise(at part, v string, hasBuild, byEqual bool) string {
	if strings.HasPrefix(v, "==") && !hasBuild {
		return v[2:]
	}
	rest := v[1:]
	if strings.ContainsAny(rest, "=,|") {
		return v
	}
	if !hasBuild {
		if strings.HasSuffix(rest, "*") {
			return rest
		}
		return "=" + rest
	}
	if strings.HasSuffix(rest, "*") || byEqual {
		return rest
	}
	if p.opts.Strict {
		p.warn(at.at, "%q with a build means any version that starts with %s; tools that are less strict read exactly %s", v, rest, rest)
		return v
	}
	return rest
}

func (p *parser) version(spec *Spec, s part) error {
	if strings.Trim(s.s, "*") == "" && s.s != "" {
		return nil // any version
	}
	if p.opts.Strict {
		for clause := range strings.FieldsFuncSeq(s.s, func(r rune) bool { return strings.ContainsRune(",|()", r) }) {
			if strings.HasSuffix(clause, ".*") && (clause[0] == '<' || clause[0] == '>' || strings.HasPrefix(clause, "==")) {
				p.warn(s.at, "the '.*' in %q has no effect", clause)
			}
			if strings.HasPrefix(clause, "~=") {
				p.warn(s.at, "the operator '~=' is deprecated by CEP 29")
			}
		}
	}
	v, err := version.ParseSpec(s.s)
	if err != nil {
		return p.fail(s.at, "%v", err)
	}
	spec.Version = v
	return nil
}

func stripSpaces(s string) string {
	if !strings.ContainsAny(s, " \t") {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, s)
}
