package channels

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRedirectsGoUpstreamWithoutCredentials(t *testing.T) {
	for _, tt := range []struct{ upstream, url, path, want string }{
		{"https://up.example/c", "", "noarch/a-1-0.conda", "https://up.example/c/noarch/a-1-0.conda"},
		{"https://up.example/c///", "", "noarch/a-1-0.conda", "https://up.example/c/noarch/a-1-0.conda"},
		{"https://up.example", "", "noarch/x264-1!164-0.conda", "https://up.example/noarch/x264-1%21164-0.conda"},
		{"https://u:p@up.example/c", "", "noarch/a-1-0.conda", "https://up.example/c/noarch/a-1-0.conda"},
		{"https://up.example/c", "https://u:p@cdn.example/f", "noarch/a-1-0.conda", "https://cdn.example/f"},
		{"https://up.example/c", "sub/f.conda", "noarch/a-1-0.conda", "https://up.example/c/sub/f.conda"},
		{"https://up.example/c", "javascript:alert(1)", "noarch/a-1-0.conda", ""},
		{"https://up.example/c", "file:///etc/passwd", "noarch/a-1-0.conda", ""},
		{"", "", "noarch/a-1-0.conda", ""},
	} {
		got := redirectURL(tt.upstream, &fileRow{Path: tt.path, URL: tt.url})
		if strings.ReplaceAll(got, "%21", "!") != strings.ReplaceAll(tt.want, "%21", "!") {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}

func TestSymmetricDifference(t *testing.T) {
	sorted := rapid.Map(rapid.MapOf(rapid.StringMatching(`[a-d]{1,2}`), rapid.Just(true)), func(m map[string]bool) map[string]bool { return m })
	rapid.Check(t, func(t *rapid.T) {
		a, b := sorted.Draw(t, "a"), sorted.Draw(t, "b")
		var want []string
		for _, k := range sortedKeys(a, b) {
			if a[k] != b[k] {
				want = append(want, k)
			}
		}
		if d := cmp.Diff(want, symmetricDifference(sortedKeys(a), sortedKeys(b))); d != "" {
			t.Fatal(d)
		}
	})
}

func sortedKeys(ms ...map[string]bool) []string {
	all := map[string]bool{}
	for _, m := range ms {
		for k := range m {
			all[k] = true
		}
	}
	var out []string
	for k := range all {
		out = append(out, k)
	}
	for i := range out { // a handful: insertion sort keeps this free of what is tested
		for j := i; j > 0 && out[j] < out[j-1]; j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

func TestUpstreamsPlacesAreNotPassedOn(t *testing.T) {
	extra, relations, err := infoExtra([]byte(`{"subdir":"x","base_url":"https://up","shards_base_url":"y","created_at":"z","channel_relations":{"a":1},"platform":"linux","arch":null}`))
	if err != nil || string(relations) != `{"a":1}` {
		t.Fatalf("%s, %v", relations, err)
	}
	var keys []string
	for _, m := range extra {
		keys = append(keys, m.Key)
	}
	if d := cmp.Diff([]string{"arch", "platform"}, keys); d != "" {
		t.Error(d)
	}
	if _, _, err := infoExtra([]byte(`[]`)); err == nil {
		t.Error("a list is no info")
	}
}

func TestFactsOutOfNothing(t *testing.T) {
	if parseFacts([]byte(`{`)) != nil || parseFacts(nil) != nil {
		t.Error("facts out of nothing")
	}
}
