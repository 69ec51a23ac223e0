package edge

import (
	"net/http"
	"strconv"
	"strings"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// encodings are the packed forms in which a path may be sent. A file that is packed by its own name is sent as it is.
func encodings(res *channelsv1.ResolveResponse, path string) []*channelsv1.Encoding {
	if !strings.HasSuffix(path, ".json") {
		return nil
	}
	return res.GetEncodings()
}

// choose returns the form that the client likes best; nil for the bytes as they are. Of equals the first is taken. A range
// is always of the bytes as they are: parts of two forms must never be put together.
func choose(r *http.Request, forms []*channelsv1.Encoding) (best *channelsv1.Encoding) {
	if len(forms) == 0 || r.Header.Get("Range") != "" {
		return nil
	}
	accepted := acceptedCodings(r.Header.Values("Accept-Encoding"))
	most := accepted["identity"]
	for _, f := range forms {
		q, ok := accepted[f.GetCoding()]
		if !ok {
			q = accepted["*"]
		}
		if q > 0 && (q > most || best == nil && q == most) {
			best, most = f, q
		}
	}
	return best
}

// acceptedCodings reads Accept-Encoding (RFC 9110, section 12.5.3); what cannot be read counts as not accepted.
func acceptedCodings(values []string) map[string]float64 {
	out := map[string]float64{}
	for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
		coding, params, _ := strings.Cut(part, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding == "" {
			continue
		}
		if coding == "x-gzip" {
			coding = "gzip"
		}
		q := 1.0
		if key, value, ok := strings.Cut(strings.TrimSpace(params), "="); ok && strings.EqualFold(strings.TrimSpace(key), "q") {
			var err error
			if q, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil || q < 0 || q > 1 {
				q = 0
			}
		}
		out[coding] = q
	}
	return out
}

// writeEncoding says which form is sent. Its length is said as well, since net/http leaves that out of packed answers; not
// where the answer may be an error without these bytes.
func writeEncoding(h http.Header, r *http.Request, f *channelsv1.Encoding) {
	h.Set("Content-Encoding", f.GetCoding())
	if r.Header.Get("If-Match") == "" && r.Header.Get("If-Unmodified-Since") == "" {
		h.Set("Content-Length", strconv.FormatInt(f.GetSize(), 10))
	}
}
