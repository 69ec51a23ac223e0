package apitest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestQuetzSearch: the grammar of quetz.md §2.4, over hosted channels with packages that say something of themselves.
func TestQuetzSearch(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.Admin().In(t), w.User("bob").In(t)
	alice.Must(201, "POST", "/api/channels", map[string]any{"name": "Tools", "private": false, "description": "Things for Work"})
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": "hidden", "private": true, "description": "of bob"})
	alice.Must(201, "POST", "/api/channels", map[string]any{"name": "more", "private": false})
	for name, about := range map[string][2]string{
		"numpy": {"Array processing", "Fast arrays for numbers"}, "numpy-financial": {"Money", "n/a"},
		"scipy": {"Science", "Algorithms on ARRAYS"}, "r-base": {"", ""}, "x": {"one letter", ""},
	} {
		alice.Must(201, "POST", "/api/channels/tools/packages", map[string]any{"name": name, "summary": about[0], "description": about[1]})
	}
	alice.Must(201, "POST", "/api/channels/more/packages", map[string]any{"name": "numpy"})
	bob.Must(201, "POST", "/api/channels/hidden/packages", map[string]any{"name": "numpy-secret"})
	p := packages(t)[0]
	alice.Must(201, "POST", "/api/channels/more/upload/"+p.filename+"?sha256=", p.data)

	type hit struct {
		Name        string
		ChannelName string `json:"channel_name"`
	}
	search := func(t *testing.T, who, q string) []string {
		t.Helper()
		var hits []hit
		c := alice
		switch who {
		case "bob":
			c = bob
		case "":
			c = w.Anonymous()
		}
		c.In(t).Must(200, "GET", "/api/packages/search/?q="+url.QueryEscape(q), nil).JSON(&hits)
		out := []string{}
		for _, h := range hits {
			out = append(out, h.ChannelName+"/"+h.Name)
		}
		return out
	}
	none := []string{}
	for q, want := range map[string][]string{
		"numpy":                         {"more/numpy", "Tools/numpy", "Tools/numpy-financial"},
		"NumPy":                         {"more/numpy", "Tools/numpy", "Tools/numpy-financial"},
		"um":                            {"more/numpy", "Tools/numpy", "Tools/numpy-financial"},
		"numpy fin":                     {"Tools/numpy-financial"},
		"numpy NOT financial":           {"more/numpy", "Tools/numpy"},
		"numpy channel:more":            {"more/numpy"},
		"numpy channel:more,tools":      {"more/numpy", "Tools/numpy", "Tools/numpy-financial"},
		"numpy -channel:more":           {"Tools/numpy", "Tools/numpy-financial"},
		"numpy NOT channel:more":        {"Tools/numpy", "Tools/numpy-financial"},
		"numpy channel:mor":             {"more/numpy"},
		"numpy channel:MOR,nowhere":     {"more/numpy"},
		"numpy -channel:oo":             {"more/numpy"},
		"description:arrays":            {"Tools/numpy", "Tools/scipy"},
		`description:"arrays for"`:      {"Tools/numpy"},
		"summary:money,science":         {"Tools/numpy-financial", "Tools/scipy"},
		"-summary:money channel:tools":  {"Tools/numpy", "Tools/r-base", "Tools/scipy", "Tools/x"},
		"platform:" + p.subdir:          {"more/" + p.name},
		"numpy unknown:thing":           {"more/numpy", "Tools/numpy", "Tools/numpy-financial"},
		"secret":                        none,
		"'r-base'":                      {"Tools/r-base"},
		`r\-base`:                       {"Tools/r-base"},
		"x channel:tools NOT financial": {"Tools/x"},
		"%":                             none,
		"_":                             none,
		"nothing-like-it":               none,
	} {
		t.Run(q, func(t *testing.T) {
			if diff := cmp.Diff(want, search(t, "", q)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	t.Run("everything that may be read, by name", func(t *testing.T) {
		if got := search(t, "", ""); len(got) != 7 || got[0] != "more/"+p.name && got[0] != "more/numpy" {
			t.Errorf("%v", got)
		}
	})
	t.Run("a private channel is found by who may read it", func(t *testing.T) {
		if diff := cmp.Diff([]string{"hidden/numpy-secret"}, search(t, "bob", "secret")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"hidden/numpy-secret"}, search(t, "alice", "secret")); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a hit has the keys of a package and its channel's name", func(t *testing.T) {
		data := first(t, w.Anonymous().In(t).Must(200, "GET", "/api/packages/search?q=scipy", nil).Body)
		want := `{"name":"scipy","summary":"Science","description":"Algorithms on ARRAYS","url":null,"platforms":null,"current_version":null,"latest_change":null,"channel_name":"Tools"}`
		if string(data) != want {
			t.Errorf("%s\nwant %s", data, want)
		}
	})
	t.Run("a limit ends the list", func(t *testing.T) {
		type hit struct {
			Name string `json:"name"`
		}
		var all, two []hit
		w.Anonymous().In(t).Must(200, "GET", "/api/packages/search/?q=um", nil).JSON(&all)
		w.Anonymous().In(t).Must(200, "GET", "/api/packages/search/?q=um&limit=1", nil).JSON(&two)
		if len(all) < 2 || len(two) != 1 || two[0] != all[0] {
			t.Errorf("%v of %v", two, all)
		}
		for _, limit := range []string{"0", "-1", "many"} {
			w.Anonymous().In(t).Must(422, "GET", "/api/packages/search/?q=um&limit="+limit, nil)
		}
	})

	t.Run("ranked: the equal name first, then the shortest", func(t *testing.T) {
		var hits []hit
		w.Anonymous().In(t).Must(200, "GET", "/api/packages/search/?ranked=true&q=numpy-financial", nil).JSON(&hits)
		if len(hits) != 1 {
			t.Errorf("%v", hits)
		}
		w.Anonymous().In(t).Must(200, "GET", "/api/packages/search/?ranked=1&q=um", nil).JSON(&hits)
		if len(hits) != 3 || hits[2].Name != "numpy-financial" {
			t.Errorf("%v", hits)
		}
	})
	for q, text := range map[string]string{"numpy NOT": "NOT has nothing after it", `"open`: "a quote is not closed", "'open": "a quote is not closed", `a\`: "a backslash has nothing after it"} {
		t.Run("an unfinished search "+q, func(t *testing.T) {
			for _, path := range []string{"/api/packages/search/", "/api/channels/search/"} {
				if got := detail(t, w.Anonymous().In(t).Must(422, "GET", path+"?q="+url.QueryEscape(q), nil)); !strings.Contains(got, text) {
					t.Errorf("%s: %s", path, got)
				}
			}
		})
	}
	t.Run("q must be there", func(t *testing.T) {
		for _, path := range []string{"/api/packages/search/", "/api/channels/search/"} {
			if got := detail(t, w.Anonymous().In(t).Must(422, "GET", path, nil)); !strings.Contains(got, "Field required") {
				t.Errorf("%s: %s", path, got)
			}
		}
	})
	t.Run("hostile searches are answered", func(t *testing.T) {
		for _, q := range []string{"\x00", "a\x00b", `"' OR 1=1 --"`, "@v1", strings.Repeat("x ", 40), "channel:", "-description:,", "☃", "\\\\"} {
			w.Anonymous().In(t).Must(200, "GET", "/api/packages/search/?q="+url.QueryEscape(q), nil)
		}
		w.Anonymous().In(t).Must(422, "GET", "/api/packages/search/?q="+url.QueryEscape(strings.Repeat("x ", 60)), nil)
	})
	channels := func(who, q string) string {
		c := w.Anonymous()
		if who == "bob" {
			c = bob
		}
		return string(c.In(t).Must(200, "GET", "/api/channels/search/?q="+url.QueryEscape(q), nil).Body)
	}
	const tools, hidden = `{"name":"Tools","description":"Things for Work","private":false}`, `{"name":"hidden","description":"of bob","private":true}`
	for _, c := range []struct{ who, q, want string }{
		{"", "TOOL", tools},
		{"", "description:work", tools},
		{"", "-description:work tool", ""},
		{"", "private:false tool", tools},
		{"", "private:true", ""},
		{"bob", "private:true", hidden},
		{"bob", "hidden private:True", hidden},
		{"bob", "-private:false", hidden},
		{"", "hidden", ""},
		{"", "more", `{"name":"more","description":null,"private":false}`},
		{"", "tool summary:x", tools},
	} {
		t.Run(fmt.Sprintf("channels: %s %q", c.who, c.q), func(t *testing.T) {
			if got := channels(c.who, c.q); got != "["+c.want+"]" {
				t.Errorf("%s, want [%s]", got, c.want)
			}
		})
	}
}
