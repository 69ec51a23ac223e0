package install

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// LinkType is how most files of a package came into an environment, by conda's numbers.
type LinkType int

// The link types of CEP 32.
const (
	LinkHard      LinkType = 1
	LinkSoft      LinkType = 2
	LinkCopy      LinkType = 3
	LinkDirectory LinkType = 4
)

// Link says where a package was linked from.
type Link struct {
	Source string
	Type   LinkType
}

// PathType says what a path in an environment is: one of archive.PathType, or a file that the installer made.
type PathType string

// The types of paths in a record.
const (
	HardLink         PathType = "hardlink"
	SoftLink         PathType = "softlink"
	Directory        PathType = "directory"
	PycFile          PathType = "pyc_file"
	UnixEntryPoint   PathType = "unix_python_entry_point"
	WindowsScript    PathType = "windows_python_entry_point_script"
	WindowsExe       PathType = "windows_python_entry_point_exe"
	linkedPackageRec PathType = "linked_package_record" // of old condas: the record itself; never a file of the package
)

// Path is one path of an installed package.
type Path struct {
	Path string // relative to the prefix, with forward slashes
	// Original is where the file would lie if no other package had taken the place; empty if it lies there.
	Original string
	Type     PathType
	NoLink   bool
	// SHA256 is of the file in the package, InPrefix of the file as it was installed; the latter is empty if it is the
	// same. Those of symbolic links are of the target's content or of the link's text: tools differ.
	SHA256, InPrefix string
	Size             *int64
	Mode             string // how the placeholder was replaced: text, binary, or empty
	Placeholder      string
}

// Wanted is the path that the package asked for.
func (p *Path) Wanted() string {
	if p.Original != "" {
		return p.Original
	}
	return p.Path
}

// Record is a file of conda-meta: an installed package (CEP 32).
type Record struct {
	repodata.Record // Raw is that part of the file which came from the channel, unknown keys included

	FileName       string
	URL            string
	Channel        string // URL without the subdir
	ExtractedDir   string
	TarballPath    string
	RequestedSpecs []string
	Files          []string
	Paths          []Path
	PathsVersion   int
	Link           Link

	// hasPaths is false for records from before paths_data: Paths were made from Files then.
	hasPaths bool
}

// MetaName is the file name of the record in conda-meta.
func (r *Record) MetaName() string { return r.Name + "-" + r.Version + "-" + r.Build + ".json" }

// Stem is name, version and build, with dashes.
func (r *Record) Stem() string { return r.Name + "-" + r.Version + "-" + r.Build }

// own are the keys that are not the channel's.
var own = []string{
	"fn", "url", "channel", "extracted_package_dir", "package_tarball_full_path", "requested_spec", "requested_specs",
	"files", "paths_data", "link",
}

// ParseRecord reads a file of conda-meta. Paths are checked: each is relative, clean, and none is in conda-meta itself.
func ParseRecord(data []byte) (*Record, error) {
	fields := map[string]jsontext.Value{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, jsonError(err)
	}
	r := &Record{PathsVersion: 1}
	var err error
	text := func(key string, into *string) {
		if v := fields[key]; err == nil && len(v) > 0 && v.Kind() != 'n' {
			if uerr := json.Unmarshal(v, into); uerr != nil {
				err = fmt.Errorf("%s: %w", key, jsonError(uerr))
			}
		}
	}
	list := func(key string, into *[]string) {
		if v := fields[key]; err == nil && len(v) > 0 && v.Kind() != 'n' {
			if uerr := json.Unmarshal(v, into); uerr != nil {
				err = fmt.Errorf("%s: %w", key, jsonError(uerr))
			}
		}
	}
	text("fn", &r.FileName)
	text("url", &r.URL)
	text("channel", &r.Channel)
	text("extracted_package_dir", &r.ExtractedDir)
	text("package_tarball_full_path", &r.TarballPath)
	list("requested_specs", &r.RequestedSpecs)
	list("files", &r.Files)
	var one string
	text("requested_spec", &one)
	if one != "" && one != "None" && len(r.RequestedSpecs) == 0 { // the older form, and how conda spells null
		r.RequestedSpecs = []string{one}
	}
	if err != nil {
		return nil, err
	}
	if err := r.readLink(fields["link"]); err != nil {
		return nil, err
	}
	if err := r.readPaths(fields["paths_data"]); err != nil {
		return nil, err
	}
	for _, key := range own {
		delete(fields, key)
	}
	raw, err := json.Marshal(fields, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	if r.Record, err = repodata.ParseRecord(raw); err != nil {
		return nil, err
	}
	// The three become file names in conda-meta; a record is a file that anyone may have edited.
	if _, err := dist.New(r.Name, r.Version, r.Build, dist.Conda); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) readLink(v jsontext.Value) error {
	if len(v) == 0 || v.Kind() == 'n' {
		return nil
	}
	var l struct {
		Source string `json:"source"`
		Type   *int   `json:"type"`
	}
	if err := json.Unmarshal(v, &l); err != nil {
		return fmt.Errorf("link: %w", jsonError(err))
	}
	r.Link.Source = l.Source
	if l.Type != nil {
		r.Link.Type = LinkType(*l.Type)
	}
	return nil
}

func (r *Record) readPaths(v jsontext.Value) error {
	if len(v) > 0 && v.Kind() != 'n' {
		var d struct {
			Version *int `json:"paths_version"`
			Paths   []struct {
				Path        string   `json:"_path"`
				Original    *string  `json:"original_path"`
				Type        PathType `json:"path_type"`
				NoLink      *bool    `json:"no_link"`
				SHA256      *string  `json:"sha256"`
				InPrefix    *string  `json:"sha256_in_prefix"`
				Size        *int64   `json:"size_in_bytes"`
				Mode        *string  `json:"file_mode"`
				Placeholder *string  `json:"prefix_placeholder"`
			} `json:"paths"`
		}
		if err := json.Unmarshal(v, &d); err != nil {
			return fmt.Errorf("paths_data: %w", jsonError(err))
		}
		if d.Version != nil {
			r.PathsVersion = *d.Version
		}
		r.hasPaths = true
		r.Paths = make([]Path, 0, len(d.Paths))
		for _, e := range d.Paths {
			if e.Type == linkedPackageRec {
				continue
			}
			r.Paths = append(r.Paths, Path{
				Path: e.Path, Original: value(e.Original), Type: e.Type, NoLink: value(e.NoLink), SHA256: value(e.SHA256),
				InPrefix: value(e.InPrefix), Size: e.Size, Mode: value(e.Mode), Placeholder: value(e.Placeholder),
			})
		}
	} else {
		for _, f := range r.Files {
			r.Paths = append(r.Paths, Path{Path: f, Type: HardLink})
		}
	}
	for i := range r.Paths {
		for _, p := range []string{r.Paths[i].Path, r.Paths[i].Wanted()} {
			if err := checkPath(p); err != nil {
				return fmt.Errorf("paths_data: %w", err)
			}
		}
	}
	return nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// checkPath is for paths out of files that anybody may have written: what it lets pass stays below the prefix, as far as
// its text goes, and out of conda-meta.
func checkPath(p string) error {
	if p == "" || p[0] == '/' || strings.IndexByte(p, 0) >= 0 || len(p) > 4096 {
		return fmt.Errorf("%q is no path below the prefix", p)
	}
	for c := range strings.SplitSeq(p, "/") {
		if c == "" || c == "." || c == ".." {
			return fmt.Errorf("%q is no clean path below the prefix", p)
		}
	}
	if first, _, _ := strings.Cut(p, "/"); strings.EqualFold(first, metaDir) {
		return fmt.Errorf("%q: conda-meta belongs to the environment", p)
	}
	return nil
}

// jsonError drops the library's name, which says nothing to who has to mend the file.
func jsonError(err error) error {
	return errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "json: "), "jsontext: "))
}

// keptEmpty are keys that stay in a record even if their list is empty. Others go then: some generators write them as
// null, false or empty where others leave them out.
var keptEmpty = map[string]bool{"depends": true}

// Bytes writes the record as the field's other installer does: the channel's keys sorted, then those of the
// environment, two spaces deep, without a newline at the end. Keys that are not known are kept among the first.
func (r *Record) Bytes() ([]byte, error) {
	fields, err := recordFields(&r.Record)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 1024+400*len(r.Paths))
	b = append(b, '{')
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		b = appendKey(b, 1, key)
		if v := fields[key]; v.Kind() == '[' || v.Kind() == '{' {
			if v.Indent(jsontext.WithIndentPrefix("  "), jsontext.WithIndent("  ")) != nil {
				return nil, fmt.Errorf("%s: the value is broken", key)
			}
			b = append(b, bytes.TrimSpace(v)...)
		} else {
			b = append(b, v...)
		}
	}
	b = appendString(b, 1, "fn", r.FileName)
	b = appendString(b, 1, "url", r.URL)
	if r.Channel != "" {
		b = appendString(b, 1, "channel", r.Channel)
	}
	if r.TarballPath != "" {
		b = appendString(b, 1, "package_tarball_full_path", r.TarballPath)
	}
	if r.ExtractedDir != "" {
		b = appendString(b, 1, "extracted_package_dir", r.ExtractedDir)
	}
	b = appendList(b, "requested_specs", r.RequestedSpecs)
	b = appendList(b, "files", r.Files)
	b = appendKey(b, 1, "paths_data")
	b = append(b, '{')
	b = appendKey(b, 2, "paths_version")
	b = strconv.AppendInt(b, int64(max(r.PathsVersion, 1)), 10)
	b = appendKey(b, 2, "paths")
	b = append(b, '[')
	for i := range r.Paths {
		if i > 0 {
			b = append(b, ',')
		}
		b = newline(b, 3)
		b = r.Paths[i].append(b)
	}
	if len(r.Paths) > 0 {
		b = newline(b, 2)
	}
	b = append(b, ']')
	b = newline(b, 1)
	b = append(b, '}')
	if r.Link != (Link{}) {
		b = appendKey(b, 1, "link")
		b = append(b, '{')
		b = appendString(b, 2, "source", r.Link.Source)
		if r.Link.Type != 0 {
			b = appendKey(b, 2, "type")
			b = strconv.AppendInt(b, int64(r.Link.Type), 10)
		}
		b = newline(b, 1)
		b = append(b, '}')
	}
	b = newline(b, 0)
	return append(b, '}'), nil
}

func (p *Path) append(b []byte) []byte {
	b = append(b, '{')
	b = appendString(b, 4, "_path", p.Path)
	if p.Original != "" {
		b = appendString(b, 4, "original_path", p.Original)
	}
	b = appendString(b, 4, "path_type", string(p.Type))
	if p.NoLink {
		b = appendKey(b, 4, "no_link")
		b = append(b, "true"...)
	}
	if p.SHA256 != "" {
		b = appendString(b, 4, "sha256", p.SHA256)
	}
	if p.InPrefix != "" {
		b = appendString(b, 4, "sha256_in_prefix", p.InPrefix)
	}
	if p.Size != nil {
		b = appendKey(b, 4, "size_in_bytes")
		b = strconv.AppendInt(b, *p.Size, 10)
	}
	if p.Mode != "" {
		b = appendString(b, 4, "file_mode", p.Mode)
	}
	if p.Placeholder != "" {
		b = appendString(b, 4, "prefix_placeholder", p.Placeholder)
	}
	b = newline(b, 3)
	return append(b, '}')
}

const spaces = "\n                "

func newline(b []byte, depth int) []byte { return append(b, spaces[:1+2*depth]...) }

// appendKey begins a member, with the comma that ends the one before it.
func appendKey(b []byte, depth int, key string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = newline(b, depth)
	b, _ = jsontext.AppendQuote(b, key) // invalid UTF-8 is replaced, and nothing else can be wrong
	return append(b, ':', ' ')
}

func appendString(b []byte, depth int, key, v string) []byte {
	b = appendKey(b, depth, key)
	b, _ = jsontext.AppendQuote(b, v)
	return b
}

func appendList(b []byte, key string, list []string) []byte {
	b = appendKey(b, 1, key)
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = newline(b, 2)
		b, _ = jsontext.AppendQuote(b, v)
	}
	if len(list) > 0 {
		b = newline(b, 1)
	}
	return append(b, ']')
}
