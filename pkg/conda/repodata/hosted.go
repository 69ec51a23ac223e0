package repodata

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// FileFacts is what a channel knows about a package file beside its info/index.json.
type FileFacts struct {
	Size   int64    // bytes
	MD5    [16]byte // of the archive
	SHA256 [32]byte // of the archive
	// Subdir the file is listed under. Empty: what index.json says, else what its arch and platform imply.
	Subdir string
	// IndexedTimestamp is when the channel first listed the file, in milliseconds (CEP 47); 0 leaves the key out.
	IndexedTimestamp int64
	// TimeModified is when the file was last written, in seconds, a key of Quetz's records; 0 leaves it out.
	TimeModified int64
}

// HostedRecord builds the record of a package that a channel holds itself: the keys of info/index.json with their
// values as spelled there, plus size, md5, sha256, subdir and the optional times; compact, keys sorted.
// What the file says about itself never overrides what was measured.
func HostedRecord(indexJSON []byte, f FileFacts) ([]byte, error) {
	compact, err := Compact(indexJSON)
	if err != nil {
		return nil, err
	}
	var c checker
	if path, msg, ok := c.record(compact, true); !ok {
		return nil, &Error{Path: path, Msg: "info/index.json: " + msg}
	}
	subdir := f.Subdir
	if subdir == "" {
		if subdir, err = IndexSubdir(compact); err != nil {
			return nil, err
		}
	}
	sub, err := jsontext.AppendQuote(nil, subdir)
	if err != nil {
		return nil, &Error{Path: "/subdir", Msg: err.Error()}
	}
	facts := []Member{
		{"md5", appendHexString(nil, f.MD5[:])},
		{"sha256", appendHexString(nil, f.SHA256[:])},
		{"size", strconv.AppendInt(nil, f.Size, 10)},
		{"subdir", sub},
	}
	if f.IndexedTimestamp != 0 {
		facts = append(facts, Member{"indexed_timestamp", strconv.AppendInt(nil, f.IndexedTimestamp, 10)})
	}
	if f.TimeModified != 0 {
		facts = append(facts, Member{"time_modified", strconv.AppendInt(nil, f.TimeModified, 10)})
	}
	members := slices.Clone(facts)
	o := scanObject(compact)
	for o.next() {
		key := string(o.key)
		if key == "indexed_timestamp" || slices.ContainsFunc(facts, func(m Member) bool { return m.Key == key }) {
			continue // CEP 47: only the server may say when it listed a package
		}
		members = append(members, Member{key, o.value()})
	}
	return appendObject(nil, members), nil
}

// IndexSubdir is the subdir a package's own index.json asks for: its subdir, else arch and platform, else noarch.
func IndexSubdir(indexJSON []byte) (string, error) {
	r, err := ParseRecord(indexJSON)
	if err != nil {
		return "", err
	}
	switch {
	case r.Subdir != "":
		return r.Subdir, nil
	case r.NoArch != NoArchNone || r.Platform == "" && r.Arch == "":
		return "noarch", nil
	case r.Platform == "" || r.Arch == "":
		return "", &Error{Path: "/subdir", Msg: "info/index.json has neither subdir nor both of arch and platform"}
	}
	arch := r.Arch
	switch arch { // conda's names for the two oldest architectures
	case "x86_64":
		arch = "64"
	case "x86":
		arch = "32"
	}
	return r.Platform + "-" + arch, nil
}

// Member is a key of a JSON object with its raw value.
type Member struct {
	Key string
	Raw []byte
}

// appendObject writes members as a compact object with sorted keys.
func appendObject(dst []byte, members []Member) []byte {
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Key, b.Key) })
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, m.Key)
		dst = append(dst, ':')
		dst = append(dst, bytes.TrimSpace(m.Raw)...)
	}
	return append(dst, '}')
}

// appendQuoted writes s as a JSON string; what is not UTF-8 in it becomes U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

func appendHexString(dst, digest []byte) []byte {
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, digest)
	return append(dst, '"')
}
