package dataplane

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

const (
	// maxRanges and maxRangeHeader bound what is done for one request: each range of a multipart answer costs a header and
	// a seek. A Range header beyond them is ignored, which RFC 9110 section 14.2 allows, and the whole blob is sent.
	maxRanges      = 16
	maxRangeHeader = 1024
)

// withRange returns the request with its Range header in the form that http.ServeContent takes as RFC 9110 means it: an
// unknown unit and a malformed range are ignored, numbers of any length are understood, and a suffix of no bytes is
// unsatisfiable. By itself it answers the first three with 416 and the last with an empty 206.
func withRange(r *http.Request, size int64) *http.Request {
	given := r.Header.Values("Range")
	if len(given) == 0 {
		return r
	}
	want := ""
	if len(given) == 1 {
		want = normalRange(given[0], size)
	}
	if len(given) == 1 && want == given[0] {
		return r
	}
	c := *r
	c.Header = r.Header.Clone()
	c.Header.Del("Range")
	if want != "" {
		c.Header.Set("Range", want)
	}
	return &c
}

// normalRange returns the canonical form, or "" for what is to be ignored.
func normalRange(header string, size int64) string {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || len(header) > maxRangeHeader || strings.Count(set, ",") >= maxRanges || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return ""
	}
	var specs []string
	unsatisfiable := fmt.Sprintf("bytes=%d-", size)
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue // RFC 9110 section 5.6.1: empty list elements are to be ignored
		}
		first, last, ok := strings.Cut(spec, "-")
		from, okFirst := position(first)
		to, okLast := position(last)
		switch {
		case !ok || !okFirst || !okLast || first == "" && last == "":
			return ""
		case first == "" && to == 0:
			// No byte is asked for: as unsatisfiable as a range after the end, and dropped beside satisfiable ones.
		case first == "":
			specs = append(specs, fmt.Sprintf("-%d", to))
		case last == "":
			specs = append(specs, fmt.Sprintf("%d-", from))
		case to < from:
			return ""
		default:
			specs = append(specs, fmt.Sprintf("%d-%d", from, to))
		}
	}
	if len(specs) == 0 {
		if strings.Trim(set, ", \t") == "" {
			return ""
		}
		return unsatisfiable
	}
	return "bytes=" + strings.Join(specs, ",")
}

// position reads a decimal number, taking the largest for those beyond it; "" is 0.
func position(s string) (int64, bool) {
	if s == "" {
		return 0, true
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64 - 1 // ServeContent adds one
	}
	return n, true
}
