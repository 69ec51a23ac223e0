package archive

import (
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/go-json-experiment/json/jsontext"
)

// Info is what a package says about itself, checked. The raw bytes are those
// of the archive: an index splices them, unknown keys included.
type Info struct {
	Dist dist.Dist

	Index     Index
	IndexJSON []byte

	// About, RunExports and Link are nil if the package has no such file. A
	// package without run_exports.json exports nothing, but does not say so;
	// an index records {} for it.
	About          *About
	AboutJSON      []byte
	RunExports     *RunExports
	RunExportsJSON []byte
	Link           *Link
	LinkJSON       []byte

	// PathsJSON and the legacy files beside it are kept with KeepPaths only;
	// see [Info.Paths].
	PathsJSON, Files, HasPrefix, NoLink []byte
	// HasPaths says whether there is a paths.json, kept or not.
	HasPaths bool

	// Complete says that the whole package was read and checked: with Full, in
	// Walk and in Extract.
	Complete bool
	// Entries and UnpackedSize count what was read: tar entries, and
	// decompressed bytes with the tars' headers.
	Entries      int
	UnpackedSize int64
}

// Index is info/index.json (CEP 36).
type Index struct {
	Name          string     `json:"name"`
	Version       string     `json:"version"`
	Build         string     `json:"build"`
	BuildNumber   int64      `json:"build_number"`
	Subdir        string     `json:"subdir,omitzero"` // missing in packages from before 2015
	Noarch        Noarch     `json:"noarch,omitzero"`
	Arch          *string    `json:"arch,omitzero"`
	Platform      *string    `json:"platform,omitzero"`
	Depends       StringList `json:"depends"`
	Constrains    StringList `json:"constrains,omitzero"`
	TrackFeatures Features   `json:"track_features,omitzero"`
	Features      Features   `json:"features,omitzero"`
	License       Text       `json:"license,omitzero"`
	LicenseFamily Text       `json:"license_family,omitzero"`
	Timestamp     Millis     `json:"timestamp,omitzero"`
	// SchemaVersion is 1 if absent. Packages of version 3 and later may appear
	// only under "v3" of an index (CEP 48).
	SchemaVersion int `json:"schema_version,omitzero"`
	// PythonSitePackagesPath counts on packages named python only (CEP 17).
	PythonSitePackagesPath string                `json:"python_site_packages_path,omitzero"`
	ExtraDepends           map[string]StringList `json:"extra_depends,omitzero"` // CEP 44
	Flags                  StringList            `json:"flags,omitzero"`         // CEP 45
}

// About is info/about.json, as far as people ask for it.
type About struct {
	Summary     Text `json:"summary,omitzero"`
	Description Text `json:"description,omitzero"`
	Home        Text `json:"home,omitzero"`
	DevURL      Text `json:"dev_url,omitzero"`
	DocURL      Text `json:"doc_url,omitzero"`
	SourceURL   Text `json:"source_url,omitzero"`
	License     Text `json:"license,omitzero"`
	// Extra holds the build provenance of CEP 31 among other things.
	Extra jsontext.Value `json:"extra,omitzero"`
}

// RunExports is info/run_exports.json (CEP 12), normalised: a bare list means
// weak.
type RunExports struct {
	Weak             StringList `json:"weak,omitzero"`
	Strong           StringList `json:"strong,omitzero"`
	Noarch           StringList `json:"noarch,omitzero"`
	WeakConstrains   StringList `json:"weak_constrains,omitzero"`
	StrongConstrains StringList `json:"strong_constrains,omitzero"`
}

// Link is info/link.json of a noarch package.
type Link struct {
	Version int        `json:"package_metadata_version"`
	Noarch  LinkNoarch `json:"noarch"`
}

// LinkNoarch says how to install a noarch package.
type LinkNoarch struct {
	Type        Noarch     `json:"type"`
	EntryPoints StringList `json:"entry_points,omitzero"`
}

const (
	indexFile      = "info/index.json"
	aboutFile      = "info/about.json"
	runExportsFile = "info/run_exports.json"
	linkFile       = "info/link.json"
	pathsFile      = "info/paths.json"
	filesFile      = "info/files"
	hasPrefixFile  = "info/has_prefix"
	noLinkFile     = "info/no_link"
)

// slot says where a metadata file goes, or nil for any other file.
func (i *Info) slot(path string) (into *[]byte, large bool) {
	switch path {
	case indexFile:
		return &i.IndexJSON, false
	case aboutFile:
		return &i.AboutJSON, false
	case runExportsFile:
		return &i.RunExportsJSON, false
	case linkFile:
		return &i.LinkJSON, false
	case pathsFile:
		return &i.PathsJSON, true
	case filesFile:
		return &i.Files, true
	case hasPrefixFile:
		return &i.HasPrefix, true
	case noLinkFile:
		return &i.NoLink, true
	}
	return nil, false
}

// ParseIndex reads an index.json by the rules of this package, without a file
// name to compare it with.
func ParseIndex(data []byte, lim Limits) (Index, error) {
	var x Index
	err := decodeJSON(indexFile, data, lim.withDefaults(), &x)
	return x, err
}

// parse fills the typed fields from the raw ones and checks them.
func (i *Info) parse(lim Limits, subdir string) error {
	if i.IndexJSON == nil {
		return refuse(indexFile, "", "the file is missing")
	}
	if err := decodeJSON(indexFile, i.IndexJSON, lim, &i.Index); err != nil {
		return err
	}
	x := &i.Index
	for _, f := range [][3]string{
		{"name", x.Name, i.Dist.Name}, {"version", x.Version, i.Dist.Version}, {"build", x.Build, i.Dist.Build},
	} {
		if f[1] != f[2] {
			return refuse(indexFile, f[0], "it is %s, but the file name says %s", orNothing(f[1]), quote(f[2]))
		}
	}
	if x.Subdir != "" {
		if err := dist.CheckSubdir(x.Subdir); err != nil {
			return &Error{Member: indexFile, Field: "subdir", Msg: "it is not valid", Err: err}
		}
		if subdir != "" && x.Subdir != subdir {
			return refuse(indexFile, "subdir", "it is %s, but the package was meant for %s", quote(x.Subdir), quote(subdir))
		}
	}
	switch x.Noarch {
	case NotNoarch, NoarchGeneric, NoarchPython:
	default:
		return refuse(indexFile, "noarch", "it is %s, which is neither python nor generic", orNothing(string(x.Noarch)))
	}
	if x.BuildNumber < 0 {
		return refuse(indexFile, "build_number", "it is negative")
	}
	if x.PythonSitePackagesPath != "" {
		if _, reason := cleanPath(x.PythonSitePackagesPath); reason != "" {
			return refuse(indexFile, "python_site_packages_path", "%s", reason)
		}
	}
	if i.AboutJSON != nil {
		i.About = new(About)
		if err := decodeJSON(aboutFile, i.AboutJSON, lim, i.About); err != nil {
			return err
		}
	}
	if i.RunExportsJSON != nil {
		var err error
		if i.RunExports, err = parseRunExports(i.RunExportsJSON, lim); err != nil {
			return err
		}
	}
	if i.LinkJSON != nil {
		i.Link = new(Link)
		if err := decodeJSON(linkFile, i.LinkJSON, lim, i.Link); err != nil {
			return err
		}
		for _, s := range i.Link.Noarch.EntryPoints {
			if _, err := ParseEntryPoint(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "missing"
	}
	return quote(s)
}

func parseRunExports(data []byte, lim Limits) (*RunExports, error) {
	x := new(RunExports)
	if k := jsontext.Value(data).Kind(); k == '[' || k == '"' || k == 'n' {
		return x, decodeJSON(runExportsFile, data, lim, &x.Weak)
	}
	return x, decodeJSON(runExportsFile, data, lim, x)
}
