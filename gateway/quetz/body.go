package quetz

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// maxBody bounds a JSON body; the largest real one is a list of package names.
const maxBody = 8 << 20

// readForm reads a request's JSON object, whatever the Content-Type says: curl's default names a form. With a login
// cookie only application/json will do, which no form of a foreign web page can send.
//
// The error is of what is refused before anything else is looked at, such as bytes that are no JSON. A body that is JSON but
// no object, or not there, is a problem of the form, which comes after the channel and the right to read it.
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
		f.hopeless, f.problems = true, invalidFields{{Type: "missing", Loc: []any{"body"}, Msg: "Field required", Input: json.RawMessage("null")}}
		return f, nil
	}
	if err := json.Unmarshal(data, &f.fields); err != nil || f.fields == nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, invalidFields{{
				Type: "json_invalid", Loc: []any{"body", syntax.Offset}, Msg: "JSON decode error", Input: json.RawMessage("{}"),
				Ctx: map[string]any{"error": syntax.Error()},
			}}
		}
		f.hopeless, f.problems = true, invalidFields{{Type: "model_attributes_type", Loc: []any{"body"}, Msg: noObject, Input: data}}
	}
	return f, nil
}

// parseTime reads a time with or without a zone; without one it is UTC.
func parseTime(s string) (time.Time, error) {
	at := s
	if len(s) > len(time.DateOnly) && (s[len(time.DateOnly)] == ' ' || s[len(time.DateOnly)] == 't') {
		at = s[:len(time.DateOnly)] + "T" + s[len(time.DateOnly)+1:]
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05.999999999Z0700", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", time.DateOnly,
	} {
		if t, err := time.Parse(layout, at); err == nil {
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
