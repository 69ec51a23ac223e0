package install

import (
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Package is a package that is to be in a prefix.
type Package struct {
	repodata.Record
	FileName string
	URL      string // where it is fetched from; a path of this machine will do
	Channel  string // URL without the subdir
	// Incomplete says that the record has no more than a file name and digests tell, as in an explicit list. The rest is
	// then taken from the package itself.
	Incomplete bool
}

// Change is what has to happen to a prefix.
type Change struct {
	Keep    []*Record
	Remove  []*Record
	Install []*Package
	Replace []Replacement
}

// Replacement is a package that becomes another one of the same name, or itself again.
type Replacement struct {
	Old *Record
	New *Package
	Why Why
}

// Why says what a package is replaced for.
type Why string

// Reasons to replace a package.
const (
	Different Why = "different" // another version, build or content
	Relink    Why = "python"    // noarch python, and python's minor version changed
	Asked     Why = "asked"     // somebody wants it anew
)

// Empty reports whether there is nothing to do.
func (c *Change) Empty() bool { return len(c.Remove)+len(c.Install)+len(c.Replace) == 0 }

// Diff compares what is installed with what is wanted; anew has the names of packages to be installed again. All
// lists are sorted by name. The platform decides where python keeps its packages. What is Incomplete in want and installed
// already gets the record that is installed.
func Diff(have []*Record, want []Package, platform string, anew map[string]bool) (*Change, error) {
	c := &Change{}
	old := map[string]*Record{}
	for _, r := range have {
		old[r.Name] = r
	}
	was, err := pythonOf(have, platform, func(r *Record) *repodata.Record { return &r.Record })
	if err != nil {
		was = nil // whatever was linked for it is linked again
	}
	refs := make([]*Package, len(want))
	for i := range want {
		p := &want[i]
		if r := old[p.Name]; p.Incomplete && r != nil && Same(r, p) {
			p.Record, p.Incomplete = r.Record, false
		}
		refs[i] = p
	}
	is, err := pythonOf(refs, platform, func(p *Package) *repodata.Record { return &p.Record })
	if err != nil {
		return nil, err
	}
	relink := is.Relink(was)
	for _, p := range refs {
		r := old[p.Name]
		delete(old, p.Name)
		switch {
		case r == nil:
			c.Install = append(c.Install, p)
		case !Same(r, p):
			c.Replace = append(c.Replace, Replacement{r, p, Different})
		case relink && r.NoArch == repodata.NoArchPython:
			c.Replace = append(c.Replace, Replacement{r, p, Relink})
		case anew[p.Name]:
			c.Replace = append(c.Replace, Replacement{r, p, Asked})
		default:
			c.Keep = append(c.Keep, r)
		}
	}
	for _, r := range old {
		c.Remove = append(c.Remove, r)
	}
	byName := func(a, b *Record) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(c.Keep, byName)
	slices.SortFunc(c.Remove, byName)
	slices.SortFunc(c.Install, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Replace, func(a, b Replacement) int { return strings.Compare(a.New.Name, b.New.Name) })
	return c, nil
}

// Same reports whether an installed package is the one that is wanted. The best digest that is wanted decides: SHA-256, else
// MD5; if only one of them has a digest they are different. Without any, size, name, version and build must do.
func Same(r *Record, p *Package) bool {
	switch {
	case p.SHA256 != "":
		return strings.EqualFold(r.SHA256, p.SHA256)
	case p.MD5 != "":
		return strings.EqualFold(r.MD5, p.MD5)
	case r.SHA256 != "" || r.MD5 != "":
		return false
	}
	return r.Size == p.Size && r.Name == p.Name && r.Version == p.Version && r.Build == p.Build
}

// pythonOf describes the interpreter among packages; nil if there is none.
func pythonOf[T any](list []T, platform string, record func(T) *repodata.Record) (*link.Python, error) {
	for _, x := range list {
		if r := record(x); r.Name == "python" {
			return link.NewPython(r.Version, r.PythonSitePackagesPath, platform)
		}
	}
	return nil, nil
}
