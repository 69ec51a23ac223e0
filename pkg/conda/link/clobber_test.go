package link_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// plansOf reads "name: path path/" lines: packages in the order of linking, a slash at the end is an empty directory.
func plansOf(text string) []link.Plans {
	var plans []link.Plans
	for line := range strings.Lines(strings.TrimSpace(text)) {
		name, paths, _ := strings.Cut(strings.TrimSpace(line), ":")
		p := link.Plans{Name: name}
		for _, f := range strings.Fields(paths) {
			e := link.Entry{Path: strings.TrimSuffix(f, "/"), Type: link.HardLink, Source: f}
			if strings.HasSuffix(f, "/") {
				e.Type = link.Directory
			}
			p.Entries = append(p.Entries, e)
		}
		plans = append(plans, p)
	}
	return plans
}

func show(plans []link.Plans) string {
	var b strings.Builder
	for _, p := range plans {
		b.WriteString(p.Name + ":")
		for _, e := range p.Entries {
			if e.Original != "" && e.Path != link.ClobberDir+"/"+p.Name+"/"+e.Original {
				b.WriteString(" ?")
			}
			if e.Original != "" {
				b.WriteString(" -" + e.Original)
			} else {
				b.WriteString(" " + e.Path)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestClobbers(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		list           []link.Clobber
	}{
		{"nothing in common", "a: x d/y\nb: z d/w", "a: x d/y\nb: z d/w\n", nil},
		{"the last has a file", "a: x\nb: x\nc: x y", "a: -x\nb: -x\nc: x y\n", []link.Clobber{{Path: "x", Winner: "c", Losers: []string{"a", "b"}}}},
		{"a file that comes later hides a directory", "a: d/x d/e/y\nb: d", "a: -d/x -d/e/y\nb: d\n", []link.Clobber{{Path: "d", Winner: "b", Losers: []string{"a"}}}},
		{"a directory that comes later hides a file", "a: d\nb: d/x d/e/y", "a: -d\nb: d/x d/e/y\n", []link.Clobber{{Path: "d", Winner: "b", Losers: []string{"a"}}}},
		{"a directory stays for all if one comes later", "a: d/x\nb: d\nc: d/y", "a: d/x\nb: -d\nc: d/y\n", []link.Clobber{{Path: "d", Winner: "c", Losers: []string{"b"}}}},
		{
			"a hidden directory hides its files' conflicts", "a: d/x\nb: d/x\nc: d", "a: -d/x\nb: -d/x\nc: d\n",
			[]link.Clobber{{Path: "d", Winner: "c", Losers: []string{"a", "b"}}, {Path: "d/x", Winner: "b"}},
		},
		{"directories are shared", "a: d/\nb: d/ e/\nc: d/x", "a: d\nb: d e\nc: d/x\n", nil},
		{"an empty directory loses against a later file", "a: d/\nb: d", "a: -d\nb: d\n", []link.Clobber{{Path: "d", Winner: "b", Losers: []string{"a"}}}},
		{"an empty directory wins against an earlier file", "a: d\nb: d/", "a: -d\nb: d\n", []link.Clobber{{Path: "d", Winner: "b", Losers: []string{"a"}}}},
		{"a package that lists a link and what lies behind it is left alone", "a: d d/x", "a: d d/x\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			plans := plansOf(c.in)
			list := link.Clobbers(plans)
			if diff := cmp.Diff(c.want, show(plans)); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
			if diff := cmp.Diff(c.list, list); diff != "" {
				t.Errorf("list: want (-), got (+):\n%s", diff)
			}
		})
	}
	err := &link.ClobberError{Clobbers: link.Clobbers(plansOf("a: 1 2 3 4\nb: 1 2 3 4"))}
	if got, want := err.Error(), "1 is in b and in a; 2 is in b and in a; 3 is in b and in a; and 1 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
