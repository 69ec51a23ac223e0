package stack_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// Names that would lead out of their directory, and records that are no records: each is named and left out, and no
// request is made for it.
func TestBadNamesAndRecordsFailAlone(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "records")
	var good []string
	for i := range 20 {
		good = append(good, m.ch.Add("noarch", fmt.Sprintf("good%02d", i), "1.0", content(i, 400)))
	}
	stop := m.watch(0, "noarch")
	want := map[string]string{}
	for _, name := range []string{
		"../evil-1.0-0.conda", "../../../../etc/evil-1.0-0.conda", "/abs-1.0-0.conda", "..-1.0-0.conda", "a/b-1.0-0.conda", `a\b-1.0-0.conda`,
		"%2e%2e%2fevil-1.0-0.conda", ".hidden-1.0-0.conda", "no-version.conda", "archive.zip", "x-1.0-0.conda/", "", ".", "..",
		"ＡＢ-1.0-0.conda", "evil-1.0/../..-0.conda", "evil-1.0-0/../x.conda", "sp ace-1.0-0.conda",
	} {
		m.ch.List("noarch", name, map[string]any{"name": "evil", "version": "1.0", "build": "0", "build_number": 0, "size": 3})
		want["noarch/"+name] = "BAD_RECORD"
	}
	m.ch.List("noarch", "nul\x00-1.0-0.conda", map[string]any{"name": "nul", "version": "1.0", "build": "0", "build_number": 0})
	want["noarch/nul\uFFFD-1.0-0.conda"] = "BAD_RECORD"
	long := strings.Repeat("long", 200) + "-1.0-0.conda"
	m.ch.List("noarch", long, map[string]any{"name": strings.Repeat("long", 200), "version": "1.0", "build": "0", "build_number": 0})

	deep := any("bottom")
	for range 5000 {
		deep = []any{deep}
	}
	for name, edit := range map[string]map[string]any{
		"another-name":    {"name": "somebody-else"},
		"another-version": {"version": "9"},
		"no-name":         {"name": nil},
		"no-string":       {"version": 1.0},
		"bad-sha":         {"sha256": "abc"},
		"sha-traversal":   {"sha256": "../../../../etc/passwd"},
		"bad-md5":         {"sha256": nil, "md5": "zz"},
		"negative":        {"build_number": -1},
		"huge-size":       {"size": uint64(1) << 63},
		"deep":            {"depends": deep},
		"endless-number":  {"extra": rawNumber("1e999")},
		"hidden-number":   {"extra": []any{"a", rawNumber("-1E+400")}},
	} {
		path := m.ch.Add("noarch", name, "1.0", content(len(name), 300))
		for k, v := range edit {
			m.ch.Edit(path, k, v)
		}
		want[path] = "BAD_RECORD"
	}
	over := m.ch.Add("noarch", "oversize", "1.0", []byte("small"))
	m.ch.Edit(over, "size", int64(65<<20))
	want[over] = "UPSTREAM_TOO_LARGE"
	size := m.ch.Add("noarch", "wrong-size", "1.0", content(77, 300))
	m.ch.Edit(size, "size", 200)
	want[size] = "UPSTREAM_TOO_LARGE"
	less := m.ch.Add("noarch", "less", "1.0", content(78, 300))
	m.ch.Edit(less, "size", 400)
	want[less] = "DIGEST_MISMATCH"

	// Odd, but to be had.
	md5only := m.ch.Add("noarch", "md5-only", "1.0", content(80, 300))
	m.ch.Edit(md5only, "sha256", nil)
	bare, _ := synctest.Package(t, "noarch", "bare", "1.0", 1)
	nothing := m.ch.Add("noarch", "bare", "1.0", bare)
	m.ch.Edit(nothing, "sha256", nil)
	m.ch.Edit(nothing, "md5", nil)
	sizeless := m.ch.Add("noarch", "sizeless", "1.0", content(81, 300))
	m.ch.Edit(sizeless, "size", nil)
	strange := m.ch.Add("noarch", "strange", "1.0", content(82, 300))
	m.ch.Edit(strange, "x\x00y", map[string]any{"k": []any{1, "ü", nil, 1e300, -0.5}})
	m.ch.Removed("noarch", "../../gone-1.0-0.conda", "nul\x00-1-0.conda", "gone-1.0-0.conda", "gone-1.0-0.conda", "not-a-package.txt")
	good = append(good, md5only, nothing, sizeless, strange)

	r := m.sync(nil)
	got := r.failures()
	for path, reason := range got {
		switch {
		case strings.HasPrefix(path, "noarch/longlong"):
			delete(got, path)
		case strings.HasPrefix(path, "noarch/removed"), path == "noarch/0", path == "noarch/1":
			t.Logf("%s: %s", path, reason)
		}
	}
	want["noarch/removed"] = "BAD_RECORD" // names under it; they have no file of their own
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if r.Added != int64(len(good)) {
		t.Errorf("added %d, want %d", r.Added, len(good))
	}
	slices.Sort(good)
	m.indexed("noarch", good...)
	m.good(good...)
	for _, req := range m.up.Requests() {
		if strings.Contains(req.Path, "evil") || strings.Contains(req.Path, "..") || strings.Contains(req.Path, "long") || strings.Contains(req.Path, "another") {
			t.Errorf("upstream was asked for %q", req.Path)
		}
	}
	if report := stop(); report.Files == 0 {
		t.Error("the reader read nothing")
	}
}

// rawNumber is written into JSON as it stands.
type rawNumber string

func (n rawNumber) MarshalJSON() ([]byte, error) { return []byte(n), nil }
