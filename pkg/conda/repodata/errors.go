package repodata

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Error says what is wrong with a document or a record, and where.
type Error struct {
	// Path is a JSON pointer (RFC 6901) into the document, such as /packages/zlib-1.2.11-0.tar.bz2/depends.
	// For a record that is parsed on its own it starts at the record.
	Path string
	// Offset counts bytes of decompressed input up to the defect, or to the start of the record that has it.
	Offset int64
	// Msg is the defect in words.
	Msg string
	// Err is the cause, if there is one: a *LimitError, io.ErrUnexpectedEOF, a reader's error.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("repodata: ")
	if e.Path != "" {
		b.WriteString(printable(e.Path))
		b.WriteString(" ")
	}
	if e.Offset > 0 {
		fmt.Fprintf(&b, "(byte %d) ", e.Offset)
	}
	b.WriteString(e.Msg)
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// LimitError reports input that is larger than its reader allows: a decompression bomb, a record or string without end.
type LimitError struct {
	What  string // what is limited, such as "decompressed size" or "record"
	Limit int64  // bytes, or a plain number where What says so
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s exceeds the limit of %d", e.What, e.Limit)
}

// printable keeps a stranger's name from flooding or forging a log line.
func printable(s string) string {
	const most = 400
	if len(s) > most {
		s = s[:most] + "…"
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// pointer joins reference tokens to a JSON pointer.
func pointer(tokens ...string) string {
	var p jsontext.Pointer
	for _, t := range tokens {
		p = p.AppendToken(t)
	}
	return string(p)
}

// syntaxError turns what the JSON decoder says into our error; path and offset are used where it names none.
func syntaxError(err error, path string, offset int64) *Error {
	out := &Error{Path: path, Offset: offset, Err: err}
	var limit *LimitError
	var syn *jsontext.SyntacticError
	switch {
	case errors.As(err, &limit):
		out.Msg = limit.Error()
	case errors.As(err, &syn):
		out.Offset = syn.ByteOffset
		if syn.JSONPointer != "" {
			out.Path = string(syn.JSONPointer)
		}
		out.Msg = reason(syn.Err)
	default:
		out.Msg = reason(err)
	}
	return out
}

// reason is an error in words without the library's name in front.
func reason(err error) string { return strings.TrimPrefix(err.Error(), "jsontext: ") }
