package quetz

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// form reads the fields of a JSON object and collects what is wrong with them, as pydantic words it.
type form struct {
	raw      json.RawMessage
	fields   map[string]json.RawMessage
	problems invalidFields
	at       []any
	// hopeless is true if there is no object at all: then that is the only problem.
	hopeless bool
}

const (
	// maxProblems bounds what is said to be wrong with one body: a list of a few bytes an item would make an answer of
	// hundreds for each, and of strangers too. A person mends fewer before trying again.
	maxProblems = 50
	// maxInput bounds what an answer repeats of the body for one problem, in bytes.
	maxInput = 4 << 10
	// maxItems bounds the lists of package names, as the channels themselves do.
	maxItems = 10_000
)

const noObject = "Input should be a valid dictionary or object to extract fields from"

// err returns what was wrong, or nil.
func (f *form) err() error {
	if len(f.problems) > 0 {
		return f.problems
	}
	return nil
}

func (f *form) has(name string) bool { _, ok := f.fields[name]; return ok }

// isNull reports whether a field is there and null.
func (f *form) isNull(name string) bool { return string(f.fields[name]) == "null" }

func (f *form) fail(name, typ, msg string) { f.failWith(name, typ, msg, nil) }

func (f *form) failWith(name, typ, msg string, ctx map[string]any) {
	input := f.fields[name]
	if input == nil {
		input = f.raw
	}
	f.failAt(invalidField{Type: typ, Loc: append(append([]any{}, f.at...), name), Msg: msg, Input: input, Ctx: ctx})
}

func (f *form) failAt(p invalidField) {
	if !f.hopeless && !f.full() {
		f.problems = append(f.problems, p)
	}
}

// full reports whether no more problems are taken, so that there is no use in looking for any.
func (f *form) full() bool { return len(f.problems) >= maxProblems }

// failWhole is a problem of the object, not of one of its fields.
func (f *form) failWhole(msg string) {
	f.failAt(invalidField{Type: "value_error", Loc: f.at, Msg: "Value error, " + msg, Input: f.raw, Ctx: map[string]any{"error": map[string]any{}}})
}

func (f *form) require(name string) bool {
	if f.has(name) {
		return true
	}
	f.fail(name, "missing", "Field required")
	return false
}

// notNull refuses null for a field that is not optional, with what is wrong about it. It returns false for null and absent.
func (f *form) notNull(name, typ, msg string) bool {
	if f.isNull(name) {
		f.fail(name, typ, msg)
		return false
	}
	return f.has(name)
}

const (
	noString = "Input should be a valid string"
	noBool   = "Input should be a valid boolean"
	noInt    = "Input should be a valid integer"
)

// string reads a text; null is the same as absent.
func (f *form) string(name string) (s string, ok bool) {
	if !f.has(name) || f.isNull(name) {
		return "", false
	}
	if json.Unmarshal(f.fields[name], &s) != nil {
		f.fail(name, "string_type", noString)
		return "", false
	}
	return s, true
}

// text is string for a field that may be absent, but not null.
func (f *form) text(name string) (s string, ok bool) {
	if !f.notNull(name, "string_type", noString) {
		return "", false
	}
	return f.string(name)
}

// atMost bounds the letters of a text.
func (f *form) atMost(name, s string, most int) {
	if utf8.RuneCountInString(s) > most {
		f.failWith(name, "string_too_long", fmt.Sprintf("String should have at most %d characters", most), map[string]any{"max_length": most})
	}
}

// httpURL bounds a text to what Quetz takes for a URL.
func (f *form) httpURL(name, s string) {
	rest, ok := strings.CutPrefix(s, "http://")
	if !ok {
		rest, ok = strings.CutPrefix(s, "https://")
	}
	if !ok || rest == "" || rest[0] == '\n' {
		const pattern = "^(http|https)://.+"
		f.failWith(name, "string_pattern_mismatch", "String should match pattern '"+pattern+"'", map[string]any{"pattern": pattern})
	}
}

// oneOf reads a text that is one of some.
func (f *form) oneOf(name string, values []string) (s string, ok bool) {
	if !f.has(name) {
		return "", false
	}
	if json.Unmarshal(f.fields[name], &s) == nil && slices.Contains(values, s) {
		return s, true
	}
	f.failWith(name, "enum", oneOf(values), map[string]any{"expected": expected(values)})
	return "", false
}

// bool reads a boolean as pydantic does: also 0 and 1, and the words of parseBool.
func (f *form) bool(name string, def bool) bool {
	if !f.has(name) {
		return def
	}
	var v any
	_ = json.Unmarshal(f.fields[name], &v) // it was JSON before
	switch v := v.(type) {
	case bool:
		return v
	case string:
		if b, err := parseBool(v); err == nil {
			return b
		}
	case float64:
		if v == 0 || v == 1 {
			return v == 1
		}
	default:
		f.fail(name, "bool_type", noBool)
		return def
	}
	f.fail(name, "bool_parsing", noBool+", unable to interpret input")
	return def
}

// int reads an integer as pydantic does: also as a text, and with a fraction of nought. Null is the same as absent.
func (f *form) int(name string) (n int64, ok bool) {
	if !f.has(name) || f.isNull(name) {
		return 0, false
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(f.fields[name]))
	dec.UseNumber()
	_ = dec.Decode(&v) // it was JSON before
	switch v := v.(type) {
	case bool:
		if v {
			n = 1
		}
		return n, true
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, true
		}
		f.fail(name, "int_parsing", noInt+", unable to parse string as an integer")
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		x, err := v.Float64()
		switch {
		case err == nil && math.Abs(x) < 1<<53 && x == math.Trunc(x):
			return int64(x), true
		case err == nil && math.Abs(x) < 1<<53:
			f.fail(name, "int_from_float", noInt+", got a number with a fractional part")
		default:
			f.fail(name, "int_parsing_size", noInt+" of at most 64 bits")
		}
	default:
		f.fail(name, "int_type", noInt)
	}
	return 0, false
}

// items reads a list of at most so many items, and no further. Null is the same as absent.
func (f *form) items(name string, most int) (list []json.RawMessage, ok bool) {
	if !f.has(name) || f.isNull(name) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(f.fields[name]))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		f.fail(name, "list_type", "Input should be a valid list")
		return nil, false
	}
	for dec.More() {
		if len(list) == most {
			f.failWith(name, "too_long", fmt.Sprintf("List should have at most %d items after validation", most), map[string]any{"max_length": most})
			return nil, false
		}
		var item json.RawMessage
		if dec.Decode(&item) != nil {
			break // it was JSON before
		}
		list = append(list, item)
	}
	return list, true
}

// strings reads a list of texts.
func (f *form) strings(name string) (list []string, ok bool) {
	items, ok := f.items(name, maxItems)
	list = make([]string, len(items))
	for i, item := range items {
		if f.full() {
			break
		}
		if string(item) == "null" || json.Unmarshal(item, &list[i]) != nil {
			f.failAt(invalidField{Type: "string_type", Loc: append(append([]any{}, f.at...), name, i), Msg: noString, Input: item})
		}
	}
	return list, ok
}

// object returns a nested object's fields, or nil if it is absent; its problems are added to f's by merge.
func (f *form) object(name string) *form {
	if !f.has(name) {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(f.fields[name], &fields) != nil || fields == nil {
		f.fail(name, "model_attributes_type", noObject)
		return nil
	}
	return &form{raw: f.fields[name], fields: fields, at: append(append([]any{}, f.at...), name)}
}

func (f *form) merge(sub *form) {
	for _, p := range sub.problems {
		f.failAt(p)
	}
}
