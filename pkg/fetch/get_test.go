package fetch_test

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestGet(t *testing.T) {
	data := noise(1, 5000)
	up := fetchtest.New(t)
	up.Fallback(fetchtest.Static(map[string][]byte{"base/f": data, "base/a b/c+d%e!.conda": data, "base/dir/": []byte("listing"), "base/": []byte("root")}))
	r := newRemote(t, newClient(t), up.URL+"/base")

	t.Run("a file comes with what its header says", func(t *testing.T) {
		b, resp, err := get(t, r, fetch.Request{Path: "f"})
		if err != nil || !bytes.Equal(b, data) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		resp.Body, resp.Header = nil, nil
		want := &fetch.Response{
			Status: 200, ETag: fetchtest.ETag(data), LastModified: fetchtest.Modified, ContentType: "application/octet-stream",
			Size: 5000, Total: 5000, FinalURL: up.URL + "/base/f",
		}
		if d := cmp.Diff(want, resp, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".decoded" }, cmp.Ignore())); d != "" {
			t.Error(d)
		}
	})
	t.Run("paths are encoded, and a plus sign survives servers that read it as a space", func(t *testing.T) {
		if _, resp, err := get(t, r, fetch.Request{Path: "a b/c+d%e!.conda"}); err != nil || !strings.HasSuffix(resp.FinalURL, "/base/a%20b/c%2Bd%25e%21.conda") {
			t.Errorf("%+v, %v", resp, err)
		}
		for path, want := range map[string]string{"dir/": "listing", "": "root"} {
			if b, _, err := get(t, r, fetch.Request{Path: path}); err != nil || string(b) != want {
				t.Errorf("%q: %q, %v", path, b, err)
			}
		}
	})
	t.Run("what is no path is refused before anything is asked", func(t *testing.T) {
		up.Reset()
		for _, req := range []fetch.Request{{Path: "../x"}, {Path: "/etc"}, {Path: "a//b"}, {Path: "%2e%2e/x"}, {URL: "x"}, {Path: "a", URL: "http://h/"}, {Path: "a", Method: "POST"}, {Path: "a", Range: &fetch.Range{Start: 5, End: 2}}} {
			if _, _, err := get(t, r, req); !fault.Is(err, fault.Invalid) {
				t.Errorf("%+v: %v", req, err)
			}
		}
		if _, err := r.Get(t.Context(), fetch.Request{Path: "f"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("without a cap: %v", err)
		}
		if n := len(up.Requests()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("a conditional request is not modified", func(t *testing.T) {
		for _, req := range []fetch.Request{{Path: "f", IfNoneMatch: fetchtest.ETag(data)}, {Path: "f", IfModifiedSince: fetchtest.Modified}} {
			b, resp, err := get(t, r, req)
			if err != nil || !resp.NotModified || len(b) != 0 {
				t.Errorf("%+v, %v", resp, err)
			}
		}
		if _, resp, err := get(t, r, fetch.Request{Path: "f", IfNoneMatch: `"other"`}); err != nil || resp.NotModified {
			t.Errorf("%+v, %v", resp, err)
		}
	})
	t.Run("HEAD has the size and no body", func(t *testing.T) {
		b, resp, err := get(t, r, fetch.Request{Path: "f", Method: http.MethodHead})
		if err != nil || resp.Size != 5000 || len(b) != 0 {
			t.Errorf("%+v, %v", resp, err)
		}
	})
	t.Run("ranges", func(t *testing.T) {
		for _, tc := range []struct {
			rng    fetch.Range
			offset int64
			want   []byte
		}{{fetch.Range{Start: 10, End: 19}, 10, data[10:20]}, {fetch.Range{Start: 4990, End: -1}, 4990, data[4990:]}, {fetch.Range{Start: -7, End: -1}, 4993, data[4993:]}} {
			b, resp, err := get(t, r, fetch.Request{Path: "f", Range: &tc.rng, MaxSize: int64(len(tc.want))})
			if err != nil || !bytes.Equal(b, tc.want) || resp.Status != 206 || resp.Offset != tc.offset || resp.Total != 5000 {
				t.Errorf("%+v: %+v, %v", tc.rng, resp, err)
			}
		}
		_, _, err := get(t, r, fetch.Request{Path: "f", Range: &fetch.Range{Start: 5000, End: -1}})
		if fetch.StatusOf(err) != 416 {
			t.Errorf("past the end: %v", err)
		}
		up.Script("/base/wrong", fetchtest.WrongRange(data, 20))
		_, _, err = get(t, r, fetch.Request{Path: "wrong", Range: &fetch.Range{Start: 10, End: -1}})
		wantReason(t, err, fault.Upstream, fetch.ReasonProtocol)
		_, _, err = get(t, r, fetch.Request{Path: "wrong"})
		wantReason(t, err, fault.Upstream, fetch.ReasonProtocol)
	})
	t.Run("a query is added", func(t *testing.T) {
		up.Reset()
		if _, _, err := get(t, r, fetch.Request{Path: "f", Query: url.Values{"repo": {"x y"}}}); err != nil || up.Requests()[0].Query != "repo=x+y" {
			t.Errorf("%+v, %v", up.Requests(), err)
		}
	})
	t.Run("the user agent is ours, with the remote's appended, and identity is asked for", func(t *testing.T) {
		up.Reset()
		r := newRemote(t, newClient(t), up.URL+"/base", func(c *fetch.RemoteConfig) { c.Headers = http.Header{"User-Agent": {"plus"}, "X-Own": {"1"}} })
		if _, _, err := get(t, r, fetch.Request{Path: "f", Accept: "application/json"}); err != nil {
			t.Fatal(err)
		}
		want := http.Header{"User-Agent": {"entrepot plus"}, "X-Own": {"1"}, "Accept-Encoding": {"identity"}, "Accept": {"application/json"}}
		if d := cmp.Diff(want, up.Requests()[0].Header); d != "" {
			t.Error(d)
		}
	})
}
