package lock

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// implied is what a package's location says about it: pixi.lock leaves out what follows from there.
type implied struct {
	name, version, build string
	fileName             string
	subdir, channel      string
	buildNumber          uint64
	noarch               repodata.NoArch
}

// imply reads a location; what cannot be read stays empty.
func imply(location string) implied {
	var out implied
	path := location
	if u, err := url.Parse(location); err == nil && u.Scheme != "" {
		path = u.Path
	}
	segments := strings.Split(strings.ReplaceAll(path, `\`, "/"), "/")
	file := segments[len(segments)-1]
	if unescaped, err := url.PathUnescape(file); err == nil {
		file = unescaped
	}
	d, err := dist.ParseFilename(file)
	if err != nil {
		return out
	}
	out.fileName, out.name, out.version, out.build = file, d.Name, d.Version, d.Build
	// All digits at the end count, as rattler reads them: also those of a hash.
	if n, err := strconv.ParseUint(d.Build[len(strings.TrimRight(d.Build, "0123456789")):], 10, 64); err == nil {
		out.buildNumber = n
	}
	if len(segments) < 2 {
		return out
	}
	out.subdir = segments[len(segments)-2]
	if i := strings.LastIndex(location, "/"+out.subdir+"/"); i >= 0 && strings.Contains(location, "://") {
		out.channel = location[:i]
	}
	if out.subdir == dist.Noarch {
		out.noarch = repodata.NoArchGeneric
		if strings.Contains(d.Build, "py") {
			out.noarch = repodata.NoArchPython
		}
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
