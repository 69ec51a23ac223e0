package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// convert checks that a value fits a leaf and returns it in the form that koanf's decoder takes: text for what reads
// itself from text, else the leaf's own type. The value is a string (from the environment, a flag, or the source text of
// a YAML scalar), a []string, a map[string]string, or, from a flag, the leaf's own type.
func convert(v any, t reflect.Type) (any, error) {
	if rv := reflect.ValueOf(v); rv.IsValid() && rv.Type() == t && t != secretType {
		switch {
		case t == durationType:
			return rv.Interface().(time.Duration).String(), nil
		case isText(t):
			if m, ok := v.(encoding.TextMarshaler); ok {
				text, err := m.MarshalText()
				return string(text), err
			}
		default:
			return v, nil
		}
	}
	switch {
	case t == stringMapType:
		return convertMap(v)
	case t.Kind() == reflect.Slice && !isText(t):
		return convertList(v, t)
	}
	switch v := v.(type) {
	case string:
		return convertText(v, t)
	case Secret:
		return v.Reveal(), nil
	case fmt.Stringer: // a flag's own type, such as an address
		return convertText(v.String(), t)
	case bool, int, int64, uint, uint64, float64:
		return convertText(fmt.Sprint(v), t)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(t), describe(reflect.TypeOf(v)))
}

func convertList(v any, t reflect.Type) (any, error) {
	var items []string
	switch v := v.(type) {
	case []string:
		items = v
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	default:
		return nil, fmt.Errorf("want %s, not %s", describe(t), describe(reflect.TypeOf(v)))
	}
	list := make([]any, 0, len(items))
	for _, item := range items {
		x, err := convertText(item, t.Elem())
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, nil
}

func convertMap(v any) (any, error) {
	pairs := map[string]any{}
	switch v := v.(type) {
	case map[string]string:
		for k, x := range v {
			pairs[k] = x
		}
	case string:
		for pair := range strings.SplitSeq(v, ",") {
			if pair = strings.TrimSpace(pair); pair == "" {
				continue
			}
			k, x, ok := strings.Cut(pair, "=")
			if !ok {
				return nil, fmt.Errorf("want pairs such as a=b,c=d")
			}
			pairs[strings.TrimSpace(k)] = strings.TrimSpace(x)
		}
	default:
		return nil, fmt.Errorf("want %s, not %s", describe(stringMapType), describe(reflect.TypeOf(v)))
	}
	return pairs, nil
}

func convertText(s string, t reflect.Type) (any, error) {
	switch {
	case t == durationType:
		d, err := parseDuration(s)
		return d.String(), err
	case isText(t):
		if err := reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			return nil, err
		}
		return s, nil
	}
	var v any
	var err error
	switch t.Kind() {
	case reflect.String:
		return s, nil
	case reflect.Bool:
		v, err = strconv.ParseBool(s)
	case reflect.Float32, reflect.Float64:
		v, err = strconv.ParseFloat(s, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v, err = strconv.ParseUint(strings.ReplaceAll(s, "_", ""), 10, t.Bits())
	default:
		v, err = strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, t.Bits())
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not %s", s, describe(t))
	}
	return v, nil
}

// describe names a type in the words of somebody who writes configuration.
func describe(t reflect.Type) string {
	switch {
	case t == nil:
		return "nothing"
	case t == durationType:
		return "a duration"
	case t == reflect.TypeFor[Bytes]():
		return "a size"
	case t.Kind() == reflect.Slice && !isText(t):
		return "a list"
	case t.Kind() == reflect.Map, t.Kind() == reflect.Struct && !isText(t):
		return "a mapping"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	}
	return "text"
}
