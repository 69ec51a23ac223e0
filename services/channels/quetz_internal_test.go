package channels

import "testing"

func TestMirrorEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"http://h/get/x": "http://h/api/channels/x", "http://h/channels/x": "http://h/api/channels/x", "https://get/get/get/": "https://get/api/channels/get",
		"http://get.example/pre/get/x": "http://get.example/pre/api/channels/x", "http://h/get/channels/x": "http://h/get/api/channels/x", "http://h:80/get/x": "http://h:80/api/channels/x",
		"http://h/get": "", "http://h/": "", "http://h/got/x": "", "http://h/get//": "", "%": "",
	} {
		if got := mirrorEndpoint(in, "api/channels"); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestItems(t *testing.T) {
	for spec, c := range map[string]struct{ in, out [][2]string }{
		"*":                   {in: [][2]string{{"a", "1"}, {"b", "not a version!"}}},
		"a":                   {in: [][2]string{{"a", "1"}, {"a", "x!"}}, out: [][2]string{{"b", "1"}}},
		"a>=1.2,b":            {in: [][2]string{{"a", "1.10"}, {"b", "0"}}, out: [][2]string{{"a", "1.1"}, {"c", "1"}}},
		"a>=1,<2":             {in: [][2]string{{"a", "1.5"}}, out: [][2]string{{"a", "2"}, {"a", "0.9"}}},
		"a>=1,a<2, b == 3.0 ": {in: [][2]string{{"a", "1"}, {"b", "3"}}, out: [][2]string{{"a", "2"}, {"b", "3.1"}}},
	} {
		items, err := parseItems(spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		for _, v := range c.in {
			if !items.match(v[0], v[1]) {
				t.Errorf("%s leaves %v out", spec, v)
			}
		}
		for _, v := range c.out {
			if items.match(v[0], v[1]) {
				t.Errorf("%s selects %v", spec, v)
			}
		}
	}
	for _, bad := range []string{"", ",", ">=1", "A", "a=1", "a>=", "a>=!!", "../a", "a b", "a\x00", "*,a"} {
		if _, err := parseItems(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
