package segment

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// Meta makes conda-meta: a record of each package, and the history. What names places on this machine is empty, as
// conda-pack has it, and URLs hold no secrets. segments and hidden are what is known of the parts' files.
func (e *Env) Meta(segments []*Segment, hidden []map[string]File, tool string) ([]Extra, error) {
	var out []Extra
	var added []string
	for i, p := range e.Parts {
		r := p.record(segments[i].Files, hidden[i])
		data, err := r.Bytes()
		if err == nil {
			data, err = nowhere(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.pkg, err)
		}
		out = append(out, Extra{Path: "conda-meta/" + r.MetaName(), Mode: 0o644, Data: data})
		subdir := p.Package.Subdir
		if r.Channel != "" {
			subdir = strings.TrimRight(r.Channel, "/") + "/" + subdir
		}
		added = append(added, "+"+subdir+"::"+r.Stem())
	}
	slices.Sort(added)
	history := "==> " + Time.Format("2006-01-02 15:04:05") + " <==\n# " + tool + "\n" + strings.Join(added, "\n") + "\n"
	return append(out, Extra{Path: "conda-meta/history", Mode: 0o644, Data: []byte(history)}), nil
}

// nowhere empties the fields that name places on this machine.
func nowhere(data []byte) ([]byte, error) {
	fields := map[string]jsontext.Value{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for _, key := range []string{"extracted_package_dir", "package_tarball_full_path"} {
		fields[key] = jsontext.Value(`""`)
	}
	return json.Marshal(fields, json.Deterministic(true), jsontext.WithIndent(" "))
}

func (p *Part) record(files, hidden map[string]File) *install.Record {
	r := &install.Record{
		Record: p.Package.Record, FileName: p.Package.FileName, PathsVersion: 1,
		URL: dist.WithoutSecrets(p.Package.URL), Channel: dist.WithoutSecrets(p.Package.Channel), Link: install.Link{Type: install.LinkHard},
	}
	add := func(list []link.Entry, known map[string]File) {
		for i := range list {
			e := &list[i]
			q := install.Path{
				Path: e.Path, Original: e.Original, Type: install.PathType(e.Type), NoLink: e.NoLink, SHA256: e.SHA256,
				Placeholder: e.Placeholder,
			}
			size := max(e.Size, 0)
			if f, ok := known[e.Path]; ok {
				if f.SHA256 != e.SHA256 {
					q.InPrefix = f.SHA256
				}
				size = f.Size
			}
			if e.Type != link.Directory {
				q.Size = &size
			}
			if e.Rewritten() && !p.env.Originals {
				q.Mode = string(e.FileMode)
			}
			r.Paths = append(r.Paths, q)
		}
	}
	add(p.Entries, files)
	add(p.Hidden, hidden)
	slices.SortFunc(r.Paths, func(a, b install.Path) int { return cmp.Compare(a.Path, b.Path) })
	for i := range r.Paths {
		if r.Paths[i].Type != install.Directory {
			r.Files = append(r.Files, r.Paths[i].Path)
		}
	}
	return r
}
