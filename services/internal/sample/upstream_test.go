package sample

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func serve(t *testing.T, n int) *Upstream {
	t.Helper()
	u, err := Serve(t.TempDir(), Options{Packages: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func get(t *testing.T, u *Upstream, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.URL+"/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestTheUpstreamAnswersAsAWebServerDoes(t *testing.T) {
	u := serve(t, 8)
	f := u.Channel.Files[0]
	resp, body := get(t, u, f.Path)
	if resp.StatusCode != 200 || describe(f.Path, body) != f {
		t.Fatalf("%d with %d bytes, want %+v", resp.StatusCode, len(body), f)
	}
	etag := resp.Header.Get("ETag")
	if etag == "" || resp.Header.Get("Last-Modified") == "" {
		t.Errorf("no validators: %v", resp.Header)
	}
	if resp, _ := get(t, u, f.Path, "If-None-Match", etag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("a fresh copy is answered %d", resp.StatusCode)
	}
	if resp, part := get(t, u, f.Path, "Range", "bytes=10-19"); resp.StatusCode != 206 || !bytes.Equal(part, body[10:20]) {
		t.Errorf("a range is answered %d with %d bytes", resp.StatusCode, len(part))
	}
	for _, path := range []string{"nothing", "linux-64", "../sample.go", "linux-64/../../x"} {
		if resp, _ := get(t, u, path); resp.StatusCode != 404 {
			t.Errorf("%s is answered %d", path, resp.StatusCode)
		}
	}
	if u.RequestsOf(f.Path) != 3 || u.NotModified() != 1 || u.Requests() != 7 {
		t.Errorf("counted %d for the path, %d not modified, %d in all", u.RequestsOf(f.Path), u.NotModified(), u.Requests())
	}
}

func TestCorruptSpoilsSomeFilesBehindTheIndex(t *testing.T) {
	u := serve(t, 20)
	_, _ = get(t, u, "linux-64/repodata.json")
	spoilt, err := u.Corrupt(3)
	if err != nil {
		t.Fatal(err)
	}
	if len(spoilt) != 3 || !slices.IsSorted(spoilt) {
		t.Fatalf("spoilt %v", spoilt)
	}
	for _, f := range u.Channel.Files {
		_, body := get(t, u, f.Path)
		same := describe(f.Path, body) == f
		if int64(len(body)) != f.Size || same == slices.Contains(spoilt, f.Path) {
			t.Errorf("%s: %d bytes of %d, unchanged %v", f.Path, len(body), f.Size, same)
		}
	}
	more, err := u.Corrupt(17)
	if err != nil {
		t.Fatal(err)
	}
	all := append(slices.Clone(spoilt), more...)
	slices.Sort(all)
	var want []string
	for _, f := range u.Channel.Files {
		want = append(want, f.Path)
	}
	if d := cmp.Diff(want, all); d != "" {
		t.Errorf("not every file was spoilt exactly once:\n%s", d)
	}
	if _, err := u.Corrupt(1); err == nil || !strings.Contains(err.Error(), "cannot spoil 1 of 0") {
		t.Errorf("spoiling more than there is: %v", err)
	}
}

func TestASecondCloseIsHarmless(t *testing.T) {
	u := serve(t, 1)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
}
