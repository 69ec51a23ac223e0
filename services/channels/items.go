package channels

import (
	"maps"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

// itemsSpec selects package versions: `*`, or names, each with any number of bounds: `numpy>=1.2,numpy<2,scipy`.
type itemsSpec struct {
	all    bool
	bounds map[string][]version.Spec // by name; a version must be within all of them
}

const maxItems = 16 << 10

func parseItems(s string) (itemsSpec, error) {
	out := itemsSpec{bounds: map[string][]version.Spec{}}
	bad := fault.Field("items_spec", "items_spec is *, or names with ==, >=, <=, > or < and a version, separated by commas")
	if s == "*" {
		out.all = true
		return out, nil
	}
	if len(s) > maxItems || !isText(s) {
		return out, bad
	}
	last := ""
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		i := strings.IndexAny(item, "=<>")
		name, bound := item, ""
		if i >= 0 {
			name, bound = strings.TrimSpace(item[:i]), strings.ReplaceAll(item[i:], " ", "")
		}
		if name == "" && bound != "" {
			name = last // `numpy>=1,<2` goes on with the same name
		}
		if _, err := names.ParsePackage(name); err != nil {
			return out, bad
		}
		last = name
		specs := out.bounds[name]
		if bound != "" {
			if strings.HasPrefix(bound, "=") && !strings.HasPrefix(bound, "==") {
				return out, bad
			}
			spec, err := version.ParseSpec(bound)
			if err != nil {
				return out, bad
			}
			specs = append(specs, spec)
		}
		out.bounds[name] = specs
	}
	return out, nil
}

func (i itemsSpec) names() []string { return namesIn(i.bounds) }

func (i itemsSpec) match(name, v string) bool {
	specs, ok := i.bounds[name]
	if !ok {
		return i.all
	}
	parsed, err := version.Parse(v)
	for _, s := range specs {
		if err != nil || !s.Match(parsed) {
			return false
		}
	}
	return true
}

func namesIn[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func sorted(s []string) []string {
	if s == nil {
		return []string{}
	}
	slices.Sort(s)
	return s
}
