package yamltree

import (
	"strconv"
	"strings"
)

// Append writes a document as libyaml does, and with it all tools of the field: block style, lists not indented below
// their key, single quotes where a plain word would be read as something else, and no line breaks within scalars. Equal
// trees give equal bytes.
func (n *Node) Append(dst []byte) []byte {
	switch {
	case n.Kind == Map && len(n.Fields) > 0:
		return n.fields(dst, 0, false)
	case n.Kind == List && len(n.Items) > 0:
		return n.items(dst, 0, false)
	}
	return append(n.scalar(dst, 0), '\n')
}

func indent(dst []byte, depth int) []byte {
	for range depth {
		dst = append(dst, "  "...)
	}
	return dst
}

// fields writes a map; the first key follows a dash if inline.
func (n *Node) fields(dst []byte, depth int, inline bool) []byte {
	for i, f := range n.Fields {
		if i > 0 || !inline {
			dst = indent(dst, depth)
		}
		dst = append(key(dst, f.Key), ':')
		v := f.Value
		switch {
		case v.IsNull():
			dst = append(dst, " null\n"...)
		case v.Kind == Map && len(v.Fields) > 0:
			dst = v.fields(append(dst, '\n'), depth+1, false)
		case v.Kind == List && len(v.Items) > 0:
			dst = v.items(append(dst, '\n'), depth, false)
		default:
			dst = append(v.scalar(append(dst, ' '), depth), '\n')
		}
	}
	return dst
}

// items writes a list; the first item follows a dash if inline.
func (n *Node) items(dst []byte, depth int, inline bool) []byte {
	for i, v := range n.Items {
		if i > 0 || !inline {
			dst = indent(dst, depth)
		}
		dst = append(dst, "- "...)
		switch {
		case v.IsNull():
			dst = append(dst, "null\n"...)
		case v.Kind == Map && len(v.Fields) > 0:
			dst = v.fields(dst, depth+1, true)
		case v.Kind == List && len(v.Items) > 0:
			dst = v.items(dst, depth+1, true)
		default:
			dst = append(v.scalar(dst, depth), '\n')
		}
	}
	return dst
}

// scalar writes what fits on a line.
func (n *Node) scalar(dst []byte, depth int) []byte {
	switch n.Kind {
	case String:
		return scalar(dst, n.Text, depth)
	case Other:
		return append(dst, n.Text...)
	case List:
		return append(dst, "[]"...)
	case Map:
		return append(dst, "{}"...)
	}
	return append(dst, "null"...)
}

// key writes a key, which stands on one line.
func key(dst []byte, s string) []byte {
	if strings.Contains(s, "\n") {
		return doubleQuoted(dst, s)
	}
	return scalar(dst, s, 0)
}

func scalar(dst []byte, s string, depth int) []byte {
	switch {
	case strings.Contains(s, "\n") && literal(s):
		return block(dst, s, depth)
	case !printable(s):
		return doubleQuoted(dst, s)
	case !plain(s):
		return append(append(append(dst, '\''), strings.ReplaceAll(s, "'", "''")...), '\'')
	}
	return append(dst, s...)
}

// literal reports whether a text of several lines can stand as it is.
func literal(s string) bool {
	return printable(strings.ReplaceAll(s, "\n", "")) && s[0] != ' ' && s[0] != '\n' && !strings.Contains(s, " \n") && !strings.HasSuffix(s, " ")
}

// block writes a text of several lines: |- without a line break at its end, | with one, |+ with more.
func block(dst []byte, s string, depth int) []byte {
	body := strings.TrimRight(s, "\n")
	switch len(s) - len(body) {
	case 0:
		dst = append(dst, "|-"...)
	case 1:
		dst = append(dst, '|')
	default:
		dst = append(dst, "|+"...)
	}
	for _, line := range strings.Split(strings.TrimSuffix(s, "\n"), "\n") {
		dst = append(dst, '\n')
		if line != "" {
			dst = append(indent(dst, depth+1), line...)
		}
	}
	return dst
}

func printable(s string) bool {
	for _, r := range s {
		switch {
		case r == '\uFEFF', r < 0x20, r >= 0x7f && r < 0xa0, r == '\u2028', r == '\u2029':
			return false
		}
	}
	return true
}

// doubleQuoted escapes as JSON does, which YAML reads.
func doubleQuoted(dst []byte, s string) []byte { return strconv.AppendQuote(dst, s) }

// plain reports whether a string needs no quotes: it begins with nothing that YAML gives a meaning to, holds no ": " and no
// " #", and is not spelled like a number, a truth value, a time or nothing.
func plain(s string) bool {
	if s == "" || strings.ContainsAny(s[:1], "-?:,[]{}#&*!|>'\"%@`") && !plainStart(s) || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	if strings.Contains(s, ": ") || strings.HasSuffix(s, ":") || strings.Contains(s, " #") || strings.Contains(s, "<<") {
		return false
	}
	if strings.HasPrefix(s, "---") || strings.HasPrefix(s, "...") {
		return false
	}
	return !resolves(s)
}

// plainStart reports whether a dash, question mark or colon at the start is just a character.
func plainStart(s string) bool {
	return strings.ContainsAny(s[:1], "-?:") && len(s) > 1 && s[1] != ' '
}

// resolves reports whether a plain word would be read as something else than a string.
func resolves(s string) bool {
	switch s {
	case "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE",
		".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", ".nan", ".NaN", ".NAN", "<<", "=":
		return true
	case "y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF": // to readers of YAML 1.1
		return true
	}
	rest := strings.TrimLeft(s, "+-")
	if rest == "" || len(s)-len(rest) > 1 {
		return false
	}
	if hex, ok := strings.CutPrefix(rest, "0x"); ok {
		return digits(hex, "0123456789abcdefABCDEF")
	}
	if oct, ok := strings.CutPrefix(rest, "0o"); ok {
		return digits(oct, "01234567")
	}
	if bin, ok := strings.CutPrefix(rest, "0b"); ok {
		return digits(bin, "01")
	}
	if digits(rest, "0123456789_") && rest[0] != '_' {
		return true // leading zeros and underscores: readers disagree what they mean
	}
	if !strings.ContainsAny(rest[:1], "0123456789.") || strings.ContainsAny(rest, "xXpPnNiI_") {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil || strings.Contains(err.Error(), "range")
}

func digits(s, set string) bool { return s != "" && strings.Trim(s, set) == "" }
