package sync

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

const (
	// maxFailures bounds the files that a result names; the count is always true.
	maxFailures = 1000
	maxWarnings = 100
	// maxNamed bounds the bytes of failures and warnings as JSON, whose names are strangers': a job's result has 1 MiB at most.
	maxNamed = 512 << 10
)

// Result is what came of a run, as the job keeps it: syncv1.SyncResult with JSON numbers.
type Result struct {
	Revision    int64     `json:"revision"`
	Added       int64     `json:"added"`
	Unchanged   int64     `json:"unchanged"`
	Removed     int64     `json:"removed"`
	Failed      int64     `json:"failed"`
	Bytes       int64     `json:"bytes"`
	NotModified int64     `json:"not_modified"`
	Failures    []Failure `json:"failures"`
	Warnings    []string  `json:"warnings"`

	named int // bytes of failures and warnings
}

// Failure is a file that could not be mirrored.
type Failure struct {
	Path   string `json:"path"`
	Error  string `json:"error"`
	Reason string `json:"reason"`
}

func (r *Result) fail(path, reason, message string) {
	r.Failed++
	if len(r.Failures) < maxFailures {
		if f := (Failure{Path: printable(path), Error: printable(message), Reason: reason}); r.fits(f) {
			r.Failures = append(r.Failures, f)
		}
	}
}

func (r *Result) warn(format string, args ...any) {
	if w := printable(fmt.Sprintf(format, args...)); len(r.Warnings) < maxWarnings && r.fits(w) {
		r.Warnings = append(r.Warnings, w)
	}
}

// fits counts what is named against the size that a job's result may have.
func (r *Result) fits(v any) bool {
	data, err := json.Marshal(v)
	if err != nil || r.named+len(data) > maxNamed {
		return false
	}
	r.named += len(data)
	return true
}

// maxText bounds what a stranger's name or server can put into a result.
const maxText = 500

// printable keeps strangers' text fit to be shown and stored: JSON in PostgreSQL takes no NUL.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == utf8.RuneError {
			return '\uFFFD'
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

func (r *Result) toProto() *syncv1.SyncResult {
	out := &syncv1.SyncResult{
		Revision: r.Revision, Added: r.Added, Unchanged: r.Unchanged, Removed: r.Removed, Failed: r.Failed,
		Bytes: r.Bytes, NotModified: r.NotModified, Warnings: r.Warnings,
	}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, &syncv1.FailedFile{Path: f.Path, Error: f.Error, Reason: f.Reason})
	}
	return out
}
