package virtual

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{"__glibc=2.28", "__archspec=0=x86_64", "__unix", "__cuda=12.0=0", "=", "__a=1="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if again, err := Parse(p.String()); err != nil || again != p {
			t.Fatalf("%q is %+v, which is read as %+v (%v)", s, p, again, err)
		}
	})
}
