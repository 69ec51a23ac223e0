package condacli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// hashFlags say which packages need a digest.
type hashFlags struct {
	require string
	told    map[string]bool // files that were warned of
}

// When a package needs a digest.
const (
	requireAlways = "true"
	requireNever  = "false"
	requireByLine = "auto" // unless it is a file, or the line is encrypted
)

func (f *hashFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.require, "require-hashes", requireByLine, "refuse packages of which neither the lock nor the channel says a digest: true, false (only warn), or auto, which refuses them where they come over http")
	c.Flags().Lookup("require-hashes").NoOptDefVal = requireAlways
}

func (f *hashFlags) valid() error {
	switch f.require {
	case requireAlways, requireNever, requireByLine:
		return nil
	}
	return fault.Field("--require-hashes", "--require-hashes must be true, false or auto, not %q", f.require)
}

// check tells of packages of which nothing says what they must be. On an open line that is refused by default: anybody on
// the way could put another file in their place.
func (f *hashFlags) check(want []install.Package, warn func(install.Warning)) error {
	if err := f.valid(); err != nil {
		return err
	}
	for i := range want {
		p := &want[i]
		if p.SHA256 != "" || p.MD5 != "" || f.told[p.FileName] {
			continue
		}
		where := fetch.Redact(p.URL)
		scheme, _, _ := strings.Cut(strings.ToLower(p.URL), "://")
		if f.require == requireAlways || f.require == requireByLine && scheme == "http" {
			return fault.New(fault.Precondition, "%s: nothing says which digest it must have, so any file would do (--require-hashes=false accepts it)", where)
		}
		if f.told == nil {
			f.told = map[string]bool{}
		}
		f.told[p.FileName] = true
		warn(install.Warning{Package: p.FileName, Msg: "nothing says which digest it must have, so whatever comes from " + where + " is taken"})
	}
	return nil
}
