package dist

import (
	"net/url"
	"strings"
)

// WithoutSecrets returns a location of a channel or package as it may be written down: into a lock, a record of conda-meta,
// an archive or an image, which others will read. What is left out is the user information, the query, and the token that
// conda servers take in the path as /t/<token>/. Who fetches from there again has credentials in a configuration.
//
// All else stays byte for byte, so that a location without secrets is the same as before. Paths and file: URLs have none.
func WithoutSecrets(location string) string {
	scheme, rest, ok := strings.Cut(location, "://")
	if !ok || strings.EqualFold(scheme, "file") {
		return location
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	if fragment != "" {
		fragment = "#" + fragment // a digest, in explicit lists
	}
	rest, _, _ = strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	if len(host) < len(rest) {
		path = "/" + path
	}
	return scheme + "://" + host[strings.LastIndexByte(host, '@')+1:] + withoutToken(path) + fragment
}

// withoutToken takes t/<token> out of a path. What follows a channel that is called t is a subdir, and no token.
func withoutToken(path string) string {
	segments := strings.Split(path, "/")
	kept := segments[:0]
	for i := 0; i < len(segments); i++ {
		if i+1 < len(segments) && unescaped(segments[i]) == "t" && segments[i+1] != "" && !KnownSubdir(segments[i+1]) {
			i++
			continue
		}
		kept = append(kept, segments[i])
	}
	return strings.Join(kept, "/")
}

// unescaped is what a server reads of a segment.
func unescaped(segment string) string {
	if s, err := url.PathUnescape(segment); err == nil {
		return s
	}
	return segment
}
