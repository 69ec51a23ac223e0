package lock

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// explicitMark begins a list of exact packages (CEP 23). A file without it holds match specs.
const explicitMark = "@EXPLICIT"

// Explicit is a text file of packages, one a line.
type Explicit struct {
	// Platform is what a comment "# platform:" names; empty if there is none.
	Platform string
	// Packages are in the order of installation. MD5 or SHA256 may both be empty.
	Packages []Package
	// Specs are set instead of Packages if the file is no explicit one: they are to be solved.
	Specs []matchspec.Spec
}

// ParseExplicit reads an explicit file, or a list of match specs.
func ParseExplicit(data []byte) (*Explicit, error) {
	out := &Explicit{}
	explicit := false
	for i, raw := range bytes.Split(data, []byte{'\n'}) {
		line := strings.TrimSpace(string(raw))
		bad := func(format string, args ...any) error {
			return &Error{Line: i + 1, Column: 1, Msg: fmt.Sprintf(format, args...)}
		}
		switch {
		case line == "":
		case strings.HasPrefix(line, "#"):
			if platform, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimLeft(line, "#")), "platform:"); ok {
				out.Platform = strings.TrimSpace(platform)
			}
		case line == explicitMark:
			if len(out.Specs) > 0 || explicit {
				return nil, bad("%s must come first, and once", explicitMark)
			}
			explicit = true
		case explicit:
			p, err := explicitPackage(line)
			if err != nil {
				return nil, bad("%v", err)
			}
			out.Packages = append(out.Packages, p)
		default:
			spec, err := matchspec.Parse(line, matchspec.Options{})
			if err != nil {
				return nil, bad("%v", err)
			}
			out.Specs = append(out.Specs, spec)
		}
	}
	return out, nil
}

// explicitPackage reads a URL or path with an optional digest: #<md5>, #<sha256> or #sha256:<hex>.
func explicitPackage(line string) (Package, error) {
	location, digest, has := cutLast(line, "#")
	if !has {
		location = line
	}
	i := imply(location)
	if i.name == "" {
		return Package{}, fmt.Errorf("%s is not the URL of a package", location)
	}
	p := Package{Manager: Conda, Location: location, Channel: i.channel, FileName: i.fileName}
	p.Name, p.Version, p.Build, p.BuildNumber, p.Subdir, p.NoArch = i.name, i.version, i.build, i.buildNumber, i.subdir, i.noarch
	if !has {
		return p, nil
	}
	digest = strings.ToLower(strings.TrimSpace(digest))
	hex, named := strings.CutPrefix(digest, "sha256:")
	switch {
	case strings.Trim(hex, "0123456789abcdef") != "" || hex == "":
		return p, fmt.Errorf("%s: %q is no digest", location, digest)
	case len(hex) == 64:
		p.SHA256 = hex
	case len(hex) == 32 && !named:
		p.MD5 = hex
	default:
		return p, fmt.Errorf("%s: a digest has 32 digits (MD5) or 64 (SHA-256), not %d", location, len(hex))
	}
	return p, nil
}

// Bytes writes the file. Packages must be in the order of installation, dependencies first, and have a location.
func (e *Explicit) Bytes() []byte {
	var b bytes.Buffer
	if e.Platform != "" {
		fmt.Fprintf(&b, "# platform: %s\n", e.Platform)
	}
	if len(e.Specs) > 0 {
		for i := range e.Specs {
			fmt.Fprintln(&b, e.Specs[i].String())
		}
		return b.Bytes()
	}
	b.WriteString(explicitMark + "\n")
	for _, p := range e.Packages {
		b.WriteString(dist.WithoutSecrets(p.Location))
		switch {
		case p.SHA256 != "":
			b.WriteString("#sha256:" + p.SHA256)
		case p.MD5 != "":
			b.WriteString("#" + p.MD5)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
