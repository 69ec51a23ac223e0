package pack

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	shell "github.com/entrepot-dev/entrepot/pkg/conda/activate"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

var (
	//go:embed scripts/activate
	activate string
	//go:embed scripts/activate.fish
	activateFish string
	//go:embed scripts/deactivate
	deactivate string
	//go:embed scripts/conda-unpack
	condaUnpack string
)

// extras are the files of an archive that are in no package.
func extras(env *segment.Env, segments []*segment.Segment, hidden []map[string]segment.File, o Options, res *Result) ([]segment.Extra, error) {
	list, err := env.Meta(segments, hidden, o.Tool)
	if err != nil {
		return nil, err
	}
	vars, err := env.Vars()
	if err != nil {
		return nil, err
	}
	var packages []segment.Package
	for _, p := range env.Parts {
		packages = append(packages, p.Package)
	}
	if adds(packages, o) {
		var export, unset, fishExport, fishUnset strings.Builder
		for _, v := range vars {
			fmt.Fprintf(&export, "    export %s=%s\n", v.Name, shell.Posix.Quote(v.Value))
			fmt.Fprintf(&unset, "    unset %s\n", v.Name)
			fmt.Fprintf(&fishExport, "set -gx %s %s\n", v.Name, shell.Fish.Quote(v.Value))
			fmt.Fprintf(&fishUnset, "    set -e %s\n", v.Name)
		}
		script := func(path, text string, export, unset string) segment.Extra {
			// In one go: a value may contain the words that are replaced.
			text = strings.NewReplacer("@EXPORT@", export, "@UNSET@", unset).Replace(text)
			return segment.Extra{Path: path, Mode: 0o644, Data: []byte(text)}
		}
		list = append(list,
			script("bin/activate", activate, export.String(), ""),
			script("bin/activate.fish", activateFish, fishExport.String(), fishUnset.String()),
			script("bin/deactivate", deactivate, "", unset.String()))
	}
	if o.Prefix != "" {
		return list, nil
	}
	unpack, n, err := unpackScript(env, o.Tool)
	if err != nil {
		return nil, err
	}
	res.Relocated = n
	return append(list, segment.Extra{Path: "bin/conda-unpack", Mode: 0o755, Data: unpack}), nil
}

// record is a line of conda-unpack's list.
type record struct{ path, placeholder, mode string }

// unpackScript makes conda-unpack; n is the number of files in its list.
func unpackScript(env *segment.Env, tool string) (script []byte, n int, err error) {
	var records []record
	for _, p := range env.Parts {
		for _, entries := range [][]link.Entry{p.Entries, p.Hidden} {
			list, err := relocated(p, entries)
			if err != nil {
				return nil, 0, err
			}
			records = append(records, list...)
		}
	}
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.path, b.path) })
	var lines strings.Builder
	for _, r := range records {
		fmt.Fprintf(&lines, "    (%s, %s, %s),\n", python(r.path), python(r.placeholder), python(r.mode))
	}
	return []byte(strings.NewReplacer("@RECORDS@", lines.String(), "@VERSION@", python(tool)).Replace(condaUnpack)), len(records), nil
}

func relocated(p *segment.Part, entries []link.Entry) ([]record, error) {
	var out []record
	for i := range entries {
		e := &entries[i]
		if !e.Rewritten() || e.Type != link.HardLink || strings.HasPrefix(e.Path, "bin/python") {
			continue
		}
		link, err := p.Symlink(e)
		if err != nil {
			return nil, err
		}
		if link {
			continue
		}
		if e.FileMode == archive.ModeText {
			if ok, err := p.Portable(e); err != nil {
				return nil, err
			} else if ok {
				continue
			}
		}
		out = append(out, record{e.Path, e.Placeholder, string(e.FileMode)})
	}
	return out, nil
}

// python writes a string literal that every Python reads, in ASCII.
func python(s string) string {
	var b strings.Builder
	if strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }) {
		b.WriteByte('u') // for Python 2
	}
	b.WriteByte('\'')
	for _, r := range s {
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
