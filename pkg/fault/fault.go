// Package fault gives every error of the platform a kind, and lets the kind alone decide what a caller sees.
//
// A store or a domain function returns a *Error (or wraps one with fmt.Errorf and %w); handlers hand it on
// unchanged. At the service boundary an interceptor turns it into a gRPC status with ErrorInfo, BadRequest
// and RetryInfo details; at the edge the kind becomes an HTTP status and the dialect's own error body.
// Nothing is ever mapped by the text of a message.
//
//	kind             gRPC                HTTP
//	Invalid          InvalidArgument     400 (422 in FastAPI families)
//	Unauthenticated  Unauthenticated     401
//	Denied           PermissionDenied    403
//	NotFound         NotFound            404
//	Conflict         AlreadyExists       409
//	LostRace         Aborted             409
//	Precondition     FailedPrecondition  412
//	Exhausted        ResourceExhausted   429
//	Upstream         Unavailable         502   (ErrorInfo.reason begins with UPSTREAM)
//	Unavailable      Unavailable         503
//	Timeout          DeadlineExceeded    504
//	Cancelled        Canceled            499
//	Unimplemented    Unimplemented       501
//	Internal         Internal            500   (details only in the log)
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind says what went wrong in the terms a caller can act on. The zero Kind is Internal.
type Kind uint8

// The kinds; the package comment has the table of their statuses.
const (
	Internal Kind = iota
	Invalid
	Unauthenticated
	Denied
	NotFound
	Conflict
	LostRace
	Precondition
	Exhausted
	Upstream
	Unavailable
	Timeout
	Cancelled
	Unimplemented
)

var kindNames = [...]string{
	"internal", "invalid", "unauthenticated", "denied", "not found", "conflict", "lost race",
	"precondition", "exhausted", "upstream", "unavailable", "timeout", "cancelled", "unimplemented",
}

// String returns the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Violation names one field of a request that cannot be taken.
type Violation struct {
	// Field is the path of the field in the request as the caller spelled it, such as "name" or "roles[0].channel".
	Field string
	// Description says what is wrong and how to fix it, in one sentence without a final full stop.
	Description string
}

// Error is an error with a kind. Its message is meant for the caller: it carries no secret.
type Error struct {
	Kind Kind
	// Reason is a stable UPPER_SNAKE token that a program can match, such as "CHANNEL_EXISTS"; empty means the kind says enough.
	Reason string
	// Message starts in lower case and is complete without the cause.
	Message string
	// Violations are set for Invalid.
	Violations []Violation
	// RetryAfter is how long a caller should wait before it tries again; 0 means unknown.
	RetryAfter time.Duration

	cause error
}

// New returns an Error of the kind. A %w verb in the format keeps the wrapped error for errors.Is and errors.As.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Field returns an Invalid error with one violation, whose description is the message too.
func Field(field, format string, args ...any) *Error {
	e := New(Invalid, format, args...)
	e.Violations = []Violation{{Field: field, Description: e.Message}}
	return e
}

// WithReason sets the reason and returns e.
func (e *Error) WithReason(reason string) *Error { e.Reason = reason; return e }

// WithRetryAfter sets the time to wait and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error { e.RetryAfter = d; return e }

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what %w wrapped, if anything.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the outermost *Error in err's chain; a context's end counts as Timeout or Cancelled,
// anything else as Internal. KindOf(nil) is Internal: ask only about errors.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Cancelled
	}
	return Internal
}

// Is reports whether err has the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
