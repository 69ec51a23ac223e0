package fetchplane

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// Path is where a fetch plane listens.
	Path = "/fetch"
	// Audience is what its tokens are for.
	Audience = "sync-fetch"
	// TokenHeader carries the internal token.
	TokenHeader = "Entrepot-Token"
	// AnswerHeader says which kind of answer it is.
	AnswerHeader = "Entrepot-Fetch"

	// ResolvedHeader carries a ResolveResponse in base64: HEAD has no body.
	ResolvedHeader = "Entrepot-Resolved"

	// AnswerResolved: what ResolvedHeader names is in storage.
	AnswerResolved = "resolved"
	// AnswerStream: status, header and body are those for the client.
	AnswerStream = "stream"
	// AnswerError: the body is an error.
	AnswerError = "error"
)

// askHeaders are those of the client's request that a plane needs to answer it.
var askHeaders = []string{"Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since"}

// StreamHeaders are those of a stream that go on to the client.
var StreamHeaders = []string{
	"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Etag", "Last-Modified", "Content-Size",
}

// Staleness of a resolved answer.
const (
	// HeaderAge is how many seconds ago upstream was last known to have the copy.
	HeaderAge = "Age"
	// HeaderWarning says that the copy is stale, as RFC 7234 section 5.5 spelled it; RFC 9111 dropped the field, and people
	// and tools still read it.
	HeaderWarning = "Warning"
)

type errorBody struct {
	Kind       string `json:"kind"`
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message"`
	RetryAfter int64  `json:"retry_after,omitempty"` // seconds
}

// WriteError answers with a fault. The text of an Internal one stays in the log.
func WriteError(w http.ResponseWriter, err error) {
	kind := fault.KindOf(err)
	body := errorBody{Kind: kind.String(), Message: "internal error"}
	var f *fault.Error
	if errors.As(err, &f) {
		body.Reason, body.RetryAfter = f.Reason, int64(f.RetryAfter/time.Second)
	}
	if kind != fault.Internal {
		body.Message = err.Error()
	}
	status := http.StatusBadGateway
	switch kind {
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Unauthenticated:
		status = http.StatusUnauthorized
	case fault.Denied:
		status = http.StatusForbidden
	case fault.Invalid:
		status = http.StatusBadRequest
	case fault.Internal:
		status = http.StatusInternalServerError
	case fault.Unavailable:
		status = http.StatusServiceUnavailable
	}
	h := w.Header()
	h.Set(AnswerHeader, AnswerError)
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	data, merr := json.Marshal(body)
	if merr != nil {
		data = []byte(`{}`)
	}
	h.Set("Entrepot-Error", strconv.QuoteToASCII(string(data))) // for HEAD, which has no body
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// readError makes the fault of an answer again.
func readError(resp *http.Response) error {
	var body errorBody
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if len(data) == 0 {
		s, _ := strconv.Unquote(resp.Header.Get("Entrepot-Error"))
		data = []byte(s)
	}
	if json.Unmarshal(data, &body) == nil {
		for k := fault.Internal; k <= fault.Unimplemented; k++ {
			if k.String() == body.Kind {
				return fault.New(k, "%s", body.Message).WithReason(body.Reason).WithRetryAfter(time.Duration(body.RetryAfter) * time.Second)
			}
		}
	}
	return fault.New(fault.Unavailable, "the fetch plane answered %s", strings.TrimSpace(resp.Status))
}
