package repodata

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// One decoder per kind of key: v is the raw value, nil if the key is absent.

func isNull(v []byte) bool { return len(v) == 0 || v[0] == 'n' }

func needString(v []byte) (string, error) {
	s, ok := unquote(v)
	if !ok {
		return "", errors.New("not a string")
	}
	return s, nil
}

func maybeString(v []byte) string {
	s, _ := unquote(v)
	return s
}

func stringList(v []byte) ([]string, error) {
	if isNull(v) {
		return nil, nil
	}
	var out []string
	a := scanArray(v)
	for a.next() {
		s, ok := unquote(a.elem)
		if !ok {
			return nil, fmt.Errorf("element %d is not a string", len(out))
		}
		out = append(out, s)
	}
	if a.err != nil {
		return nil, errors.New("not a list of strings")
	}
	return out, nil
}

func stringLists(v []byte) (map[string][]string, error) {
	if isNull(v) {
		return nil, nil
	}
	out := map[string][]string{}
	o := scanObject(v)
	for o.next() {
		list, err := stringList(o.value())
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", o.key, err)
		}
		out[string(o.key)] = list
	}
	if o.err != nil {
		return nil, errors.New("not a map of lists")
	}
	return out, nil
}

// features reads track_features: a list, or one string split on spaces and commas.
func features(v []byte) ([]string, error) {
	if len(v) > 0 && v[0] == '"' {
		s, ok := unquote(v)
		if !ok {
			return nil, errBroken
		}
		f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
		if len(f) == 0 {
			return nil, nil
		}
		return f, nil
	}
	return stringList(v)
}

// parseNoArch: true is what packages older than "noarch: python" say, and meant generic.
func parseNoArch(v []byte) (NoArch, error) {
	switch string(v) {
	case "", "null", "false", `""`:
		return NoArchNone, nil
	case "true", `"generic"`:
		return NoArchGeneric, nil
	case `"python"`:
		return NoArchPython, nil
	}
	return NoArchNone, fmt.Errorf("unknown kind %.40q", v)
}

// number reads a JSON number, or a string that holds one, as some old generators wrote them.
func number(v []byte) (string, error) {
	if len(v) > 0 && v[0] == '"' {
		s, ok := unquote(v)
		if !ok || s == "" {
			return "", errors.New("not a number")
		}
		return s, nil
	}
	return string(v), nil
}

func asUint(v []byte) (uint64, error) {
	if isNull(v) {
		return 0, nil
	}
	s, err := number(v)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f >= 1<<53 || f != math.Trunc(f) {
		return 0, fmt.Errorf("not a whole number of at most 64 bits: %.40q", v)
	}
	return uint64(f), nil
}

// asMillis reads a time stamp in milliseconds, or in seconds, whole or not.
func asMillis(v []byte) (int64, error) {
	if isNull(v) {
		return 0, nil
	}
	s, err := number(v)
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f >= 1<<53 {
		return 0, fmt.Errorf("not a time: %.40q", v)
	}
	if f < secondsBelow {
		f *= 1000
	}
	return int64(f), nil
}

// hexDigest reads a digest of n bytes, null and "" being none.
func hexDigest(v []byte, n int) (string, error) {
	if isNull(v) || string(v) == `""` {
		return "", nil
	}
	s, ok := unquote(v)
	if !ok || len(s) != 2*n {
		return "", fmt.Errorf("not %d hex digits", 2*n)
	}
	s = strings.ToLower(s)
	if _, err := hex.DecodeString(s); err != nil {
		return "", fmt.Errorf("not %d hex digits", 2*n)
	}
	return s, nil
}
