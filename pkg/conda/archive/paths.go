package archive

import (
	"strings"
)

// PathType is how the installer puts a path into an environment.
type PathType string

// The types of paths in a package.
const (
	PathHardLink  PathType = "hardlink" // a file; linked or copied
	PathSoftLink  PathType = "softlink"
	PathDirectory PathType = "directory" // an empty directory
)

// FileMode is how a placeholder is replaced in a file.
type FileMode string

// Text files get the new prefix as it is; in binary files the length of every
// C string is kept.
const (
	ModeText   FileMode = "text"
	ModeBinary FileMode = "binary"
)

// Paths is info/paths.json (CEP 34).
type Paths struct {
	Version int         `json:"paths_version"`
	Paths   []PathEntry `json:"paths"`
}

// PathEntry is one path of a package.
type PathEntry struct {
	Path string   `json:"_path"` // relative to the prefix, with forward slashes
	Type PathType `json:"path_type,omitzero"`
	// SHA256, in hex, and Size are of the content, for soft links of the
	// target's content (or of the link's text: tools differ). Both are empty
	// if unknown.
	SHA256 string `json:"sha256,omitzero"`
	Size   *int64 `json:"size_in_bytes,omitzero"`
	// Placeholder is the prefix that the build wrote into the file, Mode how
	// to replace it. Both are empty if there is nothing to replace.
	Placeholder string   `json:"prefix_placeholder,omitzero"`
	Mode        FileMode `json:"file_mode,omitzero"`
	NoLink      bool     `json:"no_link,omitzero"` // copy, never link
}

// legacyPlaceholder is what has_prefix means where it names none.
const legacyPlaceholder = "/opt/anaconda1anaconda2anaconda3"

// Paths returns the package's list of paths: paths.json, or for packages from
// before it the legacy files. The latter cannot tell links from files, so all
// types are hardlink there. Read the package with KeepPaths.
func (i *Info) Paths(lim Limits) ([]PathEntry, error) {
	lim = lim.withDefaults()
	if i.PathsJSON != nil {
		return ParsePaths(i.PathsJSON, lim)
	}
	prefixes, err := ParseHasPrefix(i.HasPrefix)
	if err != nil {
		return nil, err
	}
	noLink := map[string]bool{}
	for _, p := range lines(i.NoLink) {
		noLink[p] = true
	}
	var entries []PathEntry
	for _, p := range lines(i.Files) {
		e := prefixes[p]
		e.Path, e.Type, e.NoLink = p, PathHardLink, noLink[p]
		entries = append(entries, e)
	}
	return entries, checkPaths(filesFile, entries, lim)
}

// ParsePaths reads paths.json, fills in the defaults and checks every path.
func ParsePaths(data []byte, lim Limits) ([]PathEntry, error) {
	lim = lim.withDefaults()
	var p Paths
	if err := decodeJSON(pathsFile, data, lim, &p); err != nil {
		return nil, err
	}
	if p.Version != 1 {
		return nil, refuse(pathsFile, "paths_version", "it is %d; only 1 is known", p.Version)
	}
	for i := range p.Paths {
		e := &p.Paths[i]
		switch e.Type {
		case "":
			e.Type = PathHardLink
		case PathHardLink, PathSoftLink, PathDirectory:
		default:
			return nil, refuse(pathsFile, "path_type", "%s of %s is not known", quote(string(e.Type)), quote(e.Path))
		}
		switch e.Mode {
		case "":
			if e.Placeholder != "" {
				e.Mode = ModeText
			}
		case ModeText, ModeBinary:
		default:
			return nil, refuse(pathsFile, "file_mode", "%s of %s is not known", quote(string(e.Mode)), quote(e.Path))
		}
		if e.SHA256 != "" && !isHexDigest(e.SHA256) {
			return nil, refuse(pathsFile, "sha256", "that of %s is not 64 lower-case hex digits", quote(e.Path))
		}
	}
	return p.Paths, checkPaths(pathsFile, p.Paths, lim)
}

func isHexDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func checkPaths(member string, entries []PathEntry, lim Limits) error {
	if len(entries) > lim.MaxEntries {
		return refuse(member, "", "more than %d paths", lim.MaxEntries)
	}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		clean, reason := cleanPath(e.Path)
		if reason == "" && (clean != e.Path || clean == ".") {
			reason = "it is not clean"
		}
		if reason != "" {
			return refuse(member, "_path", "%s: %s", quote(e.Path), reason)
		}
		if first, _, _ := strings.Cut(fold(clean), "/"); first == "conda-meta" {
			return refuse(member, "_path", "%s: conda-meta/ belongs to the environment", quote(e.Path))
		}
		if seen[clean] {
			return refuse(member, "_path", "%s is listed twice", quote(e.Path))
		}
		seen[clean] = true
	}
	return nil
}

func lines(data []byte) []string {
	var out []string
	for l := range strings.Lines(string(data)) {
		if l = strings.TrimRight(l, "\r\n"); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// ParseHasPrefix reads the legacy info/has_prefix. A line is either a path,
// which means text with the oldest placeholder, or "placeholder mode path"; any
// of them may stand in quotes. The result maps paths to entries in which only
// Placeholder and Mode are set.
func ParseHasPrefix(data []byte) (map[string]PathEntry, error) {
	out := map[string]PathEntry{}
	for _, l := range lines(data) {
		words, ok := quotedWords(l)
		switch {
		case ok && len(words) == 1 && words[0] != "":
			out[words[0]] = PathEntry{Placeholder: legacyPlaceholder, Mode: ModeText}
		case ok && len(words) == 3 && words[0] != "" && words[2] != "" && (words[1] == string(ModeText) || words[1] == string(ModeBinary)):
			out[words[2]] = PathEntry{Placeholder: words[0], Mode: FileMode(words[1])}
		default:
			return nil, refuse(hasPrefixFile, "", "the line %s is neither a path nor placeholder, mode and path", quote(l))
		}
	}
	return out, nil
}

// quotedWords splits at white space outside of quotes. A backslash is a plain
// character: Windows paths stand here.
func quotedWords(s string) ([]string, bool) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return words, true
		}
		if q := s[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(s[1:], q)
			if end < 0 {
				return nil, false
			}
			words, s = append(words, s[1:1+end]), s[end+2:]
			continue
		}
		end := strings.IndexAny(s, " \t")
		if end < 0 {
			end = len(s)
		}
		words, s = append(words, s[:end]), s[end:]
	}
}
