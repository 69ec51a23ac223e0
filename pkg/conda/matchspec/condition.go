package matchspec

import "strings"

// Operator is how the terms of a condition combine.
type Operator uint8

const (
	// Holds is a single spec.
	Holds Operator = iota
	// And needs all terms.
	And
	// Or needs one of the terms.
	Or
)

// Condition is the value of when (CEP 43): it holds if the solution has packages, real or virtual, that its specs
// select.
type Condition struct {
	Op    Operator
	Spec  Spec         // of Holds
	Terms []*Condition // of And and Or, two or more
}

// Eval evaluates the condition; has says whether a spec is met.
func (c *Condition) Eval(has func(*Spec) bool) bool {
	if c == nil {
		return true
	}
	switch c.Op {
	case And:
		for _, t := range c.Terms {
			if !t.Eval(has) {
				return false
			}
		}
		return true
	case Or:
		for _, t := range c.Terms {
			if t.Eval(has) {
				return true
			}
		}
		return false
	}
	return has(&c.Spec)
}

// String prints the condition with the parentheses it needs.
func (c *Condition) String() string {
	if c == nil {
		return ""
	}
	if c.Op == Holds {
		return c.Spec.Canonical()
	}
	word := " and "
	if c.Op == Or {
		word = " or "
	}
	terms := make([]string, len(c.Terms))
	for i, t := range c.Terms {
		if terms[i] = t.String(); c.Op == And && t.Op == Or {
			terms[i] = "(" + terms[i] + ")"
		}
	}
	return strings.Join(terms, word)
}

// maxConditionDepth bounds nested parentheses.
const maxConditionDepth = 32

func (p *parser) when(spec *Spec, s part) error {
	if p.inner {
		return p.fail(s.at, "a condition inside a condition")
	}
	spec.whenText = s.s
	if strings.TrimSpace(s.s) == "" {
		if p.opts.Strict || s.s == "" {
			return p.fail(s.at, "the condition is empty")
		}
		return nil // conda keeps a blank condition without a word; it asks for nothing
	}
	tokens, err := p.tokens(s)
	if err != nil {
		return err
	}
	c := conditionParser{parser: p, tokens: tokens, end: s.at + len(s.s)}
	cond, err := c.or(0)
	if err != nil {
		return err
	}
	if len(c.tokens) > 0 {
		return p.fail(c.tokens[0].at, "unexpected %q in the condition", c.tokens[0].s)
	}
	spec.When = cond
	return nil
}

// tokens splits a condition at white space and parentheses that stand outside of quotes and brackets.
func (p *parser) tokens(s part) ([]part, error) {
	var out []part
	start, depth, quote := -1, 0, byte(0)
	flush := func(i int) {
		if start >= 0 {
			out = append(out, part{s.s[start:i], s.at + start})
			start = -1
		}
	}
	for i := 0; i < len(s.s); i++ {
		c := s.s[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
			continue
		case c == '[':
			depth++
		case c == ']':
			depth--
		case depth > 0 && (c == '\'' || c == '"'):
			quote = c
		case depth == 0 && (c == ' ' || c == '\t'):
			flush(i)
			continue
		case depth == 0 && (c == '(' || c == ')'):
			flush(i)
			out = append(out, part{s.s[i : i+1], s.at + i})
			continue
		}
		if start < 0 {
			start = i
		}
	}
	if depth != 0 || quote != 0 {
		return nil, p.fail(s.at, "brackets or quotation marks in the condition are not closed")
	}
	flush(len(s.s))
	return out, nil
}

type conditionParser struct {
	*parser
	tokens []part
	end    int
}

func (c *conditionParser) take(word string) bool {
	if len(c.tokens) > 0 && c.tokens[0].s == word {
		c.tokens = c.tokens[1:]
		return true
	}
	return false
}

func (c *conditionParser) or(depth int) (*Condition, error) {
	return c.chain("or", Or, func() (*Condition, error) { return c.and(depth) })
}

func (c *conditionParser) and(depth int) (*Condition, error) {
	return c.chain("and", And, func() (*Condition, error) { return c.term(depth) })
}

func (c *conditionParser) chain(word string, op Operator, next func() (*Condition, error)) (*Condition, error) {
	first, err := next()
	if err != nil {
		return nil, err
	}
	terms := []*Condition{first}
	for c.take(word) {
		t, err := next()
		if err != nil {
			return nil, err
		}
		terms = append(terms, t)
	}
	if len(terms) == 1 {
		return first, nil
	}
	return &Condition{Op: op, Terms: terms}, nil
}

func (c *conditionParser) term(depth int) (*Condition, error) {
	if depth > maxConditionDepth {
		return nil, c.fail(c.end, "the condition has more than %d nested parentheses", maxConditionDepth)
	}
	if c.take("(") {
		cond, err := c.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if !c.take(")") {
			return nil, c.fail(c.end, "a closing parenthesis is missing in the condition")
		}
		return cond, nil
	}
	var words []part
	for len(c.tokens) > 0 {
		switch c.tokens[0].s {
		case "and", "or", "(", ")":
		default:
			words = append(words, c.tokens[0])
			c.tokens = c.tokens[1:]
			continue
		}
		break
	}
	if len(words) == 0 {
		return nil, c.fail(c.end, "a spec is missing in the condition")
	}
	first, last := words[0], words[len(words)-1]
	if len(words) > 1 {
		c.warn(first.at, "a spec in a condition should hold no spaces")
	}
	// The same text, so that offsets stay those of the whole spec.
	in := parser{text: c.text[:last.at+len(last.s)], opts: c.opts, inner: true}
	spec, err := in.innerSpec(first.at)
	if err != nil {
		if pe, ok := err.(*ParseError); ok {
			pe.Text = c.text
		}
		return nil, err
	}
	if _, ok := spec.ExactName(); !ok {
		return nil, c.fail(first.at, "a condition needs the exact name of a package")
	}
	return &Condition{Op: Holds, Spec: spec}, nil
}

// innerSpec parses p.text[from:], counting offsets from the start of p.text.
func (p *parser) innerSpec(from int) (Spec, error) {
	sub := parser{text: p.text[from:], opts: p.opts, inner: true}
	if warn := p.opts.Warn; warn != nil {
		sub.opts.Warn = func(pos int, msg string) { warn(pos+from, msg) }
	}
	spec, err := sub.spec()
	if pe, ok := err.(*ParseError); ok {
		pe.Pos += from
	}
	return spec, err
}
