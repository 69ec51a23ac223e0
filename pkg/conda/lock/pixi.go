package lock

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/yamltree"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// The versions of pixi.lock that are read and written.
const (
	pixiOldest = 6
	pixiNewest = 7
)

// Pixi is a pixi.lock.
type Pixi struct {
	doc      *yamltree.Node
	version  int64
	packages map[string][]*yamltree.Node // by manager and location, as selectors have them
}

// ParsePixi reads a pixi.lock of version 6 or 7.
func ParsePixi(data []byte) (*Pixi, error) {
	doc, err := yamltree.Parse(data)
	if err != nil {
		return nil, located(err)
	}
	p, err := openPixi(doc)
	if err != nil {
		return nil, located(err)
	}
	return p, nil
}

func openPixi(doc *yamltree.Node) (*Pixi, error) {
	if err := doc.WantMap("a lock file"); err != nil {
		return nil, err
	}
	version, err := doc.Get("version").Int64("version")
	switch {
	case err != nil:
		return nil, err
	case version > pixiNewest:
		return nil, doc.Get("version").Errorf("version %d of pixi.lock is newer than this program, which knows up to %d", version, pixiNewest)
	case version < pixiOldest:
		return nil, doc.Get("version").Errorf("version %d of pixi.lock is too old: let a newer pixi write it again, as version %d or %d", version, pixiOldest, pixiNewest)
	}
	p := &Pixi{doc: doc, version: version, packages: map[string][]*yamltree.Node{}}
	if err := doc.Get("environments").WantMap("environments"); err != nil {
		return nil, err
	}
	list := doc.Get("packages")
	if err := list.WantList("packages"); err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		manager, location, err := selector(item)
		if err != nil {
			return nil, err
		}
		key := string(manager) + " " + location
		p.packages[key] = append(p.packages[key], item)
	}
	for _, env := range doc.Get("environments").Fields {
		if err := p.check(env.Key, env.Value); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// check makes sure that whatever an environment names is there.
func (p *Pixi) check(name string, env *yamltree.Node) error {
	if err := env.WantMap("environment " + name); err != nil {
		return err
	}
	if err := env.Get("channels").WantList("channels of environment " + name); err != nil {
		return err
	}
	for _, c := range env.Get("channels").Items {
		if _, err := c.Get("url").Scalar("url of a channel"); err != nil {
			return err
		}
	}
	platforms := env.Get("packages")
	if platforms.IsNull() {
		return nil
	}
	if err := platforms.WantMap("packages of environment " + name); err != nil {
		return err
	}
	for _, platform := range platforms.Fields {
		if err := platform.Value.WantList("packages of " + name + " for " + platform.Key); err != nil {
			return err
		}
		for _, item := range platform.Value.Items {
			if _, err := p.find(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// selector reads which package an entry is, or which one an environment means.
func selector(n *yamltree.Node) (Manager, string, error) {
	if err := n.WantMap("a package"); err != nil {
		return "", "", err
	}
	for _, m := range []Manager{Conda, Source, PyPI} {
		if v := n.Get(string(m)); v != nil {
			location, err := v.Scalar(string(m))
			return m, location, err
		}
	}
	return "", "", n.Errorf("a package must have one of conda, conda_source and pypi")
}

// find returns the entry that a selector means. Version 6 tells variants of one location apart by further keys.
func (p *Pixi) find(sel *yamltree.Node) (*yamltree.Node, error) {
	manager, location, err := selector(sel)
	if err != nil {
		return nil, err
	}
	list := p.packages[string(manager)+" "+location]
	for _, entry := range list {
		fits := true
		for _, f := range sel.Fields {
			if f.Key != string(manager) && f.Key != "extras" && entry.Get(f.Key) != nil {
				want, werr := f.Value.Scalar(f.Key)
				have, herr := entry.Get(f.Key).Scalar(f.Key)
				fits = fits && werr == nil && herr == nil && want == have
			}
		}
		if fits {
			return entry, nil
		}
	}
	return nil, sel.Errorf("%s %s is used, but not among the packages", manager, location)
}

// Version is 6 or 7.
func (p *Pixi) Version() int { return int(p.version) }

// Environments are the names of the environments, sorted.
func (p *Pixi) Environments() []string {
	var names []string
	for _, f := range p.doc.Get("environments").Fields {
		names = append(names, f.Key)
	}
	slices.Sort(names)
	return names
}

// Platforms are those that an environment is locked for, sorted. Since version 7 they have names of their own; see Subdir.
func (p *Pixi) Platforms(environment string) []string {
	env := p.doc.Get("environments").Get(environment)
	var names []string
	if list := env.Get("packages"); list != nil {
		for _, f := range list.Fields {
			names = append(names, f.Key)
		}
	}
	slices.Sort(names)
	return names
}

// Subdir is the conda subdir of a platform.
func (p *Pixi) Subdir(platform string) string {
	if list := p.doc.Get("platforms"); list != nil {
		for _, item := range list.Items {
			if name, err := item.Get("name").Scalar("name"); err == nil && name == platform {
				if subdir, err := item.Get("subdir").Scalar("subdir"); err == nil {
					return subdir
				}
			}
		}
	}
	return platform
}

// VirtualPackages are what a platform was locked for, as name=version=build or a part of it; nil if the lock does not say.
func (p *Pixi) VirtualPackages(platform string) []string {
	if list := p.doc.Get("platforms"); list != nil {
		for _, item := range list.Items {
			if name, err := item.Get("name").Scalar("name"); err == nil && name == platform {
				out, _ := item.Get("virtual-packages").Strings("virtual-packages")
				return out
			}
		}
	}
	return nil
}

// Channels are the channels of an environment, in order of priority.
func (p *Pixi) Channels(environment string) []string {
	var out []string
	if list := p.doc.Get("environments").Get(environment).Get("channels"); list != nil {
		for _, c := range list.Items {
			if u, err := c.Get("url").Scalar("url"); err == nil {
				out = append(out, strings.TrimRight(u, "/"))
			}
		}
	}
	return out
}

// Packages are those of an environment for a platform, in the order of the lock.
func (p *Pixi) Packages(environment, platform string) ([]Package, error) {
	env := p.doc.Get("environments").Get(environment)
	if env == nil {
		return nil, &Error{Msg: fmt.Sprintf("there is no environment %q; there are %s", environment, strings.Join(p.Environments(), ", "))}
	}
	list := env.Get("packages").Get(platform)
	if list == nil {
		return nil, &Error{Msg: fmt.Sprintf("environment %q is not locked for %s, but for %s", environment, platform, strings.Join(p.Platforms(environment), ", "))}
	}
	out := make([]Package, 0, len(list.Items))
	for _, item := range list.Items {
		entry, err := p.find(item)
		if err != nil {
			return nil, located(err)
		}
		pkg, err := pixiPackage(entry)
		if err != nil {
			return nil, located(err)
		}
		out = append(out, pkg)
	}
	return out, nil
}

// pixiPackage reads an entry.
func pixiPackage(n *yamltree.Node) (Package, error) {
	var p Package
	var err error
	if p.Manager, p.Location, err = selector(n); err != nil {
		return p, err
	}
	i := implied{}
	if p.Manager == Conda {
		i = imply(p.Location)
		p.Name, p.Version, p.Build, p.BuildNumber = i.name, i.version, i.build, i.buildNumber
		p.Subdir, p.Channel, p.FileName, p.NoArch = i.subdir, i.channel, i.fileName, i.noarch
	}
	if p.Manager == Source {
		p.Name, _, _ = strings.Cut(p.Location, "[")
	}
	for _, f := range n.Fields {
		if err := pixiField(&p, f.Key, f.Value); err != nil {
			return p, err
		}
	}
	if p.Manager == Conda && p.Name == "" {
		return p, n.Errorf("%s does not say which package it is; a name is needed", p.Location)
	}
	p.Channel = strings.TrimRight(p.Channel, "/")
	return p, nil
}

func pixiField(p *Package, key string, v *yamltree.Node) (err error) {
	text := map[string]*string{
		"name": &p.Name, "version": &p.Version, "build": &p.Build, "subdir": &p.Subdir, "sha256": &p.SHA256, "md5": &p.MD5,
		"legacy_bz2_md5": &p.LegacyBz2MD5, "channel": &p.Channel, "features": &p.Features, "file_name": &p.FileName, "license": &p.License,
		"license_family": &p.LicenseFamily, "python_site_packages_path": &p.PythonSitePackagesPath,
	}
	lists := map[string]*[]string{
		"depends": &p.Depends, "constrains": &p.Constrains, "flags": &p.Flags, "track_features": &p.TrackFeatures, "purls": &p.Purls,
	}
	numbers := map[string]*uint64{"build_number": &p.BuildNumber, "size": &p.Size, "legacy_bz2_size": &p.LegacyBz2Size}
	switch {
	case text[key] != nil:
		if !v.IsNull() { // channel: null says that there is none
			*text[key], err = v.Scalar(key)
		} else {
			*text[key] = ""
		}
	case lists[key] != nil:
		if *lists[key], err = v.Strings(key); *lists[key] == nil && !v.IsNull() {
			*lists[key] = []string{}
		}
	case numbers[key] != nil:
		var n int64
		if n, err = v.Int64(key); n < 0 {
			err = v.Errorf("%s must not be negative", key)
		}
		*numbers[key] = uint64(max(n, 0))
	case key == "timestamp":
		p.Timestamp, err = v.Int64(key)
	case key == "indexed_timestamp":
		p.IndexedTimestamp, err = v.Int64(key)
	case key == "noarch":
		var word string
		if word, err = v.Scalar(key); err == nil {
			p.NoArch = map[string]repodata.NoArch{"python": repodata.NoArchPython, "generic": repodata.NoArchGeneric}[word]
		}
	case key == "extra_depends":
		p.ExtraDepends = map[string][]string{}
		for _, group := range v.Fields {
			if p.ExtraDepends[group.Key], err = group.Value.Strings(key); err != nil {
				return err
			}
		}
	}
	return err
}

// Bytes is the file as pixi writes it. Packages that no environment uses are left out.
func (p *Pixi) Bytes() []byte {
	doc := *p.doc
	used := map[*yamltree.Node]bool{}
	for _, env := range p.doc.Get("environments").Fields {
		if list := env.Value.Get("packages"); list != nil {
			for _, platform := range list.Fields {
				for _, item := range platform.Value.Items {
					if entry, err := p.find(item); err == nil {
						used[entry] = true
					}
				}
			}
		}
	}
	packages := *p.doc.Get("packages")
	packages.Items = slices.DeleteFunc(slices.Clone(packages.Items), func(n *yamltree.Node) bool { return !used[n] })
	doc.Fields = slices.Clone(doc.Fields)
	doc.Set("packages", &packages)
	return doc.Append(nil)
}

// PixiEnvironment is an environment for a new lock.
type PixiEnvironment struct {
	Channels []string             // URLs, in order of priority
	Packages map[string][]Package // conda packages by platform
	// VirtualPackages are what each platform was solved for; written since version 7.
	VirtualPackages map[string][]string
}

// NewPixi makes a lock of solved environments; version is 6 or 7.
func NewPixi(version int, environments map[string]PixiEnvironment) (*Pixi, error) {
	if version < pixiOldest || version > pixiNewest {
		return nil, &Error{Msg: fmt.Sprintf("version %d of pixi.lock cannot be written; %d and %d can", version, pixiOldest, pixiNewest)}
	}
	doc := yamltree.NewMap().Add("version", yamltree.Int(int64(version)))
	if version >= 7 {
		virtual := map[string][]string{}
		for _, env := range environments {
			for platform := range env.Packages {
				virtual[platform] = env.VirtualPackages[platform]
			}
		}
		list := &yamltree.Node{Kind: yamltree.List}
		for _, platform := range slices.Sorted(maps.Keys(virtual)) {
			item := yamltree.NewMap().Add("name", yamltree.Str(platform))
			if len(virtual[platform]) > 0 {
				item.Add("virtual-packages", yamltree.Strs(virtual[platform]))
			}
			list.Items = append(list.Items, item)
		}
		doc.Add("platforms", list)
	}
	envs := yamltree.NewMap()
	entries := map[string]*yamltree.Node{}
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		env, err := newPixiEnvironment(environments[name], entries)
		if err != nil {
			return nil, err
		}
		envs.Add(name, env)
	}
	packages := &yamltree.Node{Kind: yamltree.List}
	locations := slices.Sorted(maps.Keys(entries))
	if version < 7 { // by name then, by location since
		slices.SortStableFunc(locations, func(a, b string) int { return strings.Compare(imply(a).name, imply(b).name) })
	}
	for _, location := range locations {
		packages.Items = append(packages.Items, entries[location])
	}
	return openPixi(doc.Add("environments", envs).Add("packages", packages))
}

func newPixiEnvironment(env PixiEnvironment, entries map[string]*yamltree.Node) (*yamltree.Node, error) {
	channels := &yamltree.Node{Kind: yamltree.List}
	for _, u := range env.Channels {
		channels.Items = append(channels.Items, yamltree.NewMap().Add("url", yamltree.Str(strings.TrimRight(dist.WithoutSecrets(u), "/")+"/")))
	}
	platforms := yamltree.NewMap()
	for _, platform := range slices.Sorted(maps.Keys(env.Packages)) {
		list := &yamltree.Node{Kind: yamltree.List}
		var sorted []Package
		for _, p := range env.Packages[platform] {
			sorted = append(sorted, p.shared())
		}
		slices.SortStableFunc(sorted, func(a, b Package) int { return strings.Compare(a.Location, b.Location) })
		for _, p := range sorted {
			if p.Manager != Conda && p.Manager != "" {
				return nil, &Error{Msg: fmt.Sprintf("%s is no conda package; only those can be locked", p.Location)}
			}
			if p.Location == "" {
				return nil, &Error{Msg: fmt.Sprintf("package %s has no location", p.Name)}
			}
			list.Items = append(list.Items, yamltree.NewMap().Add(string(Conda), yamltree.Str(p.Location)))
			entries[p.Location] = pixiEntry(&p)
		}
		platforms.Add(platform, list)
	}
	return yamltree.NewMap().Add("channels", channels).Add("packages", platforms), nil
}

// pixiEntry writes what does not follow from the location, in pixi's order.
func pixiEntry(p *Package) *yamltree.Node {
	i := imply(p.Location)
	n := yamltree.NewMap().Add(string(Conda), yamltree.Str(p.Location))
	text := func(key, value, follows string) {
		if value != follows {
			n.Add(key, yamltree.Str(value))
		}
	}
	list := func(key string, values []string) {
		if len(values) > 0 {
			n.Add(key, yamltree.Strs(values))
		}
	}
	number := func(key string, value, follows uint64) {
		if value != follows {
			n.Add(key, yamltree.Int(int64(value)))
		}
	}
	text("name", p.Name, i.name)
	text("version", p.Version, i.version)
	text("build", p.Build, i.build)
	number("build_number", p.BuildNumber, i.buildNumber)
	text("subdir", p.Subdir, i.subdir)
	if p.NoArch != i.noarch && p.NoArch != repodata.NoArchNone {
		n.Add("noarch", yamltree.Str(string(p.NoArch)))
	}
	text("sha256", p.SHA256, "")
	text("md5", p.MD5, "")
	text("legacy_bz2_md5", p.LegacyBz2MD5, "")
	list("depends", p.Depends)
	list("constrains", p.Constrains)
	if len(p.ExtraDepends) > 0 {
		groups := yamltree.NewMap()
		for _, group := range slices.Sorted(maps.Keys(p.ExtraDepends)) {
			groups.Add(group, yamltree.Strs(p.ExtraDepends[group]))
		}
		n.Add("extra_depends", groups)
	}
	if channel := strings.TrimRight(p.Channel, "/"); channel != strings.TrimRight(i.channel, "/") && channel != "" {
		n.Add("channel", yamltree.Str(channel+"/"))
	}
	text("features", p.Features, "")
	list("flags", p.Flags)
	list("track_features", p.TrackFeatures)
	text("file_name", p.FileName, i.fileName)
	text("license", p.License, "")
	text("license_family", p.LicenseFamily, "")
	if p.Purls != nil {
		n.Add("purls", yamltree.Strs(p.Purls))
	}
	number("size", p.Size, 0)
	number("legacy_bz2_size", p.LegacyBz2Size, 0)
	if p.Timestamp != 0 {
		n.Add("timestamp", yamltree.Int(p.Timestamp))
	}
	if p.IndexedTimestamp != 0 {
		n.Add("indexed_timestamp", yamltree.Int(p.IndexedTimestamp))
	}
	text("python_site_packages_path", p.PythonSitePackagesPath, "")
	return n
}
