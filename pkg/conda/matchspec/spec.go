package matchspec

import (
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// Spec is a parsed match spec. Zero fields select everything. Treat it as immutable: parsed specs are shared.
type Spec struct {
	Channel   Pattern // name or URL, without the subdir; see Candidate.Channel
	Subdir    Pattern
	Namespace string  // held for the future by CEP 29: read, never used
	Name      Pattern // lower case; a glob or a regular expression only in queries, never in dependencies

	Version     version.Spec
	Build       Pattern
	BuildNumber Numbers

	FileName      Pattern
	URL           string // of one file
	MD5           string // lower case
	SHA256        string // lower case
	License       Pattern
	LicenseFamily Pattern
	Features      Pattern
	TrackFeatures Pattern // one of the record's features must match

	Extras []string   // optional dependency groups to add (CEP 44), as written
	Flags  []Pattern  // each must match a flag of the record (CEP 45)
	When   *Condition // the spec counts only while this holds (CEP 43); nil is always

	source   string
	whenText string
}

// Candidate is what a spec is compared with: the fields of a repodata record, and where the record came from.
// Unknown fields are zero; a spec that asks for one of those does not match.
type Candidate struct {
	Name        string
	Version     version.Version
	Build       string
	BuildNumber uint64
	// Channel is the channel's name or URL without the subdir. A spec that names "conda-forge" matches the URL
	// https://host/conda-forge, too.
	Channel       string
	Subdir        string
	FileName      string
	URL           string
	MD5           string // lower-case hex
	SHA256        string // lower-case hex
	License       string
	LicenseFamily string
	Features      string
	TrackFeatures []string
	Flags         []string
}

// String returns the text that was parsed, without surrounding white space.
func (s *Spec) String() string { return s.source }

// ExactName returns the name if the spec selects a single one.
func (s *Spec) ExactName() (string, bool) { return s.Name.Exact() }

// Match reports whether the spec selects the candidate. When and Extras are no properties of a candidate and are not
// looked at; see [Condition].
func (s *Spec) Match(c *Candidate) bool {
	return s.Name.Match(c.Name) && s.MatchNamed(c)
}

// MatchNamed is Match for a candidate whose name is known to fit.
func (s *Spec) MatchNamed(c *Candidate) bool {
	if !s.Version.IsZero() && !s.Version.Match(c.Version) {
		return false
	}
	return s.MatchAfterVersion(c)
}

// MatchAfterVersion is Match for a candidate whose name and version are known to fit: a caller with many candidates of
// few versions compares each version once.
func (s *Spec) MatchAfterVersion(c *Candidate) bool {
	if !s.Build.Match(c.Build) || !s.BuildNumber.Match(c.BuildNumber) {
		return false
	}
	if s.MD5 != "" && s.MD5 != c.MD5 || s.SHA256 != "" && s.SHA256 != c.SHA256 {
		return false
	}
	if s.URL != "" && c.URL != "" {
		// The URL says channel, subdir and file name more exactly than the fields that were derived from it.
		if s.URL != c.URL {
			return false
		}
	} else if !s.Subdir.Match(c.Subdir) || !s.FileName.Match(c.FileName) || !s.matchChannel(c.Channel) {
		return false
	}
	if !s.License.Match(c.License) || !s.LicenseFamily.Match(c.LicenseFamily) || !s.Features.Match(c.Features) {
		return false
	}
	if !s.TrackFeatures.IsZero() && !s.TrackFeatures.matchAny(c.TrackFeatures) {
		return false
	}
	for _, f := range s.Flags {
		if !f.matchAny(c.Flags) {
			return false
		}
	}
	return true
}

func (s *Spec) matchChannel(channel string) bool { return MatchChannel(s.Channel, channel) }

// MatchChannel reports whether a pattern of a spec means the channel, given by name or URL. A trailing slash never
// matters, and a plain name matches the last components of a URL.
func MatchChannel(p Pattern, channel string) bool {
	if p.IsZero() {
		return true
	}
	channel = strings.TrimRight(channel, "/")
	want, exact := p.Exact()
	if !exact {
		return p.Match(channel)
	}
	want = strings.TrimRight(want, "/")
	if strings.EqualFold(want, channel) {
		return true
	}
	return !strings.Contains(want, "://") && want != "" && strings.HasSuffix(channel, "/"+want)
}

// ParseError says why a text is no match spec, and where.
type ParseError struct {
	Text   string // what was parsed, as given
	Pos    int    // byte offset into Text of what is wrong
	Reason string // in words
	Err    error  // the cause in a part of the spec, or nil
}

// Error implements error.
func (e *ParseError) Error() string {
	text := e.Text
	if len(text) > 120 {
		text = text[:120] + "…"
	}
	return fmt.Sprintf("invalid match spec %q at offset %d: %s", text, e.Pos, e.Reason)
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// WithoutCondition returns the spec without what only matters to a solver, its condition and its extras: what is left
// selects packages.
func (s Spec) WithoutCondition() Spec {
	s.When, s.whenText, s.Extras = nil, "", nil
	return s
}
