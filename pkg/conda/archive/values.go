package archive

import (
	"math"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The value types below take what twenty years of build tools have written,
// and always write the one form that is right today.

// Noarch is the kind of a package that runs on several platforms.
type Noarch string

// The kinds of noarch packages. NotNoarch is the rest.
const (
	NotNoarch     Noarch = ""
	NoarchGeneric Noarch = "generic"
	NoarchPython  Noarch = "python"
)

// UnmarshalJSONFrom accepts "python", "generic", "", true (an old spelling of
// generic), false and null.
func (n *Noarch) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var v any
	if err := json.UnmarshalDecode(d, &v); err != nil {
		return err
	}
	*n = NotNoarch
	switch v := v.(type) {
	case string:
		*n = Noarch(strings.ToLower(v))
	case bool:
		if v {
			*n = NoarchGeneric
		}
	}
	return nil
}

// StringList is a list of strings that may be written as one string or null.
type StringList []string

// UnmarshalJSONFrom accepts a list of strings, a string and null.
func (l *StringList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch d.PeekKind() {
	case '[':
		return json.UnmarshalDecode(d, (*[]string)(l))
	case 'n':
		*l = nil
		return d.SkipValue()
	}
	var s string
	if err := json.UnmarshalDecode(d, &s); err != nil {
		return err
	}
	*l = StringList{s}
	return nil
}

// Features is a list of words that may be written as one string, separated by
// spaces and commas.
type Features []string

// UnmarshalJSONFrom accepts a list of strings, a string and null.
func (f *Features) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var l StringList
	if err := l.UnmarshalJSONFrom(d); err != nil {
		return err
	}
	*f = nil
	for _, s := range l {
		*f = append(*f, strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	return nil
}

// Millis is a time in milliseconds since 1970, as timestamps in conda are;
// 0 means unknown.
type Millis int64

// UnmarshalJSONFrom accepts a number and null. A number below 10¹¹ is taken
// for seconds, which early tools wrote: as milliseconds it would lie in 1973.
func (m *Millis) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var f *float64
	if err := json.UnmarshalDecode(d, &f); err != nil {
		return err
	}
	*m = 0
	if f == nil || math.Abs(*f) > 1e16 {
		return nil
	}
	if *f < 1e11 {
		*f *= 1000
	}
	*m = Millis(*f)
	return nil
}

// Text is a string for people. Lists are joined, other values dropped: it is
// not worth refusing a package for an odd description.
type Text string

// UnmarshalJSONFrom accepts any value.
func (t *Text) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var v any
	if err := json.UnmarshalDecode(d, &v); err != nil {
		return err
	}
	*t = ""
	switch v := v.(type) {
	case string:
		*t = Text(v)
	case []any:
		var words []string
		for _, w := range v {
			if s, ok := w.(string); ok {
				words = append(words, s)
			}
		}
		*t = Text(strings.Join(words, ", "))
	}
	return nil
}
