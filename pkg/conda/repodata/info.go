package repodata

import (
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Info is the "info" object of a repodata document (CEP 36), of a shard index (CEP 16) where noted.
type Info struct {
	Subdir  string
	BaseURL string // CEP 15: put before file names; absolute, or relative to the document

	RepodataRevisions jsontext.Value // CEP 48: {"v3": {message, n_packages, newest, oldest}}; raw, nil if absent
	ChannelRelations  jsontext.Value // CEP 42; raw, nil if absent

	Extra []Member // all other keys, the deprecated arch and platform among them
}

// parseInfo reads the object raw, whose syntax is known to be right.
func parseInfo(raw []byte) (Info, error) {
	var in Info
	o := scanObject(raw)
	for o.next() {
		v := append(jsontext.Value(nil), o.value()...)
		switch string(o.key) {
		case "subdir":
			in.Subdir = maybeString(v)
		case "base_url":
			in.BaseURL = maybeString(v)
		case "repodata_revisions":
			in.RepodataRevisions = v
		case "channel_relations":
			in.ChannelRelations = v
		default:
			in.Extra = append(in.Extra, Member{string(o.key), v})
		}
	}
	if o.err != nil {
		return Info{}, errors.New("info is not an object")
	}
	return in, nil
}

// check refuses what would not make a JSON object when written.
func (in Info) check() error {
	seen := map[string]bool{"subdir": true, "base_url": true, "repodata_revisions": true, "channel_relations": true}
	members := append([]Member{{Raw: in.RepodataRevisions}, {Raw: in.ChannelRelations}}, in.Extra...)
	for i, m := range members {
		if i >= 2 {
			if seen[m.Key] {
				return &Error{Path: pointer("info", m.Key), Msg: "key is there twice"}
			}
			seen[m.Key] = true
		} else if m.Raw == nil {
			continue
		}
		if !jsontext.Value(m.Raw).IsValid() {
			return &Error{Path: pointer("info", m.Key), Msg: "value is not valid JSON"}
		}
	}
	return nil
}

// append writes the object with sorted keys, absent ones left out.
func (in Info) append(dst []byte) []byte {
	members := append([]Member(nil), in.Extra...)
	members = append(members, Member{"subdir", appendQuoted(nil, in.Subdir)})
	if in.BaseURL != "" {
		members = append(members, Member{"base_url", appendQuoted(nil, in.BaseURL)})
	}
	if in.RepodataRevisions != nil {
		members = append(members, Member{"repodata_revisions", in.RepodataRevisions})
	}
	if in.ChannelRelations != nil {
		members = append(members, Member{"channel_relations", in.ChannelRelations})
	}
	return appendObject(dst, members)
}

// Version is the repodata_version a document with this info must carry: 2 with a base URL (CEP 15), else 1.
func (in Info) Version() int {
	if in.BaseURL != "" {
		return 2
	}
	return 1
}

func parseVersion(raw []byte) (int, bool) {
	n, err := strconv.Atoi(string(raw))
	return n, err == nil
}
