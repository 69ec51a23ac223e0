package segment

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Package is a package of an environment, and where it lies unpacked.
type Package struct {
	install.Package
	Dir string
	// Unlisted takes the files as they are, also where the package lists other digests. It is for packages that were fetched
	// and checked against the digest of their archive just now: if files differ all the same, the list was wrong from the
	// beginning, which some published packages have.
	Unlisted bool
}

// Options say what packages become.
type Options struct {
	Prefix   string // that files have written into them
	Platform string // such as linux-64
	// Originals keeps placeholders in files, for a program that replaces them where the environment is unpacked. Prefix is
	// not used then.
	Originals bool
	// Root is where the environment begins in the archive, such as opt/conda; empty for its top.
	Root string
	// Dirs says which directories get entries; parts begin with it.
	Dirs Dirs
	// Above has the directories above Root that are not root's with 0755, by path, such as tmp. With DirsAll they get
	// entries, too, and where the archive is unpacked over a file system those change what is there.
	Above map[string]Above
	// Exclude has patterns of paths, relative to the environment, that are left out. As in a shell * means anything; it
	// goes across slashes.
	Exclude []string
	// Reserved are paths that the caller will add; packages that have them do without.
	Reserved []string
	// RefuseClobbers refuses packages that have a path in common, with a *link.ClobberError.
	RefuseClobbers bool
}

// Above is what an entry says of a directory above Root.
type Above struct {
	Mode     int64 // with the bits for set-user-id (04000), set-group-id and sticky (01000), as in a tar
	UID, GID int
}

// Dirs says which directories get entries of their own.
type Dirs uint8

const (
	// DirsListed are those that packages list, because they are empty. Who unpacks makes the others.
	DirsListed Dirs = iota
	// DirsAll are all, Root's included.
	DirsAll
	// DirsNone are none: Cache.Join adds them, once for several parts.
	DirsNone
)

// Env is an environment before it is written. Close it.
type Env struct {
	Options
	Python   *link.Python
	Parts    []*Part // in the order of linking
	Clobbers []link.Clobber

	target link.Target

	mu       sync.Mutex
	releases []func() // of what it holds in caches
}

// Part is what one package contributes.
type Part struct {
	Package Package
	// Entries are in the segment, sorted by path.
	Entries []link.Entry
	// Hidden are those that another package's files hide. They belong to the environment as a whole, so that a segment does
	// not depend on the packages beside it any more than it must.
	Hidden []link.Entry
	// Excluded are the paths that were left out, sorted.
	Excluded []string
	// Dirs may be changed before the segment is made.
	Dirs Dirs

	pkg     *link.Package
	root    *os.Root
	env     *Env
	measure sync.Once
	size    int64
}

// New plans an environment of packages, which may come in any order. It reads what the packages say about themselves, but
// not their files.
func New(packages []Package, o Options) (_ *Env, err error) {
	e := &Env{Options: o}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.Root = strings.Trim(path.Clean("/"+e.Root), "/"); o.Originals {
		e.Prefix = "/" // fits every file; see generated for what has it inside
	}
	if strings.HasPrefix(e.Platform, "win-") {
		return nil, fmt.Errorf("environments for %s are not packed: their commands need a launcher for Windows", e.Platform)
	}
	seen := map[string]bool{}
	for i := range packages {
		p := &packages[i]
		if seen[p.Name] {
			return nil, fmt.Errorf("there are two packages %s", p.Name)
		}
		seen[p.Name] = true
		if p.Name == "python" {
			if e.Python, err = link.NewPython(p.Version, p.PythonSitePackagesPath, e.Platform); err != nil {
				return nil, err
			}
		}
	}
	e.target = link.Target{Prefix: e.Prefix, Platform: e.Platform, Python: e.Python}
	drop, err := matcher(o.Exclude)
	if err != nil {
		return nil, err
	}
	var plans []link.Plans
	for _, p := range link.Order(packages, func(p *Package) *repodata.Record { return &p.Record }) {
		part := &Part{Package: p, Dirs: o.Dirs, env: e}
		e.Parts = append(e.Parts, part)
		entries, err := part.open()
		if err != nil {
			return nil, err
		}
		plans = append(plans, link.Plans{Name: p.Name, Entries: entries})
	}
	if e.Clobbers = link.Clobbers(plans); len(e.Clobbers) > 0 && o.RefuseClobbers {
		return nil, &link.ClobberError{Clobbers: e.Clobbers}
	}
	for i, part := range e.Parts {
		part.sort(plans[i].Entries, drop)
	}
	return e, nil
}

// open reads the package and plans it.
func (p *Part) open() (entries []link.Entry, err error) {
	if p.root, err = os.OpenRoot(p.Package.Dir); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Package.FileName, err)
	}
	if p.pkg, err = link.Open(p.root); err != nil {
		return nil, err
	}
	if p.pkg.Name != p.Package.Name {
		return nil, fmt.Errorf("%s: what lies in %s is %s", p.Package.FileName, p.Package.Dir, p.pkg)
	}
	if p.Package.NoArch != repodata.NoArchNone { // the channel knows better than the package
		p.pkg.Noarch = archive.Noarch(p.Package.NoArch)
	}
	if entries, err = link.Plan(p.pkg, &p.env.target); err != nil {
		return nil, err
	}
	if strings.HasPrefix(p.env.Platform, "osx-") && link.Placeholders(entries) {
		return nil, fmt.Errorf("%s: its programs would have to be signed anew for macOS, which only a Mac can do", p.pkg)
	}
	return entries, nil
}

// sort divides the planned entries.
func (p *Part) sort(entries []link.Entry, drop func(string) bool) {
	for i := range entries {
		e := &entries[i]
		name := e.Path
		if e.Original != "" {
			name = e.Original
		}
		switch {
		case drop(name) || slices.Contains(p.env.Reserved, name):
			p.Excluded = append(p.Excluded, name)
		case e.Original != "":
			p.Excluded = append(p.Excluded, name)
			p.Hidden = append(p.Hidden, *e)
		default:
			p.Entries = append(p.Entries, *e)
		}
	}
	byPath := func(a, b link.Entry) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(p.Entries, byPath)
	slices.SortFunc(p.Hidden, byPath)
	slices.Sort(p.Excluded)
}

// identity is a digest of all that the raw bytes of the segment follow from; empty if nothing identifies the package.
func (p *Part) identity() string {
	digest := p.Package.SHA256
	if digest == "" {
		digest = p.fetched()
	}
	switch {
	case digest != "":
	case p.Package.MD5 != "" && p.Package.Size > 0:
		digest = fmt.Sprintf("md5:%s:%d", p.Package.MD5, p.Package.Size)
	default:
		return ""
	}
	prefix, python := "", ""
	if slices.ContainsFunc(p.Entries, func(e link.Entry) bool { return e.Rewritten() || e.Generated() }) {
		prefix = p.env.Prefix
	}
	if p.pkg.Noarch == archive.NoarchPython {
		python = p.env.Python.MajorMinor + " " + p.env.Python.SitePackages
	}
	h := sha256.New()
	for _, s := range append([]string{
		layout, digest, p.env.Platform, prefix, python, string(p.pkg.Noarch), p.env.Root, fmt.Sprint(p.env.Originals, p.Dirs) + p.env.above(p.Dirs),
	}, p.Excluded...) {
		fmt.Fprintf(h, "%d:%s,", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// above is what keys have to say of the directories above Root; empty where they are as usual, or not written.
func (e *Env) above(dirs Dirs) string {
	if len(e.Above) == 0 || dirs != DirsAll {
		return ""
	}
	return fmt.Sprintf(" %v", e.Above) // maps are printed in the order of their keys
}

// fetched is the digest that the package's archive had, which is written down where it was unpacked.
func (p *Part) fetched() string {
	data, err := p.root.ReadFile("info/repodata_record.json")
	if err != nil {
		return ""
	}
	r, err := repodata.ParseRecord(data)
	if err != nil || r.Name != p.Package.Name {
		return ""
	}
	return r.SHA256
}

// Directories are those that the entries of parts lie in, or are, and Root's; relative to the archive, sorted.
func Directories(parts []*Part) []string {
	seen := map[string]bool{}
	var add func(string)
	add = func(dir string) {
		if dir != "." && dir != "/" && !seen[dir] {
			seen[dir] = true
			add(path.Dir(dir))
		}
	}
	for _, p := range parts {
		for i := range p.Entries {
			name := path.Join(p.env.Root, p.Entries[i].Path)
			if p.Entries[i].Type != link.Directory {
				name = path.Dir(name)
			}
			add(name)
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// layout is raised when the bytes of a segment change.
const layout = "entrepot segment 2"

// Close releases the packages, and the segments, which a cache may drop from then on. It may be called twice.
func (e *Env) Close() {
	e.mu.Lock()
	releases := e.releases
	e.releases = nil
	e.mu.Unlock()
	for _, f := range releases {
		f()
	}
	for _, p := range e.Parts {
		if p.root != nil {
			_ = p.root.Close()
		}
	}
}

// Size is the number of bytes that the part's files have. Packages from before paths.json do not say it, so it is looked up.
func (p *Part) Size() int64 {
	p.measure.Do(func() {
		for i := range p.Entries {
			e := &p.Entries[i]
			switch {
			case e.Type == link.SoftLink || e.Type == link.Directory:
			case e.Size >= 0:
				p.size += e.Size
			default:
				if info, err := p.pkg.Files.Lstat(e.Source); err == nil && info.Mode().IsRegular() {
					p.size += info.Size()
				}
			}
		}
	})
	return p.size
}

// matcher returns a function that reports whether a path fits one of the patterns: * is anything, ? is one character.
func matcher(patterns []string) (func(string) bool, error) {
	for _, p := range patterns {
		if strings.ContainsAny(p, "[]\\\x00") || p == "" {
			return nil, fmt.Errorf("the pattern %q is not understood: * is anything and ? is one character", p)
		}
	}
	return func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
	}, nil
}

// fits compares from the left and goes back to the last star where they differ.
func fits(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
