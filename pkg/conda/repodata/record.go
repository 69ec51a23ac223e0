package repodata

import (
	"fmt"
)

// NoArch says how a package that fits every platform is installed.
type NoArch string

const (
	NoArchNone    NoArch = ""        // built for one platform
	NoArchGeneric NoArch = "generic" // files are linked as they are
	NoArchPython  NoArch = "python"  // files go to the site-packages of whichever Python is there
)

// Record is a typed view of one repodata record (CEP 36, with the additions of CEP 17, 44, 45 and 47).
// Keys it does not know, and the spelling of those it does, are in Raw.
type Record struct {
	Name        string
	Version     string
	Build       string
	BuildNumber uint64

	Depends      []string            // match specs; nil if the record has none
	Constrains   []string            // match specs
	ExtraDepends map[string][]string // by group (CEP 44)
	Flags        []string            // CEP 45

	Subdir string
	NoArch NoArch
	// Timestamp is when the package was built, in milliseconds since 1970 whatever unit the record has; 0 if unknown.
	Timestamp int64
	// IndexedTimestamp is when a channel first listed the package, in milliseconds (CEP 47); 0 if unknown.
	IndexedTimestamp int64

	TrackFeatures []string
	Features      string
	License       string
	LicenseFamily string

	Size   uint64 // bytes; 0 if unknown
	MD5    string // lower-case hex; empty if unknown
	SHA256 string // lower-case hex; empty if unknown

	LegacyBz2MD5  string // of the .tar.bz2 twin
	LegacyBz2Size uint64

	PythonSitePackagesPath string // relative to the prefix (CEP 17)
	Arch                   string // legacy; Subdir counts
	Platform               string // legacy; Subdir counts
	URL                    string // only in whl records; absolute or relative to the base URL
	Revoked                bool   // set by a patch: must not be installed

	// RunExports is the raw JSON of run_exports where the record carries them, as in shards (CEP 21).
	// nil is "unknown", {} is "none".
	RunExports []byte

	// Raw is the record as it was parsed, byte for byte. It aliases the argument of ParseRecord.
	Raw []byte
}

// secondsBelow: a smaller timestamp counts seconds (1e11 s is the year 5138, 1e11 ms is 1973, before any package).
const secondsBelow = 1e11

// ParseRecord reads a record whose JSON syntax is known to be right: from Read, ParseShard or HostedRecord.
//
// It tolerates what real channels contain: noarch as a string, boolean, null or empty; depends absent or null;
// track_features as list or as one string; null digests; timestamps in seconds. Informational keys of the wrong type
// (license, arch, …) are left empty. Anything else that a solver would stumble over is an *Error naming the key.
func ParseRecord(raw []byte) (Record, error) {
	r := Record{Raw: raw}
	var noarch, timestamp []byte
	o := scanObject(raw)
	for o.next() {
		v := o.value()
		var err error
		switch string(o.key) {
		case "name":
			r.Name, err = needString(v)
		case "version":
			r.Version, err = needString(v)
		case "build":
			r.Build, err = needString(v)
		case "build_number":
			r.BuildNumber, err = asUint(v)
		case "depends":
			r.Depends, err = stringList(v)
		case "constrains":
			r.Constrains, err = stringList(v)
		case "extra_depends":
			r.ExtraDepends, err = stringLists(v)
		case "flags":
			r.Flags, err = stringList(v)
		case "subdir":
			r.Subdir = maybeString(v)
		case "noarch":
			noarch = v
		case "timestamp":
			timestamp = v
		case "indexed_timestamp":
			r.IndexedTimestamp, err = asMillis(v)
		case "track_features":
			r.TrackFeatures, err = features(v)
		case "features":
			r.Features = maybeString(v)
		case "license":
			r.License = maybeString(v)
		case "license_family":
			r.LicenseFamily = maybeString(v)
		case "size":
			r.Size, err = asUint(v)
		case "md5":
			r.MD5, err = hexDigest(v, 16)
		case "sha256":
			r.SHA256, err = hexDigest(v, 32)
		case "legacy_bz2_md5":
			r.LegacyBz2MD5, err = hexDigest(v, 16)
		case "legacy_bz2_size":
			r.LegacyBz2Size, err = asUint(v)
		case "python_site_packages_path":
			r.PythonSitePackagesPath = maybeString(v)
		case "arch":
			r.Arch = maybeString(v)
		case "platform":
			r.Platform = maybeString(v)
		case "url":
			r.URL = maybeString(v)
		case "revoked":
			r.Revoked = string(v) == "true"
		case "run_exports":
			r.RunExports = v
		}
		if err != nil {
			return Record{}, &Error{Path: pointer(string(o.key)), Msg: fmt.Sprintf("%s: %v", o.key, err)}
		}
	}
	if o.err != nil {
		return Record{}, &Error{Msg: o.err.Error()}
	}
	var err error
	if r.NoArch, err = parseNoArch(noarch); err != nil {
		return Record{}, &Error{Path: "/noarch", Msg: "noarch: " + err.Error()}
	}
	if r.Timestamp, err = asMillis(timestamp); err != nil {
		return Record{}, &Error{Path: "/timestamp", Msg: "timestamp: " + err.Error()}
	}
	if r.Name == "" {
		return Record{}, &Error{Path: "/name", Msg: "record has no name"}
	}
	if r.Version == "" {
		return Record{}, &Error{Path: "/version", Msg: "record has no version"}
	}
	return r, nil
}
