package fetch

import (
	"net/url"
	"strings"
)

// publicQuery are the query keys whose values help whoever reads an error and are never secret. All other values are
// hidden: what a stranger's signed URL calls its signature cannot be known.
var publicQuery = map[string]bool{
	"repo": true, "arch": true, "path": true, "country": true, "protocol": true, "limit": true, "skip": true, "offset": true,
	"page": true, "format": true, "version": true, "release": true, "infra": true, "content": true,
}

// Redact makes a URL fit for messages, logs and spans: without user information and fragment, with *** for a token in
// the path (/t/<token>/) and for the values in the query.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	return redactURL(u)
}

func redactURL(u *url.URL) string {
	var b strings.Builder
	if u.Scheme != "" {
		b.WriteString(u.Scheme + ":")
	}
	if u.Opaque != "" {
		b.WriteString("***")
		return b.String()
	}
	if u.Host != "" {
		b.WriteString("//" + (&url.URL{Host: u.Host}).String()[2:])
	}
	b.WriteString(redactPath(u.EscapedPath()))
	if u.RawQuery != "" {
		b.WriteByte('?')
		for i, kv := range strings.Split(u.RawQuery, "&") {
			if i > 0 {
				b.WriteByte('&')
			}
			k, _, found := strings.Cut(kv, "=")
			switch {
			case found && publicQuery[k]:
				b.WriteString(kv)
			case found:
				b.WriteString(k + "=***")
			default: // a bare token, as SLES repositories have it
				b.WriteString("***")
			}
		}
	}
	const most = 500 // a message stays a line
	if s := b.String(); len(s) > most {
		return s[:most] + "…"
	}
	return b.String()
}

func redactPath(p string) string {
	if !strings.Contains(p, "/t/") {
		return p
	}
	segs := strings.Split(p, "/")
	for i := 0; i+1 < len(segs); i++ {
		if segs[i] == "t" && segs[i+1] != "" {
			segs[i+1] = "***"
		}
	}
	return strings.Join(segs, "/")
}
