package virtual

import (
	"regexp"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// override is one variable and the platforms it can mean something on.
type override struct {
	variable string
	name     string
	os       []string // first parts of subdirs; nil is all
	form     *regexp.Regexp
	want     string // form in words
}

var majorMinor = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

var overrides = []override{
	{"CONDA_OVERRIDE_ARCHSPEC", "__archspec", nil, nil, ""},
	{"CONDA_OVERRIDE_CUDA", "__cuda", []string{"linux", "win"}, majorMinor, "want major.minor"},
	{"CONDA_OVERRIDE_CUDA_ARCH", "__cuda_arch", []string{"linux", "win"}, majorMinor, "want major.minor"},
	{"CONDA_OVERRIDE_GLIBC", "__glibc", []string{"linux"}, nil, ""},
	{
		"CONDA_OVERRIDE_LINUX", "__linux",
		[]string{"linux"},
		regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+)?(\.[0-9]+)?$`), "want two to four numbers with dots between",
	},
	{"CONDA_OVERRIDE_OSX", "__osx", []string{"osx"}, nil, ""},
	{"CONDA_OVERRIDE_WIN", "__win", []string{"win"}, nil, ""},
}

func (h Host) override(out []Package) ([]Package, error) {
	if h.LookupEnv == nil {
		return out, nil
	}
	os, _, _ := strings.Cut(h.Platform, "-")
	for _, o := range overrides {
		value, ok := h.LookupEnv(o.variable)
		if !ok || o.os != nil && !slices.Contains(o.os, os) {
			continue
		}
		value = strings.TrimSpace(value)
		at := slices.IndexFunc(out, func(p Package) bool { return p.Name == o.name })
		if value == "" && o.name == "__archspec" {
			out[at] = genericArchspec(h.Platform) // it is always present
			continue
		}
		if at >= 0 {
			out = slices.Delete(out, at, at+1)
		}
		if value == "" {
			continue
		}
		p := Package{Name: o.name, Version: value, Build: "0"}
		var reason string
		if o.name == "__archspec" {
			p.Version, p.Build = "1", value
			if err := dist.CheckBuild(value); err != nil {
				reason = err.Error()
			}
		} else if o.form != nil && !o.form.MatchString(value) {
			reason = o.want
		} else if _, err := version.Parse(value); err != nil {
			reason = err.Error()
		}
		if reason != "" {
			return nil, &OverrideError{Variable: o.variable, Value: value, Reason: reason}
		}
		out = append(out, p)
	}
	// CEP 46: a device's capability means nothing without a driver.
	if !slices.ContainsFunc(out, func(p Package) bool { return p.Name == "__cuda" }) {
		out = slices.DeleteFunc(out, func(p Package) bool { return p.Name == "__cuda_arch" })
	}
	return out, nil
}
