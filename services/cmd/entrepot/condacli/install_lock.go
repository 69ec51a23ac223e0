package condacli

import (
	"bytes"
	"cmp"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const verbatimLinks = archive.LinksVerbatim

// explicitMark is the line that explicit lists have. Other locks may mention it.
var explicitMark = regexp.MustCompile(`(?m)^[ \t]*@EXPLICIT[ \t]*\r?$`)

// locked reads the packages of the lock file.
func (r *installRequest) locked(a *app) ([]install.Package, error) {
	if r.platform == "" {
		r.platform = hostPlatform()
	}
	if err := dist.CheckSubdir(r.platform); err != nil || r.platform == dist.Noarch {
		return nil, fault.Field("--platform", "%q is no platform such as linux-64", r.platform)
	}
	data, err := os.ReadFile(r.lock)
	if err != nil {
		return nil, fault.Field("--lock", "%v", err)
	}
	bad := func(err error) error { return fault.New(fault.Invalid, "%s: %w", r.lock, err) }
	var list []lock.Package
	incomplete := false
	switch {
	case explicitMark.Match(data):
		e, err := lock.ParseExplicit(data)
		if err != nil {
			return nil, bad(err)
		}
		if e.Platform != "" && e.Platform != r.platform {
			return nil, fault.Field("--platform", "%s is for %s, and this is %s", r.lock, e.Platform, r.platform)
		}
		list, incomplete = e.Packages, true
	case bytes.Contains(data, []byte("\nenvironments:")) || bytes.HasPrefix(data, []byte("environments:")):
		p, err := lock.ParsePixi(data)
		if err != nil {
			return nil, bad(err)
		}
		if list, err = pixiPackages(p, r.environment, r.platform); err != nil {
			return nil, bad(err)
		}
		for i := range list {
			platformOf(&list[i])
		}
	default:
		l, err := lock.ParseCondaLock(data)
		if err != nil {
			return nil, bad(err)
		}
		if list, err = l.Packages(r.platform, "main"); err != nil {
			return nil, bad(err)
		}
		incomplete = true
	}
	var want []install.Package
	for i := range list {
		p := &list[i]
		if p.Manager != lock.Conda {
			return nil, fault.New(fault.Unimplemented, "%s: %s is a %s package, and only conda packages are installed", r.lock, p.Name, p.Manager)
		}
		w, err := packageOf(p, filepath.Dir(r.lock))
		if err != nil {
			return nil, bad(err)
		}
		w.Incomplete = incomplete
		want = append(want, w)
	}
	return want, nil
}

// pixiPackages finds a platform by its name or, since platforms may be called anything, by its subdir.
func pixiPackages(p *lock.Pixi, environment, platform string) ([]lock.Package, error) {
	for _, name := range p.Platforms(environment) {
		if name != platform && p.Subdir(name) == platform {
			return p.Packages(environment, name)
		}
	}
	return p.Packages(environment, platform)
}

// archs are the older names of architectures, as records have them.
var archs = map[string]string{"64": "x86_64", "32": "x86"}

// platformOf spells out what the subdir says of platform and architecture: a pixi.lock leaves them out, and who installs
// from one writes them into the records.
func platformOf(p *lock.Package) {
	platform, arch, ok := strings.Cut(p.Subdir, "-")
	if !ok || p.Arch != "" || p.Platform != "" {
		return
	}
	p.Platform, p.Arch = platform, cmp.Or(archs[arch], arch)
}

// packageOf makes a locked package one to be installed. Paths are relative to the lock file.
func packageOf(p *lock.Package, dir string) (install.Package, error) {
	w := install.Package{Record: p.Record, FileName: p.FileName, URL: p.Location, Channel: p.Channel}
	if !strings.Contains(w.URL, "://") {
		name := filepath.FromSlash(w.URL)
		if !filepath.IsAbs(name) {
			abs, err := filepath.Abs(filepath.Join(dir, name))
			if err != nil {
				return w, err
			}
			name = abs
		}
		w.URL = (&url.URL{Scheme: "file", Path: filepath.ToSlash(name)}).String()
	}
	if w.FileName == "" {
		u, err := url.Parse(w.URL)
		if err != nil {
			return w, err
		}
		w.FileName = path.Base(u.Path)
	}
	if w.Channel == "" { // what is before subdir and file name
		if i := strings.LastIndexByte(w.URL, '/'); i > 0 {
			if j := strings.LastIndexByte(w.URL[:i], '/'); j > 0 {
				w.Channel = w.URL[:j]
			}
		}
	}
	w.Channel = slash(w.Channel)
	if p.Purls != nil && len(w.Raw) == 0 {
		raw, err := json.Marshal(map[string][]string{"purls": p.Purls})
		if err != nil {
			return w, err
		}
		w.Raw = raw
	}
	return w, nil
}
