package envfile

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: a\nchannels: [c, nodefaults]\ndependencies:\n- python >=3.9 # [linux and not arm64]\n- pip:\n  - x\nvariables:\n  A: b\n"))
	f.Add([]byte("dependencies:\n- sel(unix): a\n- c::b[version='>=1']\nplatforms: [linux-64]\n"))
	f.Add([]byte("dependencies: [a # [win\n]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 1
		env, err := Parse(data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 0 || e.Column < 0 || e.Line > lines {
				t.Fatalf("error %#v of %q", err, data)
			}
			return
		}
		for _, w := range env.Warnings {
			if w.Line < 0 || w.Line > lines || w.Msg == "" {
				t.Fatalf("warning %+v of %q", w, data)
			}
		}
		for _, platform := range []string{"linux-64", "osx-arm64", "win-64", "noarch", "strange-1"} {
			if n := len(env.Specs(platform)); n > len(env.Dependencies) {
				t.Fatalf("%d specs of %d dependencies", n, len(env.Dependencies))
			}
		}
		for _, d := range env.Dependencies {
			if d.Spec.String() == "" {
				t.Fatalf("an empty dependency of %q", data)
			}
		}
	})
}
