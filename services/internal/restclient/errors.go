package restclient

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// kindOf is pkg/fault's table read backwards.
func kindOf(status int) fault.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return fault.Invalid
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusPreconditionFailed:
		return fault.Precondition
	case http.StatusTooManyRequests:
		return fault.Exhausted
	case http.StatusBadGateway:
		return fault.Upstream
	case http.StatusServiceUnavailable:
		return fault.Unavailable
	case http.StatusGatewayTimeout:
		return fault.Timeout
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return fault.Unimplemented
	}
	return fault.Internal
}

// problem reads an error from an answer. The native API sends RFC 9457 bodies; the file routes and whatever proxy
// stands before the server send others, of which only `detail` is understood.
func problem(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var p struct {
		Title      string `json:"title"`
		Detail     any    `json:"detail"`
		Reason     string `json:"reason"`
		RequestID  string `json:"request_id"`
		Violations []struct {
			Field       string `json:"field"`
			Description string `json:"description"`
		} `json:"violations"`
	}
	kind := kindOf(resp.StatusCode)
	message := fmt.Sprintf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); strings.HasSuffix(t, "json") && json.Unmarshal(data, &p) == nil {
		if detail, ok := p.Detail.(string); ok && detail != "" {
			message = detail
		}
	}
	if id := p.RequestID; kind == fault.Internal && id != "" {
		message += " (request " + id + ")"
	}
	f := fault.New(kind, "%s", message).WithReason(p.Reason).WithRetryAfter(retryAfter(resp.Header))
	for _, v := range p.Violations {
		f.Violations = append(f.Violations, fault.Violation{Field: v.Field, Description: v.Description})
	}
	return f
}
