package sync

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

const (
	// maxSecret bounds each text of a remote; the longest tokens in use, signed ones, have some kilobytes.
	maxSecret = 16 << 10
	// maxBundle bounds CA bundles and client certificates; all authorities of a system together have 220 KiB.
	maxBundle = 256 << 10
)

// sealPurpose binds sealed settings to their channel.
func sealPurpose(channel uuid.UUID) string { return "remote/" + channel.String() }

// sealStored seals settings for the database. Fields that a newer version knows are kept, as protobuf keeps them.
func sealStored(master *seal.Key, channel uuid.UUID, st *syncv1.StoredRemote) ([]byte, error) {
	if master == nil {
		return nil, noMasterKey()
	}
	raw, err := proto.Marshal(st)
	if err != nil {
		return nil, err
	}
	return master.Seal(raw, sealPurpose(channel)), nil
}

func openStored(master *seal.Key, channel uuid.UUID, sealed []byte) (*syncv1.StoredRemote, error) {
	if master == nil {
		return nil, noMasterKey()
	}
	raw, err := master.Open(sealed, sealPurpose(channel))
	if err != nil {
		return nil, err
	}
	st := new(syncv1.StoredRemote)
	if err := proto.Unmarshal(raw, st); err != nil {
		return nil, fault.New(fault.Internal, "the settings of a remote cannot be read") // err could quote them
	}
	return st, nil
}

func noMasterKey() error {
	return fault.New(fault.Precondition, "this process has no master key to keep an upstream's credentials with; give it the one of the identity service with --master-key-file").WithReason(ReasonNoMasterKey)
}

// secretFields are what a stranger's server could take if it stood in the upstream's place.
var secretFields = []string{"password", "bearer_token", "header_value", "path_token"}

// hasCredentials reports whether requests carry anything that belongs to the upstream's origin alone.
func hasCredentials(s *syncv1.RemoteSettings) bool {
	return s.GetUsername() != "" || s.GetPassword() != "" || s.GetBearerToken() != "" || s.GetHeader() != "" || s.GetPathToken() != "" || s.GetClientKey() != ""
}

// forOrigin refuses credentials that were given for another server. Whoever may change a channel's URL, but does not
// know its secrets, must not have them sent to a server of his own.
func forOrigin(channel string, st *syncv1.StoredRemote, url string) error {
	if !hasCredentials(st.GetSettings()) || fetch.Origin(url) == st.GetOrigin() {
		return nil
	}
	return fault.New(fault.Precondition, "the credentials of channel %s were given for %s, and its URL is now at %s: set them anew, or clear them, with entrepot channel remote %s",
		channel, st.GetOrigin(), fetch.Origin(url), channel).WithReason(ReasonRemoteOrigin)
}

// merge returns old with the fields that the paths name taken from set, and the names of those fields. "*" names all.
func merge(old, set *syncv1.RemoteSettings, paths []string) (*syncv1.RemoteSettings, []string, error) {
	if len(paths) == 0 {
		return nil, nil, fault.Field("update_mask", "must name what to change")
	}
	out := proto.CloneOf(old)
	if out == nil {
		out = new(syncv1.RemoteSettings)
	}
	if set == nil {
		set = new(syncv1.RemoteSettings)
	}
	fields := out.ProtoReflect().Descriptor().Fields()
	var changed []string
	if slices.Contains(paths, "*") {
		paths = nil
		for i := range fields.Len() {
			paths = append(paths, string(fields.Get(i).Name()))
		}
	}
	for _, p := range paths {
		f := fields.ByName(protoreflect.Name(p))
		if f == nil {
			return nil, nil, fault.Field("update_mask", "%.40q is not a setting of a remote", p)
		}
		if slices.Contains(changed, p) {
			continue
		}
		out.ProtoReflect().Set(f, set.ProtoReflect().Get(f))
		changed = append(changed, p)
	}
	slices.Sort(changed)
	return out, changed, nil
}

// checkWay refuses a new proxy or new authorities, which can both make somebody else the upstream, for credentials that
// were given before: they must be given again, by somebody who knows them.
func checkWay(old, now *syncv1.RemoteSettings, changed []string) error {
	field := ""
	switch {
	case now.GetProxyUrl() != "" && now.GetProxyUrl() != old.GetProxyUrl():
		field = "proxy_url"
	case now.GetCaBundle() != "" && now.GetCaBundle() != old.GetCaBundle():
		field = "ca_bundle"
	default:
		return nil
	}
	for _, name := range secretFields {
		f := now.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
		if now.ProtoReflect().Has(f) && !slices.Contains(changed, name) {
			return fault.Field("settings."+field, "a new %s could be used to read the %s that is set; give that again in the same request, or clear it",
				spoken(field), spoken(name)).WithReason("CREDENTIALS_NEEDED")
		}
	}
	return nil
}

func spoken(field string) string {
	switch field {
	case "proxy_url":
		return "proxy"
	case "ca_bundle":
		return "CA bundle"
	}
	return strings.ReplaceAll(field, "_", " ")
}

// checkSettings names the field that cannot be used. It never quotes a value that may be secret.
func checkSettings(s *syncv1.RemoteSettings) error {
	for name, v := range map[string]string{
		"username": s.GetUsername(), "password": s.GetPassword(), "bearer_token": s.GetBearerToken(), "header": s.GetHeader(),
		"header_value": s.GetHeaderValue(), "path_token": s.GetPathToken(), "proxy_url": s.GetProxyUrl(),
	} {
		switch {
		case len(v) > maxSecret:
			return bad(name, "has more than %d bytes", maxSecret)
		case strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }):
			return bad(name, "holds a line break or another control character")
		}
	}
	kinds := 0
	for _, is := range []bool{s.GetUsername() != "" || s.GetPassword() != "", s.GetBearerToken() != "", s.GetHeader() != ""} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return bad("username", "only one of user name, bearer token and header can be set; clear the others")
	case s.GetHeaderValue() != "" && s.GetHeader() == "":
		return bad("header", "the header's name is missing")
	case s.GetHeader() != "" && s.GetHeaderValue() == "":
		return bad("header_value", "the header has no value")
	case s.GetPassword() != "" && s.GetUsername() == "":
		return bad("username", "a password needs a user name")
	case strings.Contains(s.GetUsername(), ":"):
		return bad("username", "must not hold a colon")
	case !httpguts.ValidHeaderFieldValue(s.GetBearerToken()) || strings.TrimSpace(s.GetBearerToken()) != s.GetBearerToken():
		return bad("bearer_token", "holds characters that cannot be sent")
	case s.GetHeader() != "" && (!httpguts.ValidHeaderFieldName(s.GetHeader()) || !fetch.SettableHeader(s.GetHeader())):
		return bad("header", "%.40q cannot be set", s.GetHeader())
	case s.GetRateBytes() < 0:
		return bad("rate_bytes", "must not be negative; 0 means no limit")
	case !(s.GetRateRequests() >= 0 && s.GetRateRequests() <= 1e6): // not NaN either
		return bad("rate_requests", "must lie between 0, which means no limit, and 1000000")
	}
	if t := s.GetPathToken(); t != "" {
		if c, err := names.CleanPath(t); err != nil || c != t || strings.Contains(t, "/") {
			return bad("path_token", "cannot be part of a path")
		}
	}
	if err := checkProxy(s.GetProxyUrl()); err != nil {
		return err
	}
	if err := checkPEM("ca_bundle", s.GetCaBundle()); err != nil {
		return err
	}
	return checkClientCert(s.GetClientCert(), s.GetClientKey())
}

func bad(name, format string, args ...any) error {
	return fault.Field("settings."+name, format, args...)
}

func checkProxy(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("proxy_url", "cannot be parsed") // err quotes it
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("proxy_url", "must begin with http:// or https://")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return bad("proxy_url", "must end after the port")
	}
	if err := fetch.CheckURL(raw); err != nil {
		return bad("proxy_url", "%w", err)
	}
	return nil
}

// checkPEM wants certificates and nothing else: what a library would silently skip is a mistake of whoever pasted it.
func checkPEM(field, text string) error {
	if len(text) > maxBundle {
		return bad(field, "has more than %d bytes", maxBundle)
	}
	rest := []byte(text)
	for n := 1; len(bytes.TrimSpace(rest)) > 0; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil:
			return bad(field, "is not PEM: there is something else than certificates in it")
		case block.Type != "CERTIFICATE":
			return bad(field, "block %d is a %.40s, not a CERTIFICATE", n, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return bad(field, "certificate %d cannot be read: %w", n, err)
		}
	}
	return nil
}

func checkClientCert(cert, key string) error {
	switch {
	case cert == "" && key == "":
		return nil
	case cert == "":
		return bad("client_cert", "the key's certificate is missing")
	case key == "":
		return bad("client_key", "the certificate's key is missing")
	case len(key) > maxBundle:
		return bad("client_key", "has more than %d bytes", maxBundle)
	}
	if err := checkPEM("client_cert", cert); err != nil {
		return err
	}
	if _, err := tls.X509KeyPair([]byte(cert), []byte(key)); err != nil {
		return bad("client_key", "is not the PEM key of the certificate") // err may quote it
	}
	return nil
}
