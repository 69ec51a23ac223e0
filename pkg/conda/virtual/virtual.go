package virtual

import (
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// Package is a virtual package. Its build is "0" but for __archspec, whose build is the name of a microarchitecture.
type Package struct {
	Name    string // with its two underscores
	Version string
	Build   string
}

// String returns name=version=build.
func (p Package) String() string { return p.Name + "=" + p.Version + "=" + p.Build }

// Parse reads name, name=version or name=version=build, as lockfiles and requests spell virtual packages. A missing
// version is 0, a missing build, too.
func Parse(s string) (Package, error) {
	parts := strings.Split(s, "=")
	p := Package{Name: parts[0], Version: "0", Build: "0"}
	if len(parts) > 3 {
		return Package{}, fmt.Errorf("virtual package %q: want name=version=build", s)
	}
	if len(parts) > 1 {
		p.Version = parts[1]
	}
	if len(parts) > 2 {
		p.Build = parts[2]
	}
	if err := p.Validate(); err != nil {
		return Package{}, err
	}
	return p, nil
}

// Validate checks the three parts.
func (p Package) Validate() error {
	if !dist.ValidVirtualName(p.Name) {
		return fmt.Errorf("virtual package %q: the name must begin with two underscores", p.Name)
	}
	if _, err := version.Parse(p.Version); err != nil {
		return fmt.Errorf("virtual package %s: %w", p.Name, err)
	}
	if err := dist.CheckBuild(p.Build); err != nil {
		return fmt.Errorf("virtual package %s: %w", p.Name, err)
	}
	return nil
}

// glibcFloor is assumed where the version of the C library is unknown. It is what today's packages are built against.
const glibcFloor = "2.17"

// Defaults returns the virtual packages of a platform of which nothing but its name is known, sorted by name. The
// platform is a subdir such as linux-64; for noarch and unknown ones there are none but __archspec.
func Defaults(platform string) []Package {
	os, _, _ := strings.Cut(platform, "-")
	out := []Package{genericArchspec(platform)}
	switch os {
	case "linux":
		out = append(out, Package{"__glibc", glibcFloor, "0"}, Package{"__linux", "0", "0"}, Package{"__unix", "0", "0"})
	case "osx":
		out = append(out, Package{"__osx", "0", "0"}, Package{"__unix", "0", "0"})
	case "freebsd", "emscripten":
		out = append(out, Package{"__unix", "0", "0"})
	case "win":
		out = append(out, Package{"__win", "0", "0"})
	}
	return out
}

// machines translates the second part of a subdir into the archspec database's name of the family.
var machines = map[string]string{
	"64": "x86_64", "32": "x86", "arm64": "aarch64", "aarch64": "aarch64", "armv6l": "armv6l", "armv7l": "armv7l",
	"ppc64": "ppc64", "ppc64le": "ppc64le", "riscv32": "riscv32", "riscv64": "riscv64", "s390x": "s390x",
	"wasm32": "wasm32", "loongarch64": "loongarch64", "z": "z",
}

func genericArchspec(platform string) Package {
	_, machine, _ := strings.Cut(platform, "-")
	if machine == "" {
		return Package{"__archspec", "0", "0"}
	}
	if strings.HasPrefix(platform, "osx-arm") {
		return Package{"__archspec", "0", "m1"} // the oldest machine there is
	}
	name, ok := machines[machine]
	if !ok {
		name = machine
	}
	return Package{"__archspec", "0", name}
}
