package quetz

import (
	"encoding/json"
	"net/http"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// detail is the error body of everything but a malformed request.
type detail struct {
	Detail any `json:"detail"`
}

// invalidField is one entry of a 422's list, in the form that pydantic gives it.
type invalidField struct {
	Type  string          `json:"type"`
	Loc   []any           `json:"loc"`
	Msg   string          `json:"msg"`
	Input json.RawMessage `json:"input"`
	Ctx   map[string]any  `json:"ctx,omitempty"`
}

// invalidFields is a malformed request: 422 with a list.
type invalidFields []invalidField

func (e invalidFields) Error() string {
	if len(e) == 0 {
		return "invalid request"
	}
	return e[0].Msg
}

// statusError is an error that has a status of its own in this dialect.
type statusError struct {
	status int
	detail any
}

func (e *statusError) Error() string {
	if s, ok := e.detail.(string); ok {
		return s
	}
	return http.StatusText(e.status)
}

// statusOf returns the dialect's status where it differs from the kind's usual one.
func statusOf(f *fault.Error) int {
	switch f.Reason {
	case "CHANNEL_KIND":
		return http.StatusMethodNotAllowed
	case "QUOTA":
		return http.StatusUnprocessableEntity
	case edge.ReasonUploadTooLarge:
		return http.StatusRequestEntityTooLarge
	case "FILENAME_INVALID", "FILENAME_MISMATCH", "PACKAGE_INVALID", "PACKAGE_MISMATCH", "PACKAGE_FILE":
		return http.StatusBadRequest
	}
	if f.Kind == fault.Invalid {
		return http.StatusUnprocessableEntity
	}
	return edge.HTTPStatus(f.Kind)
}

// writeError answers with an error in Quetz's shape.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	switch e := err.(type) {
	case invalidFields:
		edge.WriteJSON(w, http.StatusUnprocessableEntity, "application/json", detail{withoutSecrets(e)})
		return
	case *statusError:
		edge.WriteJSON(w, e.status, "application/json", detail{e.detail})
		return
	}
	f := edge.Describe(r, err)
	edge.SetErrorHeaders(w, f)
	if f.Reason == reasonQuery && len(f.Violations) > 0 {
		name := f.Violations[0].Field
		writeError(w, r, queryProblem(name, "value_error", "Value error, "+f.Message, r.URL.Query().Get(name)))
		return
	}
	var body any = f.Message
	if f.Kind == fault.Denied && f.Reason == "SERVER_ROLE" {
		body = []string{f.Message}
	}
	edge.WriteJSON(w, statusOf(f), "application/json", detail{body})
}

// reasonQuery is the reason of faults that a parameter of the query is to blame for.
const reasonQuery = "QUERY"

// badQuery says what is wrong with a parameter of the query, from behind the gateway.
func badQuery(name, format string, args ...any) error {
	return fault.Field(name, format, args...).WithReason(reasonQuery)
}

func noRoute(w http.ResponseWriter, r *http.Request, status int) {
	edge.WriteJSON(w, status, "application/json", detail{map[int]string{
		http.StatusNotFound: "Not Found", http.StatusMethodNotAllowed: "Method Not Allowed",
	}[status]})
}

// kindError refuses a route on a channel of a kind that does not have it.
func kindError(kind string) error {
	return &statusError{http.StatusMethodNotAllowed, "This method is not implemented for " + kind + " channels"}
}
