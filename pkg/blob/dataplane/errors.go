package dataplane

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// statuses are those of package fault's table.
var statuses = map[fault.Kind]int{
	fault.Invalid: http.StatusBadRequest, fault.Unauthenticated: http.StatusUnauthorized, fault.Denied: http.StatusForbidden,
	fault.NotFound: http.StatusNotFound, fault.Conflict: http.StatusConflict, fault.LostRace: http.StatusConflict,
	fault.Precondition: http.StatusPreconditionFailed, fault.Exhausted: http.StatusTooManyRequests,
	fault.Upstream: http.StatusBadGateway, fault.Unavailable: http.StatusServiceUnavailable, fault.Timeout: http.StatusGatewayTimeout,
	fault.Cancelled: 499, fault.Unimplemented: http.StatusNotImplemented,
}

// errorBody is the answer to a request that failed; a Client makes the fault from it again.
type errorBody struct {
	Kind     string    `json:"kind"`
	Reason   string    `json:"reason,omitempty"`
	Message  string    `json:"message"`
	Mismatch *mismatch `json:"mismatch,omitempty"`
}

type mismatch struct {
	Field string `json:"field"`
	Want  string `json:"want"`
	Got   string `json:"got"`
}

// writeError answers with the fault's status. What is Internal stays in the log.
func writeError(w http.ResponseWriter, err error) {
	kind := fault.KindOf(err)
	body := errorBody{Kind: kind.String(), Message: "internal error"}
	var f *fault.Error
	if errors.As(err, &f) {
		body.Reason = f.Reason
	}
	if kind != fault.Internal {
		body.Message = err.Error()
	}
	var me *blob.MismatchError
	if errors.As(err, &me) {
		body.Mismatch = &mismatch{me.Field, me.Want, me.Got}
	}
	status, ok := statuses[kind]
	switch {
	case !ok:
		status = http.StatusInternalServerError
	case body.Reason == blob.ReasonTooLarge:
		status = http.StatusRequestEntityTooLarge
	case body.Reason == blob.ReasonFull:
		status = http.StatusInsufficientStorage
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Entrepot-Grant")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// readError makes the fault of an answer that is no success.
func readError(resp *http.Response) error {
	var body errorBody
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(data, &body) != nil || body.Kind == "" { // a HEAD, or a proxy's own page
		kind := fault.Unavailable
		for k, status := range statuses {
			if status == resp.StatusCode && k != fault.LostRace {
				kind = k
			}
		}
		f := fault.New(kind, "the data plane answered %s", resp.Status)
		if kind == fault.NotFound {
			f.Reason = blob.ReasonNotFound
		}
		return f
	}
	if m := body.Mismatch; m != nil {
		return &blob.MismatchError{Field: m.Field, Want: m.Want, Got: m.Got}
	}
	for k := fault.Internal; k <= fault.Unimplemented; k++ {
		if k.String() == body.Kind {
			return fault.New(k, "%s", body.Message).WithReason(body.Reason)
		}
	}
	return fault.New(fault.Unavailable, "the data plane answered %s: %s", resp.Status, body.Message)
}
