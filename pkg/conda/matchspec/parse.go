package matchspec

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// Options say how to read.
type Options struct {
	// Strict refuses what only makes sense as a mistake; see the package comment.
	Strict bool
	// Warn, if set, is told of readings that may surprise. pos is a byte offset into the text.
	Warn func(pos int, msg string)
	// ChannelNames replaces channel names, as conda does with the members of a multichannel.
	ChannelNames map[string]string
}

// maxLength bounds what Parse looks at. The longest spec in real repodata has a few hundred bytes.
const maxLength = 16 << 10

// Parse reads a match spec in any of its forms. The error is a *[ParseError].
func Parse(s string, opts Options) (Spec, error) {
	p := parser{text: s, opts: opts}
	if i := strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError }); i >= 0 && !utf8.ValidString(s) {
		return Spec{}, p.fail(i, "it is not UTF-8")
	}
	spec, err := p.spec()
	if err != nil {
		return Spec{}, err
	}
	return spec, nil
}

// MustParse is a lenient Parse for literals in code; it panics on an error.
func MustParse(s string) Spec {
	spec, err := Parse(s, Options{})
	if err != nil {
		panic(err)
	}
	return spec
}

// parser keeps the whole text, so that every part knows its offset.
type parser struct {
	text  string
	opts  Options
	inner bool // within a condition, where another condition is not allowed
}

// part is a piece of the text. When brackets stood in the middle, what follows them has an offset that is off by
// their length; an error message can live with that.
type part struct {
	s  string
	at int
}

func (p part) trim() part {
	t := strings.TrimLeft(p.s, " \t\r\n")
	return part{strings.TrimRight(t, " \t\r\n"), p.at + len(p.s) - len(t)}
}

func (p part) from(i int) part { return part{p.s[i:], p.at + i} }

func (p *parser) fail(pos int, format string, args ...any) error {
	err := &ParseError{Text: p.text, Pos: pos, Reason: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err.Err = cause
		}
	}
	return err
}

func (p *parser) warn(pos int, format string, args ...any) {
	if p.opts.Warn != nil {
		p.opts.Warn(pos, fmt.Sprintf(format, args...))
	}
}

func (p *parser) spec() (Spec, error) {
	spec := Spec{source: strings.TrimSpace(p.text)}
	if len(p.text) > maxLength {
		return spec, p.fail(maxLength, "it is longer than %d bytes", maxLength)
	}
	if i := strings.IndexAny(p.text, "\x00\n\r"); i >= 0 && strings.TrimSpace(p.text[i:]) != "" {
		return spec, p.fail(i, "it contains a control character")
	}
	rest, err := p.cut(part{s: p.text}.trim())
	if err != nil {
		return spec, err
	}
	if rest.s == "" {
		return spec, p.fail(rest.at, "it is empty")
	}
	if _, _, ok := dist.SplitExtension(rest.s); ok && !strings.ContainsAny(rest.s, "[]= ") {
		return p.file(spec, rest)
	}
	rest, pairs, err := p.brackets(rest)
	if err != nil {
		return spec, err
	}
	rest = p.legacyParens(rest)
	if rest, err = p.location(&spec, rest); err != nil {
		return spec, err
	}
	if err := p.nameVersionBuild(&spec, rest); err != nil {
		return spec, err
	}
	if err := p.apply(&spec, pairs); err != nil {
		return spec, err
	}
	return spec, nil
}

// cut drops a comment and, in lenient mode, the old conditional suffix that conda never evaluated.
func (p *parser) cut(s part) (part, error) {
	depth := 0
	for i := 0; i < len(s.s); i++ {
		switch s.s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case '#':
			if depth <= 0 {
				s.s = s.s[:i]
			}
		}
		if depth <= 0 && i < len(s.s) && strings.HasPrefix(s.s[i:], " if ") {
			if p.opts.Strict {
				return s, p.fail(s.at+i, "a condition is written [when=…]")
			}
			s.s = s.s[:i]
		}
	}
	return s.trim(), nil
}

// file reads a URL or path of one package file.
func (p *parser) file(spec Spec, s part) (Spec, error) {
	url := s.s
	if strings.HasPrefix(url, "/") {
		url = "file://" + url
	}
	spec.URL = url
	dir, filename := "", url
	if i := strings.LastIndexByte(url, '/'); i >= 0 {
		dir, filename = url[:i], url[i+1:]
	}
	channel, subdir := dir, ""
	if i := strings.LastIndexByte(dir, '/'); i >= 0 {
		channel, subdir = dir[:i], dir[i+1:]
	}
	d, err := dist.ParseFilename(unescape(filename))
	if err != nil && p.opts.Strict {
		return spec, p.fail(s.at+len(s.s)-len(filename), "%v", err)
	}
	if err != nil || !dist.KnownSubdir(subdir) {
		// Without a channel layout the file says nothing that a record could be compared with, except where it lies.
		spec.Name = Pattern{source: "*"}
		if err == nil && p.opts.Strict {
			spec.Name = Literal(d.Name)
		}
		return spec, nil
	}
	spec.Channel, spec.Subdir = Literal(p.channelName(channel)), Literal(subdir)
	spec.Name, spec.Build = Literal(d.Name), Literal(d.Build)
	spec.FileName = Literal(d.Filename())
	if spec.Version, err = version.ParseSpec("==" + d.Version); err != nil {
		return spec, p.fail(s.at, "%v", err)
	}
	return spec, nil
}

// unescape undoes the two escapes that clients put into file names.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	return strings.NewReplacer("%21", "!", "%2B", "+", "%2b", "+").Replace(s)
}

func (p *parser) channelName(s string) string {
	if name, ok := p.opts.ChannelNames[s]; ok {
		return name
	}
	return s
}

// legacyParens drops "(optional)", "(target=blarg,optional)" and the like, which old files carry.
func (p *parser) legacyParens(s part) part {
	if !strings.HasSuffix(s.s, ")") {
		return s
	}
	open := strings.LastIndexByte(s.s, '(')
	if open < 0 {
		return s
	}
	inside := s.s[open+1 : len(s.s)-1]
	if strings.Contains(inside, "optional") || strings.HasPrefix(strings.TrimSpace(inside), "target=") {
		p.warn(s.at+open, "%q has no meaning any more", s.s[open:])
		s.s = s.s[:open]
	}
	return s.trim()
}

// location takes channel, subdir and namespace off the front.
func (p *parser) location(spec *Spec, s part) (part, error) {
	if name, ok := strings.CutSuffix(s.s, "@"); ok && name != "" && !strings.ContainsAny(name, " =<>!~@") {
		spec.TrackFeatures, spec.Name = Literal(name), Pattern{source: "*"}
		return part{at: s.at + len(s.s)}, nil
	}
	if name, ok := strings.CutPrefix(s.s, "@"); ok && name != "" && !strings.ContainsAny(name, " =<>!~@") {
		spec.TrackFeatures, spec.Name = Literal(name), Pattern{source: "*"}
		return part{at: s.at + len(s.s)}, nil
	}
	last := strings.LastIndexByte(s.s, ':')
	if last < 0 {
		return s, nil
	}
	rest := s.from(last + 1).trim()
	front := s.s[:last]
	first := strings.LastIndexByte(front, ':')
	spec.Namespace = strings.TrimSpace(front[first+1:])
	if first < 0 {
		return rest, nil
	}
	channel := strings.TrimSpace(front[:first])
	if channel == "" {
		return rest, p.fail(s.at, "the channel before '::' is empty")
	}
	var err error
	if i := strings.LastIndexByte(channel, '/'); i > 0 && dist.KnownSubdir(channel[i+1:]) {
		spec.Subdir = Literal(channel[i+1:])
		channel = channel[:i]
	}
	if channel == "*" {
		return rest, nil
	}
	if spec.Channel, err = ParsePattern(p.channelName(strings.TrimRight(channel, "/"))); err != nil {
		return rest, p.fail(s.at, "channel: %v", err)
	}
	return rest, nil
}

// nameVersionBuild reads what conda calls the positional part.
func (p *parser) nameVersionBuild(spec *Spec, s part) error {
	if s.s == "" && !spec.TrackFeatures.IsZero() {
		return nil
	}
	end := strings.IndexAny(s.s, " \t=<>!~")
	if strings.HasPrefix(s.s, "^") {
		if i := strings.IndexByte(s.s, '$'); i >= 0 {
			end = i + 1
		}
	}
	if end < 0 || end > len(s.s) {
		end = len(s.s)
	}
	name, rest := s.s[:end], s.from(end).trim()
	if err := p.name(spec, part{name, s.at}); err != nil {
		return err
	}
	if rest.s == "" {
		return nil
	}
	if rest.s == "=" && !p.opts.Strict && end+1 == len(s.s) {
		return nil // conda reads "foo=" as "foo"
	}
	return p.versionBuild(spec, rest)
}

func (p *parser) name(spec *Spec, s part) error {
	if s.s == "" {
		return p.fail(s.at, "it has no package name")
	}
	if !strings.HasPrefix(s.s, "^") {
		for i := 0; i < len(s.s); i++ {
			c := s.s[i]
			ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.-*", c) >= 0
			if !ok {
				return p.fail(s.at+i, "%q cannot stand in a package name", rune(c))
			}
		}
	}
	lower := lowerASCII(s.s)
	if _, _, ok := dist.SplitExtension(lower); ok {
		return p.fail(s.at, "%q is the name of a file and not of a package", s.s)
	}
	var err error
	if spec.Name, err = ParsePattern(lower); err != nil {
		return p.fail(s.at, "name: %v", err)
	}
	return nil
}

func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if r >= 'A' && r <= 'Z' {
					return r + 'a' - 'A'
				}
				return r
			}, s)
		}
	}
	return s
}
