package edge

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strconv"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// HTTPStatus returns the status of an error's kind; pkg/fault has the table. Dialects that differ decide before they ask.
func HTTPStatus(kind fault.Kind) int {
	switch kind {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict, fault.LostRace:
		return http.StatusConflict
	case fault.Precondition:
		return http.StatusPreconditionFailed
	case fault.Exhausted:
		return http.StatusTooManyRequests
	case fault.Upstream:
		return http.StatusBadGateway
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.Timeout:
		return http.StatusGatewayTimeout
	case fault.Cancelled:
		return 499 // the client has gone; nobody reads it
	case fault.Unimplemented:
		return http.StatusNotImplemented
	default:
		return http.StatusInternalServerError
	}
}

// Problem is the error body of the native API: RFC 9457 with a reason and the violations of single fields.
type Problem struct {
	Type       string             `json:"type"`
	Title      string             `json:"title"`
	Status     int                `json:"status"`
	Detail     string             `json:"detail"`
	Reason     string             `json:"reason,omitempty"`
	RequestID  string             `json:"request_id,omitempty"`
	Violations []ProblemViolation `json:"violations,omitempty"`
}

// ProblemViolation names a field that cannot be taken.
type ProblemViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// WriteProblem answers with err in the native API's shape. What is Internal is logged and not told.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	f := Describe(r, err)
	status := HTTPStatus(f.Kind)
	if f.Reason == ReasonUploadTooLarge {
		status = http.StatusRequestEntityTooLarge // no later moment will do, which is what 429 says
	}
	p := Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: f.Message, Reason: f.Reason, RequestID: w.Header().Get("X-Request-Id"),
	}
	for _, v := range f.Violations {
		p.Violations = append(p.Violations, ProblemViolation{Field: v.Field, Description: v.Description})
	}
	SetErrorHeaders(w, f)
	WriteJSON(w, p.Status, "application/problem+json", p)
}

// Describe turns any error into a fault that may be shown, and logs what may not.
func Describe(r *http.Request, err error) *fault.Error {
	f := asFault(err)
	if f.Kind == fault.Internal {
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "route", r.Pattern, "error", err)
		return &fault.Error{Kind: fault.Internal, Message: "internal error; the log has the details under this request's id"}
	}
	return f
}

// SetErrorHeaders sets what belongs to an error's kind beside the body.
func SetErrorHeaders(w http.ResponseWriter, f *fault.Error) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	w.Header().Set("Cache-Control", "no-store")
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, contentType string, v any) {
	data, err := MarshalJSON(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"detail":"internal error"}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// MarshalJSON is json.Marshal without the escapes for HTML, which would change the bytes of raw records inside v.
func MarshalJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}
