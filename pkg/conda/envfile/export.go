package envfile

import (
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/internal/yamltree"
)

// Installed is a package of an environment that is to be exported.
type Installed struct{ Name, Version, Build string }

// Export is what an environment holds.
type Export struct {
	Name      string
	Channels  []string
	Packages  []Installed
	Pip       []string // name==version
	Variables []Variable
	Prefix    string
	NoBuilds  bool // leave the builds out, so that the file holds on other platforms too
}

// Bytes writes the file as `conda env export` does: every package with version and build, sorted, and pip's last.
func (e Export) Bytes() []byte {
	doc := yamltree.NewMap()
	if e.Name != "" {
		doc.Add("name", yamltree.Str(e.Name))
	}
	doc.Add("channels", yamltree.Strs(e.Channels))
	deps := &yamltree.Node{Kind: yamltree.List}
	for _, p := range slices.SortedFunc(slices.Values(e.Packages), func(a, b Installed) int { return strings.Compare(a.Name, b.Name) }) {
		text := p.Name + "=" + p.Version
		if !e.NoBuilds {
			text += "=" + p.Build
		}
		deps.Items = append(deps.Items, yamltree.Str(text))
	}
	if len(e.Pip) > 0 {
		deps.Items = append(deps.Items, yamltree.NewMap().Add("pip", yamltree.Strs(slices.Sorted(slices.Values(e.Pip)))))
	}
	doc.Add("dependencies", deps)
	if len(e.Variables) > 0 {
		vars := yamltree.NewMap()
		for _, v := range e.Variables {
			vars.Add(v.Name, yamltree.Str(v.Value))
		}
		doc.Add("variables", vars)
	}
	if e.Prefix != "" {
		doc.Add("prefix", yamltree.Str(e.Prefix))
	}
	return doc.Append(nil)
}
