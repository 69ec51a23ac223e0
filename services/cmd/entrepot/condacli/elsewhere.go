package condacli

import (
	"context"
	"slices"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
)

// commonPlatforms are those for which most packages are built.
var commonPlatforms = []string{"linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"}

// elsewhereTime bounds the search for a hint: it may cost a few requests, and nobody waits longer for one.
const elsewhereTime = 2 * time.Second

// elsewhere returns a function that finds the other platforms for which the channels have a name.
func (s *solver) elsewhere(ctx context.Context) func(name string) []string {
	return func(name string) []string {
		ctx, cancel := context.WithTimeout(ctx, elsewhereTime)
		defer cancel()
		opts, err := s.flags.options(s.app, nil)
		if err != nil {
			return nil
		}
		opts.Names, opts.Direct = []string{name}, true
		opts.Subdirs = slices.DeleteFunc(slices.Clone(commonPlatforms), func(p string) bool { return s.machines[p] != nil })
		res, err := gateway.Load(ctx, s.channels, opts)
		if err != nil {
			return nil // no hint then
		}
		var out []string
		for i := range res.Repos {
			r := &res.Repos[i]
			has := r.Arena != nil && len(r.Arena.Find(name)) > 0
			for _, p := range r.Packages {
				has = has || p.Name == name
			}
			if has && !slices.Contains(out, r.Subdir) {
				out = append(out, r.Subdir)
			}
		}
		slices.Sort(out)
		return out
	}
}
