package repodata

import (
	"iter"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// CurrentOptions say what WriteCurrent keeps beside the newest versions.
type CurrentOptions struct {
	// Pins are lines of packages whose newest version stays as well, such as {"python": {"3.12", "3.13"}}: people ask for
	// an older line by name, and would not find it. A line that is no version is passed over.
	Pins map[string][]string
}

// WriteCurrent writes the records of current_repodata.json, the short index that conda's classic solver tries before the
// whole one. Kept are
//
//  1. of each name all builds of the newest version, and of each pinned line its newest version;
//  2. for each dependency of these that none of these satisfies, all builds of the newest version that does: one round;
//  3. of each name of which a kept record has features or track_features, the newest record that has none.
//
// A .conda record gets its twin's digest as legacy_bz2_md5. Records of CEP 48 are left out: the only reader of this file
// does not know them, and they would hide older versions from it.
//
// records are the whole index in the order that Writer demands. They are ranged over three times, so that memory is
// bounded by about 100 bytes per record, not by their text. The caller makes and closes w.
func WriteCurrent(w *Writer, records iter.Seq2[Entry, error], opts CurrentOptions) error {
	c := current{groups: map[string]*currentGroup{}, builds: map[string]string{}}
	if err := c.read(records); err != nil {
		return err
	}
	for name, g := range c.groups {
		c.keepNewest(g, opts.Pins[name])
	}
	specs, err := c.depends(records)
	if err != nil {
		return err
	}
	c.keepDepends(specs)
	for _, g := range c.groups {
		c.keepPlain(g)
	}
	return c.write(w, records)
}

// current is the selection. Records are known by their place in the sequence.
type current struct {
	groups map[string]*currentGroup
	builds map[string]string // each build string once
	keep   []bool
}

// currentGroup is the records of one name.
type currentGroup struct {
	files    []currentFile
	versions map[string]version.Version // zero: without place in the order
}

type currentFile struct {
	at       int
	version  string
	build    string
	number   uint64
	features bool // has features or track_features
}

func (c *current) read(records iter.Seq2[Entry, error]) error {
	for e, err := range records {
		if err != nil {
			return err
		}
		at := len(c.keep)
		c.keep = append(c.keep, false)
		if e.Bucket.V3() {
			continue
		}
		f := currentFile{at: at}
		var name string
		o := scanObject(e.Raw)
		for o.next() {
			v := o.value()
			switch string(o.key) {
			case "name":
				name = maybeString(v)
			case "version":
				f.version = maybeString(v)
			case "build":
				f.build = maybeString(v)
			case "build_number":
				f.number, _ = asUint(v)
			case "features":
				f.features = f.features || maybeString(v) != ""
			case "track_features":
				list, _ := features(v)
				f.features = f.features || len(list) > 0
			}
		}
		if o.err != nil || name == "" {
			return &Error{Path: e.Bucket.path(e.Key), Msg: "record cannot be read"}
		}
		c.add(name, f)
	}
	return nil
}

func (c *current) add(name string, f currentFile) {
	g := c.groups[name]
	if g == nil {
		g = &currentGroup{versions: map[string]version.Version{}}
		c.groups[name] = g
	}
	if _, ok := g.versions[f.version]; !ok {
		v, err := version.Parse(f.version)
		if err != nil {
			v = version.Version{}
		}
		g.versions[f.version] = v
	}
	if b, ok := c.builds[f.build]; ok {
		f.build = b
	} else {
		c.builds[f.build] = f.build
	}
	g.files = append(g.files, f)
}

// compareVersions puts versions without a place in the order, which are zero, before all others.
func compareVersions(a, b version.Version) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return -1
	case b.IsZero():
		return 1
	}
	return version.Compare(a, b)
}

// newest returns the newest of a group's versions for which ok holds, and whether there is one. Of versions that are
// equal but spelled differently (1.0, 1.0.0) it does not matter which.
func (g *currentGroup) newest(ok func(version.Version) bool) (best version.Version, found bool) {
	for _, v := range g.versions {
		if (ok == nil || ok(v)) && (!found || compareVersions(v, best) > 0) {
			best, found = v, true
		}
	}
	return best, found
}

func (c *current) keepVersion(g *currentGroup, v version.Version) {
	for _, f := range g.files {
		if compareVersions(g.versions[f.version], v) == 0 {
			c.keep[f.at] = true
		}
	}
}

func (c *current) keepNewest(g *currentGroup, lines []string) {
	if v, ok := g.newest(nil); ok {
		c.keepVersion(g, v)
	}
	for _, line := range lines {
		spec, err := version.ParseSpec(strings.TrimSuffix(line, ".*") + ".*")
		if err != nil {
			continue
		}
		if v, ok := g.newest(func(v version.Version) bool { return !v.IsZero() && spec.Match(v) }); ok {
			c.keepVersion(g, v)
		}
	}
}

// depends returns what the kept records ask for, each spec once.
func (c *current) depends(records iter.Seq2[Entry, error]) ([]string, error) {
	seen := map[string]bool{}
	at := 0
	for e, err := range records {
		if err != nil {
			return nil, err
		}
		if at < len(c.keep) && c.keep[at] {
			list, err := stringList(Key(e.Raw, "depends"))
			if err != nil {
				return nil, &Error{Path: e.Bucket.path(e.Key), Msg: "depends: " + err.Error()}
			}
			for _, s := range list {
				seen[s] = true
			}
		}
		at++
	}
	if at != len(c.keep) {
		return nil, errChanged
	}
	out := make([]string, 0, len(seen))
	for s := range seen {
		out = append(out, s)
	}
	return out, nil
}

// keepDepends is the round of dependencies. Each is compared with what was kept before it, so that their order does not
// count. One that cannot be read, or names what the index has not (virtual packages, other subdirs), asks for nothing.
func (c *current) keepDepends(specs []string) {
	type addition struct {
		group   *currentGroup
		version version.Version
	}
	var more []addition
	for _, s := range specs {
		spec, err := matchspec.Parse(s, matchspec.Options{})
		if err != nil {
			continue
		}
		name, exact := spec.ExactName()
		g := c.groups[name]
		if !exact || g == nil {
			continue
		}
		fits := make(map[string]bool, len(g.versions))
		for text, v := range g.versions {
			fits[text] = spec.Version.IsZero() || !v.IsZero() && spec.Version.Match(v)
		}
		var best version.Version
		found, satisfied := false, false
		for _, f := range g.files {
			v := g.versions[f.version]
			if !fits[f.version] || !spec.MatchAfterVersion(&matchspec.Candidate{Name: name, Version: v, Build: f.build, BuildNumber: f.number}) {
				continue
			}
			if satisfied = c.keep[f.at]; satisfied {
				break
			}
			if !found || compareVersions(v, best) > 0 {
				best, found = v, true
			}
		}
		if found && !satisfied {
			more = append(more, addition{g, best})
		}
	}
	for _, a := range more {
		c.keepVersion(a.group, a.version)
	}
}

// keepPlain keeps the newest record without features where one with features is kept, since these want to be asked for.
func (c *current) keepPlain(g *currentGroup) {
	if !slices.ContainsFunc(g.files, func(f currentFile) bool { return f.features && c.keep[f.at] }) {
		return
	}
	var best *currentFile
	for i := range g.files {
		f := &g.files[i]
		if f.features {
			continue
		}
		if best != nil {
			if d := compareVersions(g.versions[f.version], g.versions[best.version]); d < 0 || d == 0 && f.number <= best.number {
				continue
			}
		}
		best = f
	}
	if best != nil {
		c.keep[best.at] = true
	}
}

func (c *current) write(w *Writer, records iter.Seq2[Entry, error]) error {
	twins := map[string][]byte{} // by stem: md5 of the kept .tar.bz2, quoted
	at := 0
	for e, err := range records {
		if err != nil {
			return err
		}
		at++
		if at > len(c.keep) {
			return errChanged
		}
		if !c.keep[at-1] {
			continue
		}
		raw := e.Raw
		switch stem := strings.TrimSuffix(e.Key, e.Bucket.Extension()); e.Bucket {
		case TarBz2:
			if md5 := Key(raw, "md5"); len(md5) > 2 && md5[0] == '"' {
				twins[stem] = slices.Clone(md5)
			}
		case Conda:
			if md5 := twins[stem]; md5 != nil && isNull(Key(raw, "legacy_bz2_md5")) {
				if raw, err = SetKey(raw, "legacy_bz2_md5", md5); err != nil {
					return err
				}
			}
		}
		if err := w.Record(e.Bucket, e.Key, raw); err != nil {
			return err
		}
	}
	if at != len(c.keep) {
		return errChanged
	}
	return nil
}

// errChanged is about a sequence that does not begin anew, such as Records of a reader that was read.
var errChanged = &Error{Msg: "the records were others when they were ranged over again"}
