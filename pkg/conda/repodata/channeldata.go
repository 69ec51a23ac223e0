package repodata

import (
	"bufio"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// PackageFacts is what a package file says of itself that no record has: from info/about.json, and from the list of its
// files. The zero value says nothing.
type PackageFacts struct {
	Summary     string `json:"summary,omitempty"`
	Description string `json:"description,omitempty"`
	Home        string `json:"home,omitempty"`
	DocURL      string `json:"doc_url,omitempty"`
	DevURL      string `json:"dev_url,omitempty"`
	SourceURL   string `json:"source_url,omitempty"`
	License     string `json:"license,omitempty"`

	ActivateD    bool `json:"activate.d,omitempty"`    // has files in etc/conda/activate.d
	DeactivateD  bool `json:"deactivate.d,omitempty"`  // has files in etc/conda/deactivate.d
	BinaryPrefix bool `json:"binary_prefix,omitempty"` // has a binary file with the prefix in it
	TextPrefix   bool `json:"text_prefix,omitempty"`   // has a text file with the prefix in it
	PreLink      bool `json:"pre_link,omitempty"`      // has a script of that kind
	PostLink     bool `json:"post_link,omitempty"`
	PreUnlink    bool `json:"pre_unlink,omitempty"`
}

// ChannelFile is a file of a channel, as ChannelData wants to know it.
type ChannelFile struct {
	Name        string
	Version     string
	BuildNumber uint64
	Subdir      string
	Timestamp   int64         // milliseconds; 0 if unknown
	License     string        // from the record; that of Facts comes first
	RunExports  []byte        // JSON object or list; nil if unknown
	Facts       *PackageFacts // nil if unknown
}

// ChannelData collects a channel's channeldata.json (CEP 38): per package name what searches and web pages show. It is
// lossy by design: texts are those of the newest version that has any, flags are those of all versions together, and the
// timestamp is the newest, in seconds. Files may come in any order. The zero value is ready to use.
type ChannelData struct {
	subdirs  map[string]bool
	packages map[string]*channelPackage
}

type channelPackage struct {
	newest     rankOfFile
	text       rankOfFile // of the file that facts are from
	facts      PackageFacts
	license    string
	timestamp  int64
	subdirs    map[string]bool
	runExports map[string]versionExports
}

type versionExports struct {
	number uint64
	raw    []byte
}

// rankOfFile orders the files of a name.
type rankOfFile struct {
	known   bool
	text    string
	version version.Version
	number  uint64
	time    int64
}

func (r rankOfFile) less(o rankOfFile) bool {
	if !r.known || !o.known {
		return o.known && !r.known
	}
	if r.text != o.text {
		if c := compareVersions(r.version, o.version); c != 0 {
			return c < 0
		}
	}
	if r.number != o.number {
		return r.number < o.number
	}
	if r.time != o.time {
		return r.time < o.time
	}
	return r.text < o.text // 1.0 and 1.0.0: any order will do that is the same each time
}

// AddSubdir lists a subdir, which may have no files.
func (c *ChannelData) AddSubdir(subdir string) {
	if c.subdirs == nil {
		c.subdirs = map[string]bool{}
	}
	c.subdirs[subdir] = true
}

// Add takes in a file. What is no JSON in its run exports is passed over.
func (c *ChannelData) Add(f ChannelFile) {
	c.AddSubdir(f.Subdir)
	if c.packages == nil {
		c.packages = map[string]*channelPackage{}
	}
	p := c.packages[f.Name]
	if p == nil {
		p = &channelPackage{subdirs: map[string]bool{}}
		c.packages[f.Name] = p
	}
	p.subdirs[f.Subdir] = true
	p.timestamp = max(p.timestamp, f.Timestamp)
	rank := rankOfFile{known: true, text: f.Version, number: f.BuildNumber, time: f.Timestamp}
	if p.newest.text == f.Version {
		rank.version = p.newest.version
	} else if v, err := version.Parse(f.Version); err == nil {
		rank.version = v
	}
	if p.newest.less(rank) {
		p.newest = rank
		if f.License != "" {
			p.license = f.License
		}
	} else if p.license == "" {
		p.license = f.License
	}
	p.takeFacts(rank, f.Facts)
	p.takeRunExports(f)
}

func (p *channelPackage) takeFacts(rank rankOfFile, f *PackageFacts) {
	if f == nil {
		return
	}
	old := p.facts
	if p.text.less(rank) {
		p.text, p.facts = rank, *f
	}
	p.facts.ActivateD = old.ActivateD || f.ActivateD
	p.facts.DeactivateD = old.DeactivateD || f.DeactivateD
	p.facts.BinaryPrefix = old.BinaryPrefix || f.BinaryPrefix
	p.facts.TextPrefix = old.TextPrefix || f.TextPrefix
	p.facts.PreLink = old.PreLink || f.PreLink
	p.facts.PostLink = old.PostLink || f.PostLink
	p.facts.PreUnlink = old.PreUnlink || f.PreUnlink
}

// takeRunExports keeps, of each version, those of the build with the highest number that has any.
func (p *channelPackage) takeRunExports(f ChannelFile) {
	if len(f.RunExports) <= len("{}") {
		return
	}
	if before, ok := p.runExports[f.Version]; ok && before.number >= f.BuildNumber {
		return
	}
	raw, err := NormalizeRunExports(f.RunExports)
	if err != nil || string(raw) == "{}" {
		return
	}
	if p.runExports == nil {
		p.runExports = map[string]versionExports{}
	}
	p.runExports[f.Version] = versionExports{f.BuildNumber, raw}
}

// Packages is the number of names.
func (c *ChannelData) Packages() int { return len(c.packages) }

// Write writes the document, keys sorted.
func (c *ChannelData) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	out.WriteString(`{"channeldata_version":1,"packages":{`)
	for i, name := range slices.Sorted(maps.Keys(c.packages)) {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(append(appendQuoted(nil, name), ':'))
		out.Write(c.packages[name].append(nil))
	}
	out.WriteString(`},"subdirs":`)
	out.Write(append(appendList(nil, slices.Sorted(maps.Keys(c.subdirs))), '}'))
	return out.Flush() // bufio keeps the first error
}

func (p *channelPackage) append(dst []byte) []byte {
	f := p.facts
	if f.License == "" {
		f.License = p.license
	}
	exports := make([]Member, 0, len(p.runExports))
	for v, e := range p.runExports {
		exports = append(exports, Member{v, e.raw})
	}
	return appendObject(dst, []Member{
		{"activate.d", strconv.AppendBool(nil, f.ActivateD)},
		{"binary_prefix", strconv.AppendBool(nil, f.BinaryPrefix)},
		{"deactivate.d", strconv.AppendBool(nil, f.DeactivateD)},
		{"description", textOrNull(f.Description)},
		{"dev_url", textOrNull(f.DevURL)},
		{"doc_url", textOrNull(f.DocURL)},
		{"home", textOrNull(f.Home)},
		{"license", textOrNull(f.License)},
		{"post_link", strconv.AppendBool(nil, f.PostLink)},
		{"pre_link", strconv.AppendBool(nil, f.PreLink)},
		{"pre_unlink", strconv.AppendBool(nil, f.PreUnlink)},
		{"run_exports", appendObject(nil, exports)},
		{"source_url", textOrNull(f.SourceURL)},
		{"subdirs", appendList(nil, slices.Sorted(maps.Keys(p.subdirs)))},
		{"summary", textOrNull(f.Summary)},
		{"text_prefix", strconv.AppendBool(nil, f.TextPrefix)},
		{"timestamp", strconv.AppendInt(nil, p.timestamp/1000, 10)},
		{"version", appendQuoted(nil, p.newest.text)},
	})
}

// textOrNull: absent texts are null in this file, as conda-index writes them.
func textOrNull(s string) []byte {
	if s = strings.ToValidUTF8(s, "\uFFFD"); s == "" {
		return []byte("null")
	}
	return appendQuoted(nil, s)
}

func appendList(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, s)
	}
	return append(dst, ']')
}
