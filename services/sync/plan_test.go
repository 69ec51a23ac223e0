package sync

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// planOf makes a plan of documents by subdir, and reads it back.
func (b *bundle) planOf(settings *channelsv1.MirrorSettings, docs map[string]string) (*channelsv1.PlanHeader, []*channelsv1.PlanEntry, *Result) {
	b.t.Helper()
	var found []index
	for _, subdir := range []string{"linux-64", "linux-64-v2", "noarch", "osx-64"} {
		if doc, ok := docs[subdir]; ok {
			d := b.put([]byte(doc))
			found = append(found, index{subdirState: subdirState{Subdir: subdir, IndexPath: subdir + "/repodata.json", IndexDigest: d[:], Records: 1}})
		}
	}
	r := &Result{}
	info, total, err := makePlan(b.t.Context(), planInput{blobs: b.blobs, remote: b.remote, settings: settings}, found, r)
	if err != nil {
		b.t.Fatal(err)
	}
	rd, err := plan.Open(b.t.Context(), b.blobs, info.Digest, plan.Limits{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer rd.Close()
	var list []*channelsv1.PlanEntry
	for e, err := range rd.All() {
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, e)
	}
	if int64(len(list)) != total {
		b.t.Errorf("%d entries, %d told", len(list), total)
	}
	return rd.Header(), list, r
}

func paths(list []*channelsv1.PlanEntry) (out []string) {
	for _, e := range list {
		p := e.GetPath()
		if e.GetKeep() {
			p += " keep"
		}
		if e.GetRedirect() {
			p += " redirect"
		}
		out = append(out, p)
	}
	return out
}

func doc(conda ...string) string { return `{"packages.conda":{` + strings.Join(conda, ",") + `}}` }

func rec(name, extra string) string {
	return fmt.Sprintf(`"%s-1-0.conda":{"name":%q,"version":"1","build":"0","build_number":0%s}`, name, name, extra)
}

func TestAPlanHasEveryRecordByteForByte(t *testing.T) {
	b := setup(t)
	sum := strings.Repeat("ab", 32)
	raw := `{"name":"a","version":"1","build":"0","build_number":7, "unknown" : [1.0,"\u00e9"],"sha256":"` + sum + `","md5":"` + sum[:32] + `","size":12}`
	h, list, r := b.planOf(nil, map[string]string{
		"noarch": `{"info":{"subdir":"noarch"},"packages":{"a-1-0.tar.bz2":` + raw + `},"packages.conda":{"a-1-0.conda":` + raw + `},"removed":["b-1-0.conda"]}`,
	})
	bin, err := hex.DecodeString(sum)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(path string) *channelsv1.PlanEntry {
		return &channelsv1.PlanEntry{
			Path: path, Sha256: bin, Md5: bin[:16], Size: 12, Name: "a", Version: "1", Build: "0", BuildNumber: 7, Arch: "noarch", Record: []byte(raw),
		}
	}
	want := []*channelsv1.PlanEntry{entry("noarch/a-1-0.conda"), entry("noarch/a-1-0.tar.bz2")}
	if diff := cmp.Diff(want, list, protocmp.Transform()); diff != "" || r.Failed != 0 {
		t.Errorf("%+v (-want +got):\n%s", r, diff)
	}
	wantHeader := &channelsv1.PlanHeader{Version: 1, Format: "conda", Entries: 2, Subdirs: []*channelsv1.PlanSubdir{{Subdir: "noarch", Removed: []string{"b-1-0.conda"}}}}
	if diff := cmp.Diff(wantHeader, h, protocmp.Transform()); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestAPlanIsSortedOverSubdirs(t *testing.T) {
	b := setup(t)
	_, list, _ := b.planOf(nil, map[string]string{"noarch": doc(rec("b", ""), rec("a", "")), "linux-64": doc(rec("z", "")), "linux-64-v2": doc(rec("c", ""))})
	want := []string{"linux-64-v2/c-1-0.conda", "linux-64/z-1-0.conda", "noarch/a-1-0.conda", "noarch/b-1-0.conda"}
	if diff := cmp.Diff(want, paths(list)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListsOfSettings(t *testing.T) {
	b := setup(t)
	docs := map[string]string{"noarch": doc(rec("numpy", ""), rec("numpy-financial", ""), rec("pandas", ""))}
	for name, tc := range map[string]struct {
		settings *channelsv1.MirrorSettings
		want     []string
	}{
		"include is a prefix": {&channelsv1.MirrorSettings{Includelist: []string{"numpy"}}, []string{"noarch/numpy-1-0.conda", "noarch/numpy-financial-1-0.conda"}},
		"exclude":             {&channelsv1.MirrorSettings{Excludelist: []string{"numpy-f"}}, []string{"noarch/numpy-1-0.conda", "noarch/pandas-1-0.conda"}},
		"include wins":        {&channelsv1.MirrorSettings{Includelist: []string{"pandas"}, Excludelist: []string{"p"}}, []string{"noarch/pandas-1-0.conda"}},
		"proxy is by name":    {&channelsv1.MirrorSettings{Proxylist: []string{"numpy"}}, []string{"noarch/numpy-1-0.conda redirect", "noarch/numpy-financial-1-0.conda", "noarch/pandas-1-0.conda"}},
	} {
		if _, list, _ := b.planOf(tc.settings, docs); cmp.Diff(tc.want, paths(list)) != "" {
			t.Errorf("%s: %v", name, paths(list))
		}
	}
}

func TestOddRecordsConcernThemselves(t *testing.T) {
	b := setup(t)
	_, list, r := b.planOf(nil, map[string]string{"noarch": `{"packages.conda":{` + strings.Join([]string{
		rec("good", ""), rec("bad-sha", `,"sha256":"xyz"`), rec("null-digests", `,"sha256":null,"md5":null,"size":null`), `"x-2-0.conda":{"name":"y","version":"2","build":"0"}`,
		`"a/../b-1-0.conda":{"name":"b","version":"1","build":"0"}`, `"list-1-0.conda":[]`, rec("twice", `,"a":1,"a":2`), rec("inf", `,"x":1e999`),
	}, ",") + `},"v3":{"conda":{"new-1-0":{"name":"new","version":"1","build":"0"}}},"removed":["../up",7,"fine-1-0.conda"],"info":{"subdir":"noarch"}}`, "linux-64": doc(rec("other", ""))})
	want := []string{"linux-64/other-1-0.conda", "noarch/bad-sha-1-0.conda keep", "noarch/good-1-0.conda", "noarch/null-digests-1-0.conda", "noarch/x-2-0.conda keep"}
	if diff := cmp.Diff(want, paths(list)); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	got := map[string]int{}
	for _, f := range r.Failures {
		if f.Reason != reasonRecord || f.Error == "" {
			t.Errorf("%+v", f)
		}
		got[f.Path]++
	}
	wantFailed := map[string]int{
		"noarch/bad-sha-1-0.conda": 1, "noarch/x-2-0.conda": 1, "noarch/a/../b-1-0.conda": 1, "noarch/list-1-0.conda": 1,
		"noarch/twice-1-0.conda": 1, "noarch/inf-1-0.conda": 1, "noarch/removed": 2,
	}
	if diff := cmp.Diff(wantFailed, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "1 records of v3") {
		t.Errorf("%v", r.Warnings)
	}
}

func TestBaseURL(t *testing.T) {
	b := setup(t)
	up := b.up.URL
	for base, want := range map[string]string{
		"":                           "",
		"./":                         "",
		"files":                      "noarch/files/a+b-1-0.conda",
		"../pool/":                   "pool/a+b-1-0.conda",
		"../../above/":               "above/a+b-1-0.conda", // there is nothing above the root
		up + "/x/y":                  "x/y/a+b-1-0.conda",
		"https://cdn.example/c/":     "https://cdn.example/c/a+b-1-0.conda",
		"//cdn.example/c":            "http://cdn.example/c/a+b-1-0.conda",
		"https://u:p@cdn.example/c/": "https://cdn.example/c/a+b-1-0.conda",
		"file:///etc/":               "!",
		"javascript:alert(1)":        "!",
		"http://h/?q=":               "!",
		"http://[::1":                "!",
		"\x00":                       "!",
	} {
		text, err := json.Marshal(base)
		if err != nil {
			t.Fatal(err)
		}
		_, list, r := b.planOf(nil, map[string]string{
			"noarch":   fmt.Sprintf(`{"info":{"base_url":%s},"packages.conda":{"a+b-1-0.conda":{"name":"a+b","version":"1","build":"0"},%s}}`, text, rec("c", "")),
			"linux-64": doc(rec("good", "")),
		})
		if want == "!" {
			if r.Failed != 1 || r.Failures[0].Reason != reasonIndex || len(list) != 1 {
				t.Errorf("%q: %+v, %v", base, r, paths(list))
			}
			continue
		}
		if got := strings.ReplaceAll(list[len(list)-1].GetUrl(), "c-1-0", "a+b-1-0"); got != want || r.Failures[0].Path != "noarch/a+b-1-0.conda" {
			t.Errorf("%q: %q, want %q; %+v", base, got, want, r.Failures)
		}
	}
}

func TestAnUnreadableIndexIsNotNamedInThePlan(t *testing.T) {
	b := setup(t)
	h, list, r := b.planOf(nil, map[string]string{"noarch": `{"packages.conda":{`, "linux-64": doc(rec("a", ""))})
	if len(h.GetSubdirs()) != 1 || len(list) != 1 || r.Failed != 1 || r.Failures[0].Path != "noarch/repodata.json" {
		t.Errorf("%v %v %+v", h, paths(list), r)
	}
}

func TestRefusedArchivesAreKeptOut(t *testing.T) {
	b := setup(t)
	sum := strings.Repeat("cd", 32)
	d := b.put([]byte(doc(rec("a", `,"sha256":"`+sum+`"`), rec("b", ""))))
	bin, err := hex.DecodeString(sum)
	if err != nil {
		t.Fatal(err)
	}
	r := &Result{}
	in := planInput{blobs: b.blobs, remote: b.remote, rejected: map[blob.Digest]string{blob.Digest(bin): "it lies"}}
	_, _, err = makePlan(t.Context(), in, []index{{subdirState: subdirState{Subdir: "noarch", IndexPath: "noarch/repodata.json", IndexDigest: d[:], Records: 2}}}, r)
	if err != nil || cmp.Diff([]Failure{{"noarch/a-1-0.conda", "it lies", reasonPackage}}, r.Failures) != "" {
		t.Errorf("%v %+v", err, r)
	}
}

func TestAFingerprintChangesWithWhatThePlanIsMadeOf(t *testing.T) {
	found := []index{{subdirState: subdirState{Subdir: "noarch", IndexPath: "noarch/repodata.json", IndexDigest: []byte{1}}}}
	base := fingerprint(&channelsv1.MirrorSettings{Url: "u"}, false, found)
	if got := fingerprint(&channelsv1.MirrorSettings{Url: "u"}, false, found); string(got) != string(base) {
		t.Error("equal input, other fingerprint")
	}
	for name, got := range map[string][]byte{
		"url":     fingerprint(&channelsv1.MirrorSettings{Url: "v"}, false, found),
		"policy":  fingerprint(&channelsv1.MirrorSettings{Url: "u", RemovalPolicy: channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE}, false, found),
		"include": fingerprint(&channelsv1.MirrorSettings{Url: "u", Includelist: []string{"a"}}, false, found),
		"exclude": fingerprint(&channelsv1.MirrorSettings{Url: "u", Excludelist: []string{"a"}}, false, found),
		"proxy":   fingerprint(&channelsv1.MirrorSettings{Url: "u", Proxylist: []string{"a"}}, false, found),
		"subdirs": fingerprint(&channelsv1.MirrorSettings{Url: "u", Subdirs: []string{"a"}}, false, found),
		"inspect": fingerprint(&channelsv1.MirrorSettings{Url: "u"}, true, found),
		"index":   fingerprint(&channelsv1.MirrorSettings{Url: "u"}, false, []index{{subdirState: subdirState{Subdir: "noarch", IndexPath: "noarch/repodata.json", IndexDigest: []byte{2}}}}),
		"none":    fingerprint(&channelsv1.MirrorSettings{Url: "u"}, false, nil),
	} {
		if string(got) == string(base) {
			t.Errorf("another %s, equal fingerprint", name)
		}
	}
}

func TestFailuresAreFitToBeStored(t *testing.T) {
	var r Result
	r.fail("a\x00b\n\xff", "R", strings.Repeat("é", 1000))
	f := r.Failures[0]
	if f.Path != "a\uFFFDb\uFFFD\uFFFD" || len(f.Error) > maxText+3 || !strings.HasSuffix(f.Error, "é…") {
		t.Errorf("%q %d", f.Path, len(f.Error))
	}
	for range 2 * maxFailures {
		r.fail("x", "R", "e")
		r.warn("w")
	}
	if r.Failed != 2*maxFailures+1 || len(r.Failures) != maxFailures || len(r.Warnings) != maxWarnings {
		t.Errorf("%d counted, %d named, %d warnings", r.Failed, len(r.Failures), len(r.Warnings))
	}
	r = Result{}
	for range maxFailures {
		r.fail(strings.Repeat("<", 500), "R", strings.Repeat("&", 500)) // six bytes each
	}
	data, err := json.Marshal(r)
	if err != nil || len(data) > 600<<10 || r.Failed != maxFailures || len(r.Failures) < 50 {
		t.Errorf("%d bytes, %d named, %v", len(data), len(r.Failures), err)
	}
}
