package condacli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// run runs a command and returns what it printed and its exit code.
func run(t *testing.T, stdin string, args ...string) (out, errs string, code int) {
	t.Helper()
	t.Setenv("ENTREPOT_CACHE_DIR", filepath.Join(t.TempDir(), "cache"))
	var stdout, stderr bytes.Buffer
	c := Command("test")
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	err := c.ExecuteContext(t.Context())
	var exit interface{ ExitCode() int }
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		code = 2
		stderr.WriteString(err.Error())
	}
	return stdout.String(), stderr.String(), code
}

// channel makes a channel in a directory and returns it.
func channel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, ix := range []archive.Index{
		{Name: "app", Version: "1", Build: "0", Subdir: "linux-64", Depends: []string{"lib >=2", "__glibc >=2.17"}},
		{Name: "lib", Version: "1", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric},
		{Name: "lib", Version: "2", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric},
	} {
		var buf bytes.Buffer
		d, err := archive.Create(t.Context(), &buf, dist.Conda, archive.Meta{Index: ix}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, ix.Subdir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ix.Subdir, d.Filename()), buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, code := run(t, "", "index", "--json", dir)
	if code != 0 {
		t.Fatalf("index: %d\n%s%s", code, out, errs)
	}
	return dir
}

func TestLinesAreAnsweredOneByOne(t *testing.T) {
	for _, c := range []struct {
		args        []string
		stdin, want string
	}{
		{[]string{"version", "compare"}, "1.0\t1.1\n1.1\t1.1.0\r\n2\t1\nx y\t1\nonly\n", "-1\n0\n1\n!ERR …\n!ERR …\n"},
		{[]string{"version", "match"}, ">=1,<2\t1.5\n<1\t1\n>=\t1\n", "1\n0\n!ERR …\n"},
		{[]string{"spec", "canonical"}, "numpy 1.26.*\nconda-forge::NumPy[version='>=1']\n[[\n\n", "numpy=1.26\nconda-forge::numpy[version='>=1']\n!ERR …\n!ERR …\n"},
	} {
		out, errs, code := run(t, c.stdin, c.args...)
		var lines []string
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "!ERR ") {
				line = "!ERR …\n"
			}
			lines = append(lines, line)
		}
		if diff := cmp.Diff(c.want, strings.Join(lines, "")); diff != "" || code != 0 || errs != "" {
			t.Errorf("%v: code %d, %s\n%s", c.args, code, errs, diff)
		}
	}
	if out, _, code := run(t, "", "version", "compare", "1", "2"); out != "-1\n" || code != 0 {
		t.Errorf("with arguments: %q, %d", out, code)
	}
	if _, errs, code := run(t, "", "version", "compare", "1"); code != 2 || !strings.Contains(errs, "A and B") {
		t.Errorf("one argument: %d, %s", code, errs)
	}
	if _, _, code := run(t, strings.Repeat("x", maxLine+1), "spec", "canonical"); code != 2 {
		t.Errorf("an endless line: %d", code)
	}
}

func TestSolvePrintsWhatFits(t *testing.T) {
	dir := channel(t)
	base := []string{"solve", "-c", dir, "--platform", "linux-64", "--virtual-package", "__glibc=2.28"}
	out, errs, code := run(t, "", append(base, "--json", "app")...)
	var got answer
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || errs != "" {
		t.Fatalf("%d, %v, %s", code, err, errs)
	}
	if got.Status != solved || len(got.Records) != 2 || got.Records[1].Version != "2" || got.Records[0].URL != "file://"+dir+"/linux-64/app-1-0.conda" || got.Records[0].SHA256 == "" {
		t.Errorf("%+v", got)
	}
	if out, _, code := run(t, "", append(base, "app")...); code != 0 || !strings.Contains(out, "app   1        0      linux-64") || !strings.Contains(out, "2 packages") {
		t.Errorf("%d\n%s", code, out)
	}
	out, _, code = run(t, "", append(base, "--json", "app", "lib <2")...)
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 1 || got.Status != unsolvable || !strings.Contains(got.Explanation, "lib >=2") {
		t.Errorf("%d, %v, %+v", code, err, got)
	}
	if out, errs, code := run(t, "", append(base, "app", "lib <2")...); code != 1 || out != "" || !strings.Contains(errs, "lib >=2") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if _, errs, code := run(t, "", "solve", "-c", dir, "--platform", "linux-64", "--virtual-package", "__glibc=", "app"); code != 1 || !strings.Contains(errs, "__glibc") {
		t.Errorf("without glibc: %d, %s", code, errs)
	}
}

func TestSolveRefusesBadQuestions(t *testing.T) {
	dir := channel(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"solve", "app"}, "-c"},
		{[]string{"solve", "-c", dir}, "SPEC is missing"},
		{[]string{"solve", "-c", dir, "a[[b"}, "invalid match spec"},
		{[]string{"solve", "-c", dir, "--platform", "../x", "app"}, "--platform"},
		{[]string{"solve", "-c", filepath.Join(dir, "nothing"), "app"}, "no such directory"},
		{[]string{"solve", "-c", t.TempDir(), "app"}, "is no channel"},
		{[]string{"solve", "-c", "ftp://host/x", "app"}, "channel"},
		{[]string{"solve", "-c", dir, "--strategy", "best", "app"}, "strategy"},
		{[]string{"solve", "-c", dir, "--virtual-package", "glibc=1", "app"}, "--virtual-package"},
		{[]string{"solve", "-c", dir, "--exclude-newer", "yesterday", "app"}, "exclude-newer"},
		{[]string{"solve", "-c", dir, "--batch", "app"}, "--batch"},
		{[]string{"solve", "-c", dir, "--offline", "--no-cache", "app"}, "--offline"},
		{[]string{"solve", "--no-such-flag"}, "--help"},
		{[]string{"nonsense"}, "no command"},
	} {
		if _, errs, code := run(t, "", c.args...); code != 2 || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d, %s; want 2 and %q", c.args, code, errs, c.want)
		}
	}
}

func TestABatchIsAnsweredLineByLine(t *testing.T) {
	dir := channel(t)
	in := `{"specs":["lib"]}
{"specs":["lib >=9"]}

{"specs":["lib"],"strategy":"lowest"}
{"specs":[]}
{"spec":["lib"]}
nonsense
{"specs":["app"],"virtual_packages":["__glibc=2.5"]}
`
	out, errs, code := run(t, in, "solve", "--batch", "-c", dir, "--platform", "linux-64")
	if code != 0 || errs != "" {
		t.Fatalf("%d, %s", code, errs)
	}
	var got []string
	for line := range strings.Lines(out) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		version := ""
		if len(a.Records) > 0 {
			version = " " + a.Records[0].Version
		}
		got = append(got, a.Status+version)
	}
	if diff := cmp.Diff([]string{"solved 2", "unsolvable", "solved 1", "error", "error", "error", "unsolvable"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAChannelBehindAServerIsReadOnce(t *testing.T) {
	dir := channel(t)
	asked := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("ETag", `"x"`)
		_, _ = w.Write(data)
	}))
	cache := t.TempDir()
	args := []string{"solve", "-c", server.URL, "--cache-dir", cache, "--platform", "linux-64", "--virtual-package", "__glibc=2.28", "--json", "app"}
	first, errs, code := run(t, "", args...)
	if code != 0 || errs != "" || len(asked) == 0 {
		t.Fatalf("%d, %s, %v", code, errs, asked)
	}
	clear(asked)
	if _, _, code := run(t, "", args...); code != 0 || len(asked) != 0 {
		t.Errorf("fresh: %d, asked for %v", code, asked)
	}
	server.Close()
	var a, b answer
	offline, errs, code := run(t, "", append(args, "--offline")...)
	if err := errors.Join(json.Unmarshal([]byte(first), &a), json.Unmarshal([]byte(offline), &b)); err != nil || code != 0 || len(b.Records) != 2 {
		t.Errorf("offline: %d, %v, %s", code, err, errs)
	}
	if diff := cmp.Diff(a.Records, b.Records); diff != "" {
		t.Error(diff)
	}
}

func TestSearchListsTheBestFirst(t *testing.T) {
	dir := channel(t)
	out, _, code := run(t, "", "search", "-c", dir, "--platform", "linux-64", "--json", "lib")
	var got struct {
		Records []record
		Total   int
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || got.Total != 2 || got.Records[0].Version != "2" {
		t.Errorf("%d, %v, %s", code, err, out)
	}
	if out, _, code := run(t, "", "search", "-c", dir, "--platform", "linux-64", "*i*"); code != 0 || !strings.Contains(out, "lib") || strings.Contains(out, "app") {
		t.Errorf("%d, %s", code, out)
	}
	if out, errs, code := run(t, "", "search", "-c", dir, "nothing"); code != 1 || out != "" || !strings.Contains(errs, "nothing matches") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
}

func TestInspectTellsGoodFromBad(t *testing.T) {
	dir := channel(t)
	good := filepath.Join(dir, "linux-64", "app-1-0.conda")
	out, errs, code := run(t, "", "inspect", "--verify", "--paths", "--json", good)
	var got inspection
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || !got.Verified || got.SHA256 == "" {
		t.Errorf("%d, %v, %s, %s", code, err, out, errs)
	}
	if out, _, code := run(t, "", "inspect", good); code != 0 || !strings.Contains(out, "lib >=2") {
		t.Errorf("%d, %s", code, out)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "app-1-0.conda")
	if err := os.WriteFile(bad, data[:len(data)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := run(t, "", "inspect", bad, good); code != 1 || !strings.Contains(errs, bad) || !strings.Contains(out, good) {
		t.Errorf("%d, %s, %s", code, out, errs)
	}
}
