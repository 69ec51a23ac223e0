package install

import (
	"fmt"
	"path"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// EscapeError refuses a package whose symbolic link leaves the prefix.
type EscapeError struct{ Package, Path, Link string }

// Error implements error.
func (e *EscapeError) Error() string {
	return fmt.Sprintf("%s: the symbolic link %s leads out of the environment, to %q", e.Package, e.Path, e.Link)
}

// checkLinks looks for symbolic links that leave the prefix. Where a link leads depends on the others: with up → .. of one
// package, up/../../x of another is not what its text looks like. So each is followed over all links that will be there.
// Those of kept packages are looked at, too, for they may lead elsewhere now; what they did before is not this change's.
func (p *plan) checkLinks(t *transaction, o *Options) error {
	type found struct {
		it         *item
		path, text string
	}
	before, after := map[string]string{}, map[string]string{}
	var list []found
	for _, it := range p.order {
		for i := range it.entries {
			e := &it.entries[i]
			if e.Type != link.SoftLink {
				continue
			}
			if it.kept != nil {
				text, err := t.root.Readlink(it.was[i])
				if err != nil {
					continue // it is gone, or no link any more
				}
				before[it.was[i]], after[e.Path] = text, text
				list = append(list, found{it, e.Path, text})
				continue
			}
			if e.Rewritten() {
				continue
			}
			text, err := it.root.Readlink(e.Source)
			if err != nil {
				return fmt.Errorf("%s: %w", it.stem(), err)
			}
			after[e.Path] = text
			list = append(list, found{it, e.Path, text})
		}
	}
	for _, f := range list {
		if !escapes(f.path, f.text, after) || f.it.kept != nil && escapes(f.path, f.text, before) {
			continue
		}
		no := &EscapeError{f.it.stem(), f.path, f.text}
		if o.Escapes == Refuse {
			return no
		}
		o.warn(f.it.stem(), fmt.Sprintf("the symbolic link %s leads out of the environment, to %q", f.path, f.text))
	}
	return nil
}

// maxLinks is how many links are followed on one way, as many as Linux follows.
const maxLinks = 40

// escapes reports whether a link leaves the prefix, given the links that are there. One that leads in a circle does not.
func escapes(at, text string, links map[string]string) bool {
	if text == "" || text[0] == '/' {
		return true
	}
	here := parent(at)
	rest := strings.Split(text, "/")
	for n := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			if here == "." {
				return true
			}
			here = parent(here)
			continue
		}
		here = path.Join(here, c)
		to, ok := links[here]
		if !ok {
			continue
		}
		if n++; n > maxLinks {
			return false
		}
		if to == "" || to[0] == '/' {
			return true
		}
		here, rest = parent(here), append(strings.Split(to, "/"), rest...)
	}
	return false
}
