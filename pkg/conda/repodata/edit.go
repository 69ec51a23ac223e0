package repodata

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// SetKey returns raw with one top-level key set to value (JSON text), all other bytes as they were. A new key goes to
// its place in the order if the keys are sorted, else to the end. raw itself is not changed.
func SetKey(raw []byte, key string, value []byte) ([]byte, error) {
	value = bytes.TrimSpace(value)
	if !jsontext.Value(value).IsValid() {
		return nil, &Error{Path: pointer(key), Msg: "new value is not valid JSON"}
	}
	at, err := locate(raw, key)
	if err != nil {
		return nil, err
	}
	if at.found {
		return splice(raw, at.valStart, at.valEnd, value), nil
	}
	quoted, err := jsontext.AppendQuote(nil, key)
	if err != nil {
		return nil, &Error{Path: pointer(key), Msg: err.Error()}
	}
	pair := append(append(quoted, ':'), value...)
	switch {
	case at.members == 0:
		open := bytes.IndexByte(raw, '{') + 1
		return splice(raw, open, open, pair), nil
	case at.insertAt >= 0: // in front of the first greater key
		return splice(raw, at.insertAt, at.insertAt, append(pair, ',')), nil
	default:
		return splice(raw, at.lastEnd, at.lastEnd, append([]byte{','}, pair...)), nil
	}
}

// DeleteKey returns raw without one top-level key, all other bytes as they were; raw itself if it has no such key.
func DeleteKey(raw []byte, key string) ([]byte, error) {
	at, err := locate(raw, key)
	if err != nil {
		return nil, err
	}
	switch {
	case !at.found:
		return raw, nil
	case at.nextKey >= 0:
		return splice(raw, at.keyStart, at.nextKey, nil), nil
	case at.prevEnd >= 0:
		return splice(raw, at.prevEnd, at.valEnd, nil), nil
	default:
		return splice(raw, at.keyStart, at.valEnd, nil), nil
	}
}

// Key returns the raw value of one top-level key; nil if raw has none or is no object.
func Key(raw []byte, key string) []byte {
	o := scanObject(raw)
	for o.next() {
		if string(o.key) == key {
			return o.value()
		}
	}
	return nil
}

// Compact returns raw without insignificant white space; strings and numbers keep their spelling.
// It fails on anything that is not one JSON value with unique keys.
func Compact(raw []byte) ([]byte, error) {
	v := jsontext.Value(bytes.Clone(raw))
	if err := v.Compact(); err != nil {
		return nil, syntaxError(err, "", 0)
	}
	return v, nil
}

// place is where a key is in a record, or where it would go.
type place struct {
	found            bool
	members          int
	keyStart         int
	valStart, valEnd int
	prevEnd, nextKey int // end of the member before, start of the member after; -1 if none
	insertAt         int // start of the first greater key while keys are sorted; -1 if it goes last
	lastEnd          int // end of the last member
}

func locate(raw []byte, key string) (place, error) {
	at := place{prevEnd: -1, nextKey: -1, insertAt: -1}
	sorted := true
	var before []byte
	o := scanObject(raw)
	for o.next() {
		if at.members > 0 && bytes.Compare(before, o.key) >= 0 {
			sorted = false
		}
		if at.found && at.nextKey < 0 {
			at.nextKey = o.keyStart
		}
		switch {
		case string(o.key) == key:
			if at.found {
				return at, &Error{Path: pointer(key), Msg: "key is there twice"}
			}
			at.found = true
			at.keyStart, at.valStart, at.valEnd = o.keyStart, o.valStart, o.valEnd
			if at.members > 0 {
				at.prevEnd = at.lastEnd
			}
		case at.insertAt < 0 && string(o.key) > key:
			at.insertAt = o.keyStart
		}
		at.members++
		at.lastEnd = o.valEnd
		before = o.key
	}
	if o.err != nil {
		return at, &Error{Path: pointer(key), Msg: "record is not a JSON object"}
	}
	if !sorted {
		at.insertAt = -1
	}
	return at, nil
}

func splice(raw []byte, from, to int, with []byte) []byte {
	out := make([]byte, 0, len(raw)-(to-from)+len(with))
	out = append(out, raw[:from]...)
	out = append(out, with...)
	return append(out, raw[to:]...)
}
