package teletest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// proxied has a proxy channel of this name fetch, serve and miss something.
func proxied(t *testing.T, s *platformtest.Stack, name string) {
	t.Helper()
	s.Admin().In(t).Must(201, "POST", "/api/channels", map[string]any{
		"name": name, "private": false, "mirror_channel_url": upstream(t).URL, "mirror_mode": "proxy",
	})
	for range 2 {
		s.Anonymous().In(t).Must(200, "GET", "/get/"+name+"/noarch/repodata.json", nil)
		s.Anonymous().In(t).Must(200, "GET", "/get/"+name+"/noarch/alpha-1.0-0.conda", nil)
	}
	s.Anonymous().In(t).Must(404, "GET", fmt.Sprintf("/get/%s/noarch/%s-1.0-0.conda", name, name), nil)
}

// TestOneTraceThroughAProxy: the upstream's request hangs below the client's.
func TestOneTraceThroughAProxy(t *testing.T) {
	s, r := traced(t)
	up := upstream(t)
	s.Admin().In(t).Must(201, "POST", "/api/channels", map[string]any{
		"name": "traced", "private": false, "mirror_channel_url": up.URL, "mirror_mode": "proxy",
	})
	s.Anonymous().In(t).Must(200, "GET", "/get/traced/noarch/alpha-1.0-0.conda", nil)
	s.Stop() // which sends what is left
	all := r.all()
	found := false
	for _, sp := range all {
		if sp.name != "fetch GET" || !strings.HasSuffix(sp.attrs["url.full"], "/noarch/alpha-1.0-0.conda") {
			continue
		}
		found = true
		var path []string
		for at, ok := sp, true; ok; at, ok = all[at.parent] {
			path = append(path, at.name)
		}
		slices.Reverse(path)
		if at := strings.Join(path, " > "); !strings.HasPrefix(at, "GET /get/") || !strings.HasSuffix(at, "fetch plane > proxy flight > fetch GET") {
			t.Errorf("the upstream's request hangs at %s", at)
		}
	}
	if !found {
		t.Errorf("no span of the upstream's request; there are %v", names(all))
	}
	if !slices.ContainsFunc(up.Requests(), func(q fetchtest.Request) bool { return q.Path == "/noarch/alpha-1.0-0.conda" }) {
		t.Error("upstream was not asked")
	}
}
