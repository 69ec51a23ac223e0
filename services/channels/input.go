package channels

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

const (
	maxDescription = 300 // characters
	defaultTTL     = 36000
	// maxTTL is about 68 years: what caches take for "for ever" without overflowing.
	maxTTL = 1<<31 - 1
	maxURL = 2048
	// maxListItems and maxListItem bound the lists of a mirror, which every sync walks for every file.
	maxListItems = 10_000
	maxListItem  = 256
)

func checkDescription(s string) error {
	if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
		return fault.Field("description", "must be UTF-8 text")
	}
	if utf8.RuneCountInString(s) > maxDescription {
		return fault.Field("description", "String should have at most %d characters", maxDescription)
	}
	return nil
}

func checkTTL(ttl int64) error {
	if ttl < 0 || ttl > maxTTL {
		return fault.Field("ttl", "must be between 0 and %d seconds", maxTTL)
	}
	return nil
}

func checkSizeLimit(n int64) error {
	if n < 0 {
		return fault.Field("size_limit", "must be positive value")
	}
	return nil
}

// checkMirror checks the settings of a mirror or proxy, whose fields may have been set one by one.
func checkMirror(m *channelsv1.MirrorSettings) error {
	if err := checkMirrorURL(m.GetUrl()); err != nil {
		return err
	}
	if _, ok := channelsv1.RemovalPolicy_name[int32(m.GetRemovalPolicy())]; !ok {
		return fault.Field("mirror.removal_policy", "is not known")
	}
	for field, list := range map[string][]string{"includelist": m.GetIncludelist(), "excludelist": m.GetExcludelist(), "proxylist": m.GetProxylist()} {
		if len(list) > maxListItems {
			return fault.Field("mirror."+field, "has more than %d items", maxListItems)
		}
		for _, item := range list {
			if item == "" || len(item) > maxListItem || !isText(item) {
				return fault.Field("mirror."+field, "an item must have 1 to %d characters", maxListItem)
			}
		}
	}
	for _, subdir := range m.GetSubdirs() {
		if err := dist.CheckSubdir(subdir); err != nil {
			return fault.Field("mirror.subdirs", "%w", err)
		}
	}
	if len(m.GetSubdirs()) != len(slices.Compact(slices.Sorted(slices.Values(m.GetSubdirs())))) {
		return fault.Field("mirror.subdirs", "a subdir is there twice")
	}
	return nil
}

func checkMirrorURL(s string) error {
	const field = "mirror.url"
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return fault.Field(field, "String should match pattern '^(http|https)://.+'")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || len(s) > maxURL:
		return fault.Field(field, "must be an http or https URL of at most %d characters", maxURL)
	case u.User != nil:
		// It would be stored in the clear and shown to whoever reads the channel.
		return fault.Field(field, "must not hold credentials: "+credentialsHint)
	case strings.Contains(u.Path, "/t/"):
		// The same for conda's way to put a key into the path.
		return fault.Field(field, "must not hold credentials, which /t/<token>/ is: "+credentialsHint)
	case u.RawQuery != "" || u.Fragment != "":
		return fault.Field(field, "must have neither query nor fragment")
	}
	if err := fetch.CheckURL(s); err != nil {
		return fault.Field(field, "%w", err)
	}
	return nil
}

// credentialsHint says where they belong. Only a new channel's URL may bring its own.
const credentialsHint = "set them with `entrepot channel remote`"

func parsePackage(s string) (string, error) {
	name, err := names.ParsePackage(s)
	return name.String(), err
}

const (
	defaultPage = 50
	maxPage     = 1000
)

// page is which part of a list is asked for.
type page struct {
	size  int
	skip  int64
	after string // the last key of the page before
}

// parsePage reads a list's paging fields. Tokens are not to be understood by callers; they hold the key that the page
// before ended with.
func parsePage(size int32, skip int64, token string) (page, error) {
	p := page{size: int(size), skip: skip}
	switch {
	case size < 0:
		return p, fault.Field("page_size", "must not be negative")
	case size == 0:
		p.size = defaultPage
	case size > maxPage:
		p.size = maxPage
	}
	if skip < 0 {
		return p, fault.Field("skip", "must not be negative")
	}
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(raw) == 0 || !isText(string(raw)) {
			return p, badToken()
		}
		p.after = string(raw)
	}
	return p, nil
}

func badToken() error { return fault.Field("page_token", "is not from a former answer") }

func tokenOf(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

// offset reads the token of a list whose order has no key: it counts.
func (p page) offset() (int64, error) {
	if p.after == "" {
		return p.skip, nil
	}
	n, err := strconv.ParseInt(p.after, 10, 64)
	if err != nil || n < 0 {
		return 0, badToken()
	}
	return n + p.skip, nil
}

// likePart makes a search text harmless: what PostgreSQL cannot hold matches nothing anyway.
func likePart(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "") }
