package archive

import (
	"errors"
	"fmt"
	"io"
)

// Error says what is wrong with a package and where.
type Error struct {
	Member string // file inside the package ("info/index.json") or member of the ZIP; "" for the package itself
	Field  string // key of a metadata file, or property of an entry such as "path", "mode", "link"; may be empty
	Msg    string // what is wrong, in words
	Err    error  // cause, if there is one
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Msg
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Member != "" {
		s = quote(e.Member) + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// quote makes a stranger's name safe to print and short.
func quote(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

func refuse(member, field, format string, args ...any) error {
	return &Error{Member: member, Field: field, Msg: fmt.Sprintf(format, args...)}
}

// broken wraps an error of a decoder as a fault of the package, but passes on
// what is already an *Error (a limit that struck inside a reader).
func broken(member, msg string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Member: member, Msg: msg, Err: err}
}
