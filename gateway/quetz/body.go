package quetz

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// maxBody bounds a JSON body; the largest real one is a list of package names.
const maxBody = 8 << 20

// form reads the fields of a JSON object and collects what is wrong with them, as pydantic words it.
type form struct {
	raw      json.RawMessage
	fields   map[string]json.RawMessage
	problems invalidFields
	at       []any
}

// readForm reads a request's JSON object, whatever the Content-Type says: curl's default names a form. With a login
// cookie only application/json will do, which no form of a foreign web page can send.
func readForm(r *http.Request) (*form, error) {
	if edge.SessionFrom(r.Context()) != "" {
		if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
			return nil, &statusError{http.StatusUnsupportedMediaType, "with a login cookie the Content-Type must be application/json"}
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			return nil, &statusError{http.StatusRequestEntityTooLarge, "the request body is larger than 8 MiB"}
		}
		return nil, fault.New(fault.Invalid, "the request body ended early")
	}
	data = dropTrailingCommas(bytes.TrimSpace(data))
	f := &form{raw: data, at: []any{"body"}}
	if len(data) == 0 {
		return nil, invalidFields{{Type: "missing", Loc: []any{"body"}, Msg: "Field required", Input: json.RawMessage("null")}}
	}
	if err := json.Unmarshal(data, &f.fields); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, invalidFields{{
				Type: "json_invalid", Loc: []any{"body", syntax.Offset},
				Msg: "JSON decode error: " + syntax.Error(), Input: json.RawMessage("{}"),
			}}
		}
		return nil, invalidFields{{
			Type: "model_attributes_type", Loc: []any{"body"},
			Msg: "Input should be a valid dictionary or object to extract fields from", Input: data,
		}}
	}
	return f, nil
}

// err returns what was wrong, or nil.
func (f *form) err() error {
	if len(f.problems) > 0 {
		return f.problems
	}
	return nil
}

func (f *form) has(name string) bool { _, ok := f.fields[name]; return ok }

func (f *form) fail(name, typ, msg string) {
	input := f.fields[name]
	if input == nil {
		input = f.raw
	}
	f.problems = append(f.problems, invalidField{Type: typ, Loc: append(append([]any{}, f.at...), name), Msg: msg, Input: input})
}

// value decodes a field into v; absent and null leave it as it is and return false.
func (f *form) value(name string, v any, typ, msg string) bool {
	raw, ok := f.fields[name]
	if !ok || string(raw) == "null" {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		f.fail(name, typ, msg)
		return false
	}
	return true
}

func (f *form) require(name string) bool {
	if f.has(name) {
		return true
	}
	f.fail(name, "missing", "Field required")
	return false
}

func (f *form) string(name string) (s string, ok bool) {
	ok = f.value(name, &s, "string_type", "Input should be a valid string")
	return s, ok
}

func (f *form) bool(name string, def bool) bool {
	raw := f.fields[name]
	if len(raw) > 1 && raw[0] == '"' { // "true" is taken as true, as pydantic does
		var s string
		if json.Unmarshal(raw, &s) == nil {
			if b, err := parseBool(s); err == nil {
				return b
			}
		}
	}
	f.value(name, &def, "bool_type", "Input should be a valid boolean")
	return def
}

func (f *form) int(name string) (n int64, ok bool) {
	ok = f.value(name, &n, "int_type", "Input should be a valid integer")
	return n, ok
}

func (f *form) strings(name string) (list []string, ok bool) {
	ok = f.value(name, &list, "list_type", "Input should be a valid list of strings")
	return list, ok
}

// object returns a nested object's fields; its problems are added to f's by merge.
func (f *form) object(name string) *form {
	var fields map[string]json.RawMessage
	if !f.value(name, &fields, "model_type", "Input should be a valid dictionary or object to extract fields from") {
		return nil
	}
	return &form{raw: f.fields[name], fields: fields, at: append(append([]any{}, f.at...), name)}
}

func (f *form) merge(sub *form) { f.problems = append(f.problems, sub.problems...) }

// parseTime reads a time with or without a zone; without one it is UTC.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "not a time: %q", s)
}

// naive writes a time as Quetz does: UTC without a zone, microseconds only if there are any.
func naive(t time.Time) string {
	t = t.UTC().Truncate(time.Microsecond)
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05")
	}
	return t.Format("2006-01-02T15:04:05.000000")
}

// dropTrailingCommas removes a comma before a closing brace or bracket, outside of strings: the mirroring page of
// Quetz prints such an example.
func dropTrailingCommas(data []byte) []byte {
	out := make([]byte, 0, len(data))
	inString, escaped := false, false
	for i, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case c == ',' && !inString:
			rest := bytes.TrimLeft(data[i+1:], " \t\r\n")
			if len(rest) > 0 && (rest[0] == '}' || rest[0] == ']') {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

// tolerantJSON gives the gateway's decoder what readForm would have taken.
func tolerantJSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut || r.Method == http.MethodPost {
			f, err := readForm(r)
			if err != nil {
				writeError(w, r, err)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(f.raw))
			r.Header.Set("Content-Type", "application/json")
		}
		if err := normaliseQuery(r); err != nil {
			writeError(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// normaliseQuery spells query booleans as grpc-gateway reads them, drops empty values, which mean absent here, and
// reports numbers that are none.
func normaliseQuery(r *http.Request) error {
	q := r.URL.Query()
	changed := false
	for name, values := range q {
		switch {
		case len(values) == 1 && values[0] == "":
			q.Del(name)
			changed = true
		case name == "skip" || name == "limit":
			if _, err := strconv.ParseInt(values[0], 10, 64); err != nil {
				return queryProblem(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer", values[0])
			}
		case name == "public" || name == "force" || name == "register_mirror":
			b, err := parseBool(values[0])
			if err != nil {
				return queryProblem(name, "bool_parsing", "Input should be a valid boolean, unable to interpret input", values[0])
			}
			q.Set(name, strconv.FormatBool(b))
			changed = true
		}
	}
	if changed {
		r.URL.RawQuery = q.Encode()
	}
	return nil
}

func queryProblem(name, typ, msg, input string) error {
	raw, _ := json.Marshal(input)
	return invalidFields{{Type: typ, Loc: []any{"query", name}, Msg: msg, Input: raw}}
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "t", "yes", "y", "on":
		return true, nil
	case "0", "false", "f", "no", "n", "off":
		return false, nil
	}
	return false, fault.New(fault.Invalid, "not a boolean: %q", s)
}

// queryBool reads a boolean of the query; absent and empty give def.
func queryBool(r *http.Request, name string, def bool) (bool, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	b, err := parseBool(s)
	if err != nil {
		return false, queryProblem(name, "bool_parsing", "Input should be a valid boolean, unable to interpret input", s)
	}
	return b, nil
}
