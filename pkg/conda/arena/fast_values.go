package arena

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// value finds where the value at i ends, and of which kind it is: '"', '[' (of strings), '0' (whole and not negative), 't'
// for true and false, 'n' for null; 0 if it is none of these or not complete.
func value(raw []byte, i int) (end int, kind byte) {
	if i >= len(raw) {
		return 0, 0
	}
	switch c := raw[i]; {
	case c == '"':
		n := bytes.IndexByte(raw[i+1:], '"')
		if n < 0 {
			return 0, 0
		}
		return i + n + 2, '"'
	case c >= '0' && c <= '9':
		from := i
		for i < len(raw) && raw[i] >= '0' && raw[i] <= '9' {
			i++
		}
		if i == len(raw) || raw[i] == '.' || raw[i]|0x20 == 'e' || raw[from] == '0' && i > from+1 || i-from > 19 {
			return 0, 0
		}
		return i, '0'
	case c == '[':
		i = space(raw, i+1)
		if i < len(raw) && raw[i] == ']' {
			return i + 1, '['
		}
		for {
			if i >= len(raw) || raw[i] != '"' {
				return 0, 0
			}
			n := bytes.IndexByte(raw[i+1:], '"')
			if n < 0 {
				return 0, 0
			}
			i = space(raw, i+n+2)
			if i >= len(raw) {
				return 0, 0
			}
			if raw[i] == ']' {
				return i + 1, '['
			}
			if raw[i] != ',' {
				return 0, 0
			}
			i = space(raw, i+1)
		}
	}
	for _, word := range [...]string{"null", "true", "false"} {
		if rest := raw[i:]; len(rest) > len(word) && string(rest[:len(word)]) == word {
			kind = 't'
			if word == "null" {
				kind = 'n'
			}
			return i + len(word), kind
		}
	}
	return 0, 0
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// same returns the id of a string, which most often is that of the record before.
func (b *Builder) same(previous uint32, v []byte, kind byte) (uint32, bool) {
	if kind != '"' {
		return 0, false
	}
	s := v[1 : len(v)-1]
	if bytes.Equal(b.str(previous), s) {
		return previous, true
	}
	return b.intern(s), true
}

// list appends the strings of a list to deps; before is what the record before had there.
func (b *Builder) list(v []byte, kind byte, before []uint32) (int, bool) {
	if kind == 'n' {
		return 0, true
	}
	if kind != '[' {
		return 0, false
	}
	count := 0
	for i := 1; ; count++ {
		n := bytes.IndexByte(v[i:], '"')
		if n < 0 {
			return count, count <= math.MaxUint16
		}
		i += n + 1
		n = bytes.IndexByte(v[i:], '"') // value found it already
		s := v[i : i+n]
		i += n + 1
		if count < len(before) && bytes.Equal(b.str(before[count]), s) {
			b.deps = append(b.deps, before[count])
			continue
		}
		b.deps = append(b.deps, b.intern(s))
	}
}

func (b *Builder) digest(dst, v []byte, kind byte, flags *Flags, flag Flags) bool {
	if kind == 'n' || string(v) == `""` {
		return true
	}
	*flags |= flag
	return kind == '"' && decodeHex(dst, v[1:len(v)-1])
}

// other takes a key without a field into the rest.
func (b *Builder) other(r *Rec, quoted, v []byte, kind byte) bool {
	for _, k := range b.keys {
		if bytes.Equal(b.rest[k[0]:k[1]], quoted) {
			return false
		}
	}
	switch string(quoted) {
	case `"track_features"`:
		switch {
		case kind == '"' && len(bytes.Trim(v, "\", ")) > 0 || kind == '[' && len(v) > 2:
			r.Flags |= TrackFeatures
		case kind == '0' || kind == 't':
			return false
		}
	case `"revoked"`:
		if string(v) == "true" {
			r.Flags |= Revoked
		}
	case `"url"`, `"flags"`, `"extra_depends"`:
		return kind == 'n'
	}
	if len(b.keys) == 32 || kind == '[' && bytes.IndexByte(v, ' ') >= 0 {
		return false
	}
	at := len(b.rest)
	if at > 0 {
		at++
	}
	b.addRest(quoted, v)
	b.keys = append(b.keys, [2]int{at, at + len(quoted)})
	return true
}

func number(v []byte, kind byte, most uint64) (uint64, bool) {
	if kind == 'n' {
		return 0, true
	}
	if kind != '0' {
		return 0, false
	}
	n := uint64(0)
	for _, c := range v { // 19 digits fit
		n = 10*n + uint64(c-'0')
	}
	return n, n <= most
}

func millis(v []byte, kind byte) (int64, bool) {
	n, ok := number(v, kind, 1<<53-1)
	if n < secondsBelow {
		n *= 1000
	}
	return int64(n), ok
}

// plain reports whether a record has no escapes and is UTF-8, and has no control characters but white space between its
// tokens: in a record of one line there is none at all.
func plain(raw []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	var high, odd uint64
	i := 0
	for ; i+8 <= len(raw); i += 8 {
		w := binary.LittleEndian.Uint64(raw[i:])
		high |= w
		back := w ^ 0x5c*ones
		odd |= (w-0x20*ones)&^w | (back-ones)&^back
	}
	for _, c := range raw[i:] {
		high |= uint64(c)
		if c < 0x20 || c == '\\' {
			odd = highs
		}
	}
	if odd&highs != 0 && !plainOutside(raw) {
		return false
	}
	return high&highs == 0 || utf8.Valid(raw)
}

// plainOutside is plain for a record of several lines.
func plainOutside(raw []byte) bool {
	inside := false
	for _, c := range raw {
		switch {
		case c == '\\' || c < 0x20 && inside:
			return false
		case c == '"':
			inside = !inside
		}
	}
	return true
}
