package lock

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/yamltree"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// CondaLock is a conda-lock.yml of version 1 (CEP 37).
type CondaLock struct {
	doc *yamltree.Node
	// comment is what stands above the document: conda-lock explains there how to use the file.
	comment string
}

// ParseCondaLock reads a conda-lock.yml.
func ParseCondaLock(data []byte) (*CondaLock, error) {
	doc, err := yamltree.Parse(data)
	if err != nil {
		return nil, located(err)
	}
	l := &CondaLock{doc: doc, comment: head(string(data))}
	if err := l.check(); err != nil {
		return nil, located(err)
	}
	return l, nil
}

// head returns the comments at the start of a file.
func head(text string) string {
	end := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			break
		}
		end += len(line)
	}
	return text[:end]
}

func (l *CondaLock) check() error {
	if err := l.doc.WantMap("a lock file"); err != nil {
		return err
	}
	if v := l.doc.Get("version"); v != nil {
		if n, err := v.Int64("version"); err != nil || n != 1 {
			return v.Errorf("version %s of conda-lock.yml is not understood; 1 is", v.Text)
		}
	}
	for _, f := range l.doc.Fields {
		if !slices.Contains([]string{"version", "metadata", "package"}, f.Key) {
			return &yamltree.Error{Line: f.Line, Column: f.Column, Msg: fmt.Sprintf("conda-lock.yml has no key %s", f.Key)}
		}
	}
	meta := l.doc.Get("metadata")
	if err := meta.WantMap("metadata"); err != nil {
		return err
	}
	if _, err := meta.Get("platforms").Strings("platforms"); err != nil {
		return err
	}
	packages := l.doc.Get("package")
	if packages.IsNull() {
		return nil
	}
	if err := packages.WantList("package"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, item := range packages.Items {
		p, platform, err := condaLockPackage(item)
		if err != nil {
			return err
		}
		key := strings.Join([]string{string(p.Manager), p.Name, platform, p.Category}, " ")
		if seen[key] {
			return item.Errorf("%s is there twice for %s", p.Name, platform)
		}
		seen[key] = true
	}
	return nil
}

// Platforms are those that the file is locked for, as it lists them.
func (l *CondaLock) Platforms() []string {
	out, _ := l.doc.Get("metadata").Get("platforms").Strings("platforms")
	return out
}

// Channels are the channels of the file, in order of priority.
func (l *CondaLock) Channels() []string {
	var out []string
	if list := l.doc.Get("metadata").Get("channels"); list != nil {
		for _, c := range list.Items {
			if u, err := c.Get("url").Scalar("url"); err == nil {
				out = append(out, u)
			}
		}
	}
	return out
}

// Categories are the categories of the packages, sorted; "main" among them in any real file.
func (l *CondaLock) Categories() []string {
	seen := map[string]bool{}
	if list := l.doc.Get("package"); list != nil {
		for _, item := range list.Items {
			if p, _, err := condaLockPackage(item); err == nil {
				seen[p.Category] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Packages are those for a platform, of the categories given, or of all, in the order of the file.
func (l *CondaLock) Packages(platform string, categories ...string) ([]Package, error) {
	if !slices.Contains(l.Platforms(), platform) {
		return nil, &Error{Msg: fmt.Sprintf("the file is not locked for %s, but for %s", platform, strings.Join(l.Platforms(), ", "))}
	}
	var out []Package
	if list := l.doc.Get("package"); list != nil {
		for _, item := range list.Items {
			p, at, err := condaLockPackage(item)
			if err != nil {
				return nil, located(err)
			}
			if at == platform && (len(categories) == 0 || slices.Contains(categories, p.Category)) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

func condaLockPackage(n *yamltree.Node) (p Package, platform string, err error) {
	if err := n.WantMap("a package"); err != nil {
		return p, "", err
	}
	var manager string
	for _, f := range []struct {
		key string
		to  *string
	}{{"name", &p.Name}, {"version", &p.Version}, {"manager", &manager}, {"platform", &platform}, {"url", &p.Location}} {
		if *f.to, err = n.Get(f.key).Scalar(f.key); err != nil {
			if n.Get(f.key) == nil {
				err = n.Errorf("a package has no %s", f.key)
			}
			return p, "", err
		}
	}
	switch manager {
	case "conda":
		p.Manager = Conda
		i := imply(p.Location)
		p.Build, p.BuildNumber, p.Subdir, p.Channel, p.FileName, p.NoArch = i.build, i.buildNumber, i.subdir, i.channel, i.fileName, i.noarch
	case "pip":
		p.Manager = PyPI
	default:
		return p, "", n.Get("manager").Errorf("manager must be conda or pip, not %q", manager)
	}
	if build := n.Get("build"); !build.IsNull() {
		if p.Build, err = build.Scalar("build"); err != nil {
			return p, "", err
		}
	}
	hash := n.Get("hash")
	if err := hash.WantMap("hash of " + p.Name); err != nil {
		return p, "", err
	}
	for key, to := range map[string]*string{"md5": &p.MD5, "sha256": &p.SHA256} {
		if v := hash.Get(key); !v.IsNull() {
			if *to, err = v.Scalar(key); err != nil {
				return p, "", err
			}
		}
	}
	p.Category = "main"
	if c := n.Get("category"); !c.IsNull() {
		if p.Category, err = c.Scalar("category"); err != nil {
			return p, "", err
		}
	}
	p.Optional = n.Get("optional") != nil && n.Get("optional").Text == "true"
	if deps := n.Get("dependencies"); !deps.IsNull() {
		if err := deps.WantMap("dependencies of " + p.Name); err != nil {
			return p, "", err
		}
		for _, d := range deps.Fields {
			constraint, err := d.Value.Scalar("dependency " + d.Key)
			if err != nil {
				return p, "", err
			}
			p.Depends = append(p.Depends, strings.TrimSpace(d.Key+" "+constraint))
		}
	}
	return p, platform, nil
}

// Bytes is the file. What was read comes out as it came in, comments inside the document aside.
func (l *CondaLock) Bytes() []byte { return l.doc.Append([]byte(l.comment)) }

// CondaLockOptions say what a new conda-lock.yml holds beside packages.
type CondaLockOptions struct {
	Channels []string          // names or URLs, in order of priority
	Sources  []string          // the files that it was made of, relative to it
	Hashes   map[string]string // content_hash by platform: says whether the inputs have changed
}

// NewCondaLock makes a lock of packages by platform. Every package needs an MD5, which conda-lock demands.
func NewCondaLock(packages map[string][]Package, opts CondaLockOptions) (*CondaLock, error) {
	platforms := slices.Sorted(maps.Keys(packages))
	hashes := yamltree.NewMap()
	for _, platform := range platforms {
		hashes.Add(platform, yamltree.Str(opts.Hashes[platform]))
	}
	channels := &yamltree.Node{Kind: yamltree.List}
	for _, c := range opts.Channels {
		channels.Items = append(channels.Items, yamltree.NewMap().Add("url", yamltree.Str(dist.WithoutSecrets(c))).Add("used_env_vars", &yamltree.Node{Kind: yamltree.List}))
	}
	meta := yamltree.NewMap().Add("content_hash", hashes).Add("channels", channels).Add("platforms", yamltree.Strs(platforms)).
		Add("sources", yamltree.Strs(opts.Sources))
	type row struct {
		Package
		platform string
	}
	var rows []row
	for _, platform := range platforms {
		for _, p := range packages[platform] {
			rows = append(rows, row{p.shared(), platform})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(string(a.Manager), string(b.Manager)), strings.Compare(a.Name, b.Name), strings.Compare(a.platform, b.platform), strings.Compare(a.Category, b.Category))
	})
	list := &yamltree.Node{Kind: yamltree.List}
	for _, r := range rows {
		item, err := condaLockEntry(&r.Package, r.platform)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, item)
	}
	l := &CondaLock{doc: yamltree.NewMap().Add("version", yamltree.Int(1)).Add("metadata", meta).Add("package", list)}
	return l, located(l.check())
}

func condaLockEntry(p *Package, platform string) (*yamltree.Node, error) {
	if p.Manager != Conda && p.Manager != "" {
		return nil, &Error{Msg: fmt.Sprintf("%s is no conda package; only those can be locked", p.Location)}
	}
	if p.MD5 == "" {
		return nil, &Error{Msg: fmt.Sprintf("%s has no MD5, and conda-lock demands one", p.Location)}
	}
	deps, err := constraints(p.Depends)
	if err != nil {
		return nil, &Error{Msg: fmt.Sprintf("%s: %v", p.Location, err)}
	}
	hash := yamltree.NewMap().Add("md5", yamltree.Str(p.MD5))
	if p.SHA256 != "" {
		hash.Add("sha256", yamltree.Str(p.SHA256))
	}
	n := yamltree.NewMap().Add("name", yamltree.Str(p.Name)).Add("version", yamltree.Str(p.Version)).Add("manager", yamltree.Str("conda")).
		Add("platform", yamltree.Str(platform)).Add("dependencies", deps).Add("url", yamltree.Str(p.Location)).Add("hash", hash).
		Add("category", yamltree.Str(cmp.Or(p.Category, "main"))).Add("optional", yamltree.Bool(p.Optional))
	return n, nil
}

// constraints makes a map of dependencies. Several of one name are merged: files in the wild have lost all but one.
func constraints(depends []string) (*yamltree.Node, error) {
	byName := map[string][]string{}
	for _, text := range depends {
		spec, err := matchspec.Parse(text, matchspec.Options{})
		if err != nil {
			return nil, err
		}
		name, ok := spec.ExactName()
		if !ok {
			return nil, fmt.Errorf("dependency %q has no name", text)
		}
		rest := ""
		if i := strings.IndexAny(text, " \t=<>!~["); i >= 0 {
			rest = strings.TrimSpace(text[i:])
		}
		if !slices.Contains(byName[name], rest) && rest != "" {
			byName[name] = append(byName[name], rest)
		} else if byName[name] == nil {
			byName[name] = []string{}
		}
	}
	n := yamltree.NewMap()
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		n.Add(name, yamltree.Str(strings.Join(byName[name], ",")))
	}
	return n, nil
}
