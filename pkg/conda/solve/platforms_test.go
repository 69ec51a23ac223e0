package solve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

// subdir makes a repo of another subdir.
func subdir(channel, name string, packages ...*Package) Repo {
	for _, p := range packages {
		p.Channel, p.Subdir = channel, name
	}
	return Repo{Channel: channel, Subdir: name, Packages: packages}
}

func TestSeveralPlatformsAreSolvedTogether(t *testing.T) {
	repos := []Repo{
		subdir("c", "linux-64", pkg("tool 1", needs("lib", "__linux")), pkg("lib 2", nil)),
		subdir("c", "osx-arm64", pkg("lib 1", nil)),
		subdir("c", "noarch", pkg("tool 2", needs("lib <2")), pkg("data 1", needs("tool"))),
	}
	p, err := NewPlatforms(repos, "osx-arm64", "linux-64", "linux-64", "win-64")
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string][]virtual.Package{"linux-64": {{Name: "__linux", Version: "6", Build: "0"}}}
	var got []string
	for _, a := range p.Solve(t.Context(), func(platform string) (Request, error) {
		return Request{Specs: parseSpecs(t, "data"), Virtual: machines[platform]}, nil
	}) {
		var unsolvable *UnsolvableError
		switch {
		case a.Err == nil:
			got = append(got, a.Platform+": "+strings.Join(files(a.Solution), " "))
		case errors.As(a.Err, &unsolvable):
			got = append(got, a.Platform+": none")
		default:
			t.Errorf("%s: %v", a.Platform, a.Err)
		}
	}
	want(t, strings.Join(got, "\n"), `linux-64: linux-64/lib-2-0.conda linux-64/tool-1-0.conda noarch/data-1-0.conda
osx-arm64: noarch/data-1-0.conda noarch/tool-2-0.conda osx-arm64/lib-1-0.conda
win-64: none`)
	if p.Index("linux-64").specs != p.Index("osx-arm64").specs || p.Index("linux-64").versions != p.Index("win-64").versions {
		t.Error("what was parsed is not shared")
	}
	bad := errors.New("no such machine")
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, a := range p.Solve(ctx, func(platform string) (Request, error) {
		if platform == "win-64" {
			return Request{}, bad
		}
		return Request{Specs: parseSpecs(t, "data")}, nil
	}) {
		if expect := map[bool]error{true: bad, false: cause}[a.Platform == "win-64"]; !errors.Is(a.Err, expect) {
			t.Errorf("%s: %v", a.Platform, a.Err)
		}
	}
}

func TestAPartialIndexDoesNotSayThatANameIsNowhere(t *testing.T) {
	all := []string{"app", "lib", "libfoo", "other"}
	listed := func(yield func(string) bool) {
		for _, name := range all {
			if !yield(name) {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		repo Repo
		spec string
		want []string
		not  []string
	}{
		"whole":                    {Repo{}, "other", []string{"nothing provides", "no channel has a package other"}, []string{"read"}},
		"listed, not read":         {Repo{Partial: true, Listed: listed}, "other", []string{"of which nothing was read", "packages of other were not read"}, []string{"no channel", "nothing provides"}},
		"not listed":               {Repo{Partial: true, Listed: listed}, "libfoos", []string{"nothing provides", "no channel has a package libfoos", "similar names are libfoo"}, []string{"not read"}},
		"who knows":                {Repo{Partial: true}, "libfoos", []string{"of which nothing was read"}, []string{"no channel"}},
		"read, of another version": {Repo{Partial: true, Listed: listed}, "lib 9", []string{"of lib there is 1"}, []string{"not read"}},
	} {
		repo := channel("c", pkg("app 1", needs("lib")), pkg("lib 1", nil))
		repo.Partial, repo.Listed = c.repo.Partial, c.repo.Listed
		_, err := index(t, repo).Solve(t.Context(), Request{Specs: parseSpecs(t, c.spec)})
		text := fmt.Sprint(err)
		for _, part := range c.want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q is missing in\n%s", name, part, text)
			}
		}
		for _, part := range c.not {
			if strings.Contains(text, part) {
				t.Errorf("%s: %q should not be in\n%s", name, part, text)
			}
		}
	}
}
