package repodata

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxRecordDepth bounds nesting inside a record. Real ones have three levels (record, run_exports, list); the bound
// protects whoever walks the record recursively later, in whatever language.
const maxRecordDepth = 32

// checker looks at a record whose syntax is known to be right for what JSON's grammar lets through and readers disagree
// about: a key given twice, text that is not UTF-8, bottomless nesting. It keeps its stack of keys between records.
type checker struct {
	keys  [][]byte
	plain bool
	have  [len(required)]bool
}

// record checks raw and that it has what every index reader insists on. On a defect it returns the path inside the
// record and what is wrong; ok is true for a sound record. wantBuild is false for buckets whose records need no build.
func (c *checker) record(raw []byte, wantBuild bool) (path, msg string, ok bool) {
	if len(raw) == 0 || raw[0] != '{' {
		return "", "record is not an object", false
	}
	if !utf8.Valid(raw) {
		return "", "record is not valid UTF-8", false
	}
	c.plain = bytes.IndexByte(raw, '\\') < 0
	c.have = [3]bool{}
	if n := endlessNumber(raw, c.plain); n != nil {
		return "", fmt.Sprintf("number %.40s does not fit a double", n), false
	}
	if path, msg = c.object(raw, 1); msg != "" {
		return path, msg, false
	}
	for i, key := range required {
		if !c.have[i] && (wantBuild || key != "build") {
			return "", "record has no " + key, false
		}
	}
	return "", "", true
}

// endlessNumber returns a number in raw that no double holds, such as 1e999: JSON's grammar allows it, shards cannot carry
// it, and readers turn it into infinity or an error.
func endlessNumber(raw []byte, plain bool) []byte {
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			i = skipString(raw, i, plain)
			if i < 0 {
				return nil // broken, which others tell
			}
		case c >= '0' && c <= '9':
			from, exp := i, false
			for i < len(raw) && (raw[i] >= '0' && raw[i] <= '9' || raw[i] == '.' || raw[i] == '+' || raw[i] == '-' || raw[i]|0x20 == 'e') {
				exp = exp || raw[i]|0x20 == 'e'
				i++
			}
			if exp || i-from > 300 {
				if _, err := strconv.ParseFloat(string(raw[from:i]), 64); err != nil {
					return raw[from:i]
				}
			}
		default:
			i++
		}
	}
	return nil
}

// required are the keys without which index readers drop a record, or the whole file.
var required = [3]string{"name", "version", "build"}

// require notes a required key; msg is set if its value is no string. Only a build may be empty.
func (c *checker) require(key, v []byte) (msg string) {
	for i, want := range required {
		if string(key) != want {
			continue
		}
		if v[0] != '"' {
			return want + " is not a string"
		}
		c.have[i] = len(v) > 2 || want == "build"
	}
	return ""
}

func (c *checker) object(raw []byte, depth int) (path, msg string) {
	if depth > maxRecordDepth {
		return "", fmt.Sprintf("nested deeper than %d levels", maxRecordDepth)
	}
	base := len(c.keys)
	defer func() { c.keys = c.keys[:base] }()
	sorted := true
	o := object{buf: raw, plain: c.plain}
	for o.next() {
		if n := len(c.keys); n > base && bytes.Compare(c.keys[n-1], o.key) >= 0 {
			sorted = false
		}
		c.keys = append(c.keys, o.key)
		if depth == 1 {
			if msg = c.require(o.key, o.value()); msg != "" {
				return pointer(string(o.key)), msg
			}
		}
		if path, msg = c.value(o.value(), depth); msg != "" {
			return pointer(string(o.key)) + path, msg
		}
	}
	if o.err != nil {
		return "", o.err.Error()
	}
	if !sorted {
		if dup, found := duplicate(c.keys[base:]); found {
			return pointer(string(dup)), "key is there twice"
		}
	}
	return "", ""
}

func (c *checker) value(v []byte, depth int) (path, msg string) {
	switch v[0] {
	case '{':
		return c.object(v, depth+1)
	case '[':
		// A list of strings, as nearly every list is, has nothing left to find if it has no escapes.
		if c.plain && bytes.IndexByte(v[1:], '[') < 0 && bytes.IndexByte(v, '{') < 0 {
			return "", ""
		}
		return c.array(v, depth+1)
	case '"':
		// Half a surrogate pair is good grammar and no text: only the unquoter notices.
		if !c.plain && bytes.Contains(v, []byte(`\u`)) {
			if _, err := jsontext.AppendUnquote(nil, v); err != nil {
				return "", reason(err)
			}
		}
	}
	return "", ""
}

func (c *checker) array(raw []byte, depth int) (path, msg string) {
	if depth > maxRecordDepth {
		return "", fmt.Sprintf("nested deeper than %d levels", maxRecordDepth)
	}
	a := array{buf: raw, plain: c.plain}
	for i := 0; a.next(); i++ {
		if path, msg = c.value(a.elem, depth); msg != "" {
			return fmt.Sprintf("/%d%s", i, path), msg
		}
	}
	if a.err != nil {
		return "", a.err.Error()
	}
	return "", ""
}

// duplicate finds a key that occurs twice. A record has some twenty keys, for which comparing pairs beats sorting.
func duplicate(keys [][]byte) ([]byte, bool) {
	if len(keys) <= 32 {
		for i, k := range keys {
			for _, other := range keys[:i] {
				if len(k) == len(other) && bytes.Equal(k, other) {
					return k, true
				}
			}
		}
		return nil, false
	}
	keys = slices.SortedFunc(slices.Values(keys), bytes.Compare)
	for i := 1; i < len(keys); i++ {
		if bytes.Equal(keys[i-1], keys[i]) {
			return keys[i], true
		}
	}
	return nil, false
}
