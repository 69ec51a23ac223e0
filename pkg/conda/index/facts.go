package index

import (
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// maxFactPaths bounds the list of files that is searched for scripts and prefixes, in bytes; real ones stay below.
const maxFactPaths = 4 << 20

// maxText bounds a text for people, in bytes.
const maxText = 16 << 10

// Facts returns what channeldata.json says about a package. info was read with archive.KeepPaths.
func Facts(info *archive.Info, lim archive.Limits) repodata.PackageFacts {
	var f repodata.PackageFacts
	if a := info.About; a != nil {
		for to, from := range map[*string]archive.Text{
			&f.Summary: a.Summary, &f.Description: a.Description, &f.Home: a.Home, &f.DocURL: a.DocURL, &f.DevURL: a.DevURL,
			&f.SourceURL: a.SourceURL, &f.License: a.License,
		} {
			*to = boundedText(string(from))
		}
	}
	if len(info.PathsJSON)+len(info.Files)+len(info.HasPrefix) <= maxFactPaths {
		if paths, err := info.Paths(lim); err == nil { // a broken list is the installer's concern
			for _, p := range paths {
				pathFacts(&f, info.Dist.Name, p)
			}
		}
	}
	return f
}

func pathFacts(f *repodata.PackageFacts, name string, p archive.PathEntry) {
	f.ActivateD = f.ActivateD || strings.HasPrefix(p.Path, "etc/conda/activate.d/")
	f.DeactivateD = f.DeactivateD || strings.HasPrefix(p.Path, "etc/conda/deactivate.d/")
	if p.Placeholder != "" {
		binary := p.Mode == archive.ModeBinary
		f.BinaryPrefix, f.TextPrefix = f.BinaryPrefix || binary, f.TextPrefix || !binary
	}
	script, ok := strings.CutPrefix(p.Path, "bin/."+name+"-")
	if !ok {
		script, ok = strings.CutPrefix(p.Path, "Scripts/."+name+"-")
	}
	if !ok {
		return
	}
	switch script {
	case "pre-link.sh", "pre-link.bat":
		f.PreLink = true
	case "post-link.sh", "post-link.bat":
		f.PostLink = true
	case "pre-unlink.sh", "pre-unlink.bat":
		f.PreUnlink = true
	}
}

// boundedText makes a stranger's text fit for lists.
func boundedText(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
