package repodata

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// The scanner walks records whose syntax a real JSON parser has already approved, which lets it skip strings with
// IndexByte and containers by counting brackets. On broken text it returns errBroken or a wrong span, but never panics.

var errBroken = errors.New("broken JSON")

// member is one key of an object and where it stands in the object's text.
type member struct {
	key              []byte // unquoted
	keyStart         int    // of the opening quote
	valStart, valEnd int
}

// object iterates over the members of one JSON object without descending into them.
type object struct {
	buf []byte
	pos int
	err error
	member
	// plain is set when the text has no backslash at all, as nearly every record: a string then ends at its next quote.
	plain bool
	begun bool
}

// scanObject starts at the object that is the whole of raw, white space aside.
func scanObject(raw []byte) object {
	return object{buf: raw, plain: bytes.IndexByte(raw, '\\') < 0}
}

// next advances to the next member. After it returned false, err is nil if the object was read to its end.
func (o *object) next() bool {
	if o.err != nil {
		return false
	}
	i := skipSpace(o.buf, o.pos)
	if !o.begun {
		o.begun = true
		if i >= len(o.buf) || o.buf[i] != '{' {
			return o.fail()
		}
		i = skipSpace(o.buf, i+1)
		if i < len(o.buf) && o.buf[i] == '}' {
			o.pos = i + 1
			return false
		}
	} else {
		if i >= len(o.buf) {
			return o.fail()
		}
		if o.buf[i] == '}' {
			o.pos = i + 1
			return false
		}
		if o.buf[i] != ',' {
			return o.fail()
		}
		i = skipSpace(o.buf, i+1)
	}
	end := skipString(o.buf, i, o.plain)
	if end < 0 {
		return o.fail()
	}
	o.keyStart = i
	o.key = o.buf[i+1 : end-1]
	if !o.plain && bytes.IndexByte(o.key, '\\') >= 0 {
		key, err := jsontext.AppendUnquote(nil, o.buf[i:end])
		if err != nil {
			o.err = err
			return false
		}
		o.key = key
	}
	i = skipSpace(o.buf, end)
	if i >= len(o.buf) || o.buf[i] != ':' {
		return o.fail()
	}
	o.valStart = skipSpace(o.buf, i+1)
	o.valEnd = skipValue(o.buf, o.valStart, o.plain)
	if o.valEnd < 0 {
		return o.fail()
	}
	o.pos = o.valEnd
	return true
}

func (o *object) fail() bool {
	o.err = errBroken
	return false
}

func (o *object) value() []byte { return o.buf[o.valStart:o.valEnd] }

// array iterates over the elements of one JSON array without descending into them.
type array struct {
	buf   []byte
	pos   int
	err   error
	elem  []byte
	plain bool
	begun bool
}

func scanArray(raw []byte) array {
	return array{buf: raw, plain: bytes.IndexByte(raw, '\\') < 0}
}

func (a *array) next() bool {
	if a.err != nil {
		return false
	}
	i := skipSpace(a.buf, a.pos)
	if i >= len(a.buf) {
		a.err = errBroken
		return false
	}
	switch {
	case !a.begun && a.buf[i] == '[':
		a.begun = true
		i = skipSpace(a.buf, i+1)
		if i < len(a.buf) && a.buf[i] == ']' {
			return false
		}
	case a.begun && a.buf[i] == ']':
		return false
	case a.begun && a.buf[i] == ',':
		i = skipSpace(a.buf, i+1)
	default:
		a.err = errBroken
		return false
	}
	end := skipValue(a.buf, i, a.plain)
	if end < 0 {
		a.err = errBroken
		return false
	}
	a.elem = a.buf[i:end]
	a.pos = end
	return true
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the closing quote of the string at i, or -1.
func skipString(b []byte, i int, plain bool) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	i++
	if plain {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		return i + n + 1
	}
	for i < len(b) {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i += 2
		default:
			i++
		}
	}
	return -1
}

// skipValue returns the index after the value at i, or -1. It does not recurse, so nesting costs it nothing.
func skipValue(b []byte, i int, plain bool) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i, plain)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i, plain); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// unquote gives the text of a JSON string; ok is false if v is none.
func unquote(v []byte) (s string, ok bool) {
	if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
		return "", false
	}
	if inner := v[1 : len(v)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err == nil
}
