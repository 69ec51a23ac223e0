package apitest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestBytes: how files are served; quetz.md §4, RFC 9110.
func TestBytes(t *testing.T) {
	w := newWorld(t)
	p := packages(t)[0]
	w.Admin().Must(201, "POST", "/api/channels/channel0/upload/"+p.filename+"?sha256=", p.data)
	priv := w.newChannel(t)
	path := "/get/channel0/" + p.subdir + "/" + p.filename
	anon := w.Anonymous()
	size := len(p.data)
	get := func(t *testing.T, path string, h http.Header) *platformtest.Response {
		t.Helper()
		return anon.In(t).Send(0, platformtest.Request{Method: "GET", Path: path, Header: h})
	}
	whole := get(t, path, nil)
	etag, modified := whole.Header.Get("ETag"), whole.Header.Get("Last-Modified")

	t.Run("a whole file, with all that clients want to know", func(t *testing.T) {
		if whole.Status != 200 || !bytes.Equal(whole.Body, p.data) {
			t.Fatalf("status %d, %d bytes", whole.Status, len(whole.Body))
		}
		want := map[string]string{
			"Content-Length": fmt.Sprint(size), "Content-Size": fmt.Sprint(size), "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream",
			"Cache-Control": "public, max-age=36000", "Etag": `"` + p.sha256 + `"`, "Content-Encoding": "", "Entrepot-Revision": "",
		}
		for name, value := range want {
			if got := whole.Header.Get(name); got != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
		if _, err := http.ParseTime(modified); err != nil {
			t.Errorf("Last-Modified %q", modified)
		}
	})
	t.Run("both prefixes are one", func(t *testing.T) {
		other := get(t, strings.Replace(path, "/get/", "/channels/", 1), nil)
		if !bytes.Equal(other.Body, whole.Body) || other.Header.Get("ETag") != etag {
			t.Error("/channels answers otherwise")
		}
	})
	t.Run("HEAD says what GET says", func(t *testing.T) {
		for _, path := range []string{path, "/get/channel0/noarch/repodata.json", "/get/channel0/noarch/none"} {
			g := get(t, path, nil)
			h := anon.In(t).Do("HEAD", path, nil)
			strip := func(h http.Header) http.Header {
				h = maps.Clone(h)
				h.Del("Date")
				h.Del("X-Request-Id")
				return h
			}
			if diff := cmp.Diff(strip(g.Header), strip(h.Header)); diff != "" || g.Status != h.Status || len(h.Body) != 0 {
				t.Errorf("%s: %d, %d, %d bytes: %s", path, g.Status, h.Status, len(h.Body), diff)
			}
		}
	})
	t.Run("ranges", func(t *testing.T) {
		for r, c := range map[string]struct {
			status   int
			from, to int // of the body
		}{
			"bytes=0-9":                      {206, 0, 10},
			"bytes=10-":                      {206, 10, size},
			"bytes=-7":                       {206, size - 7, size},
			"bytes=5-99999":                  {206, 5, size},
			"bytes=-999999":                  {206, 0, size}, // a suffix longer than the file is the file
			fmt.Sprintf("bytes=%d-", size-1): {206, size - 1, size},
			fmt.Sprintf("bytes=%d-", size):   {416, 0, 0},
			"bytes=99999-":                   {416, 0, 0},
			"bytes=9-5":                      {416, 0, 0},
			"lines=1-2":                      {416, 0, 0},
			"bytes=a-b":                      {416, 0, 0},
		} {
			resp := get(t, path, http.Header{"Range": {r}})
			if resp.Status != c.status && !(c.status == 416 && resp.Status == 200) { // a server may ignore what it does not understand
				t.Errorf("%s: status %d, want %d", r, resp.Status, c.status)
				continue
			}
			switch resp.Status {
			case 206:
				want := fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, size)
				if got := resp.Header.Get("Content-Range"); got != want || !bytes.Equal(resp.Body, p.data[c.from:c.to]) || resp.Header.Get("ETag") != etag {
					t.Errorf("%s: Content-Range %q, want %q; %d bytes", r, got, want, len(resp.Body))
				}
			case 416:
				if got := resp.Header.Get("Content-Range"); got != fmt.Sprintf("bytes */%d", size) && got != "" {
					t.Errorf("%s: Content-Range %q", r, got)
				}
			}
		}
	})
	t.Run("a download is resumed, or begun anew if the file has changed", func(t *testing.T) {
		for name, c := range map[string]struct {
			ifRange string
			want    int
		}{
			"the same": {etag, 206}, "another": {`"00"`, 200}, "a weak one": {"W/" + etag, 200},
			"the time": {modified, 206}, "an older time": {time.Unix(1e9, 0).UTC().Format(http.TimeFormat), 200},
		} {
			resp := get(t, path, http.Header{"Range": {"bytes=10-"}, "If-Range": {c.ifRange}})
			if resp.Status != c.want {
				t.Errorf("%s: %d, want %d", name, resp.Status, c.want)
			}
		}
	})
	t.Run("what is unchanged is not sent again", func(t *testing.T) {
		for name, c := range map[string]struct {
			h    http.Header
			want int
		}{
			"ETag":                 {http.Header{"If-None-Match": {etag}}, 304},
			"one of many":          {http.Header{"If-None-Match": {`"x", ` + etag}}, 304},
			"a weak one":           {http.Header{"If-None-Match": {"W/" + etag}}, 304},
			"any":                  {http.Header{"If-None-Match": {"*"}}, 304},
			"another":              {http.Header{"If-None-Match": {`"x"`}}, 200},
			"since then":           {http.Header{"If-Modified-Since": {modified}}, 304},
			"since long ago":       {http.Header{"If-Modified-Since": {time.Unix(1e9, 0).UTC().Format(http.TimeFormat)}}, 200},
			"the ETag counts more": {http.Header{"If-None-Match": {`"x"`}, "If-Modified-Since": {modified}}, 200},
			"If-Match":             {http.Header{"If-Match": {`"x"`}}, 412},
			"If-Match, the same":   {http.Header{"If-Match": {etag}}, 200},
		} {
			resp := get(t, path, c.h)
			if resp.Status != c.want {
				t.Errorf("%s: %d, want %d", name, resp.Status, c.want)
			}
			if resp.Status == 304 && (len(resp.Body) != 0 || resp.Header.Get("ETag") != etag || resp.Header.Get("Cache-Control") == "") {
				t.Errorf("%s: a 304 with %d bytes and %v", name, len(resp.Body), resp.Header)
			}
		}
	})
	t.Run("type and age go by what a file is", func(t *testing.T) {
		for file, want := range map[string][2]string{
			"noarch/repodata.json":               {"application/json", "public, max-age=60"},
			"noarch/repodata.json.zst":           {"application/zstd", "public, max-age=60"},
			"noarch/repodata_shards.msgpack.zst": {"application/zstd", "public, max-age=60"},
			p.subdir + "/" + p.filename:          {"application/octet-stream", "public, max-age=36000"},
		} {
			resp := eventually(t, func() *platformtest.Response {
				return get(t, "/get/channel0/"+file, http.Header{"Accept-Encoding": {"identity"}})
			})
			if resp.Header.Get("Content-Type") != want[0] || resp.Header.Get("Cache-Control") != want[1] || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: %q, %q, encoding %q", file, resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"), resp.Header.Get("Content-Encoding"))
			}
			sum := sha256.Sum256(resp.Body)
			if got := resp.Header.Get("ETag"); got != `"`+hex.EncodeToString(sum[:])+`"` {
				t.Errorf("%s: the ETag %s is not of the bytes", file, got)
			}
			if index := file != p.subdir+"/"+p.filename; index != (resp.Header.Get("Entrepot-Revision") != "") {
				t.Errorf("%s: Entrepot-Revision %q", file, resp.Header.Get("Entrepot-Revision"))
			}
		}
		for file, encoded := range map[string]bool{
			"noarch/repodata.json": true, "noarch/repodata.json.zst": false, "noarch/repodata_shards.msgpack.zst": false, p.subdir + "/" + p.filename: false,
		} {
			plain := get(t, "/get/channel0/"+file, nil)
			resp := get(t, "/get/channel0/"+file, http.Header{"Accept-Encoding": {"gzip, zstd, br"}})
			if got := resp.Header.Get("Content-Encoding"); (got != "") != encoded {
				t.Errorf("%s: Content-Encoding %q", file, got)
			}
			if encoded && (resp.Header.Get("ETag") == plain.Header.Get("ETag") || !strings.Contains(plain.Header.Get("Vary"), "Accept-Encoding")) {
				t.Errorf("%s: one ETag for two spellings, or Vary is %q", file, plain.Header.Get("Vary"))
			}
		}
		resp := w.User("bob").In(t).Must(200, "GET", "/get/"+priv.name+"/"+priv.pkg.subdir+"/"+priv.pkg.filename, nil)
		if got := resp.Header.Get("Cache-Control"); got != "private, max-age=36000" {
			t.Errorf("a private file: %q", got)
		}
		for _, path := range []string{"/get/channel0/noarch/none", "/get/none/noarch/repodata.json"} {
			if resp := get(t, path, nil); resp.Header.Get("Cache-Control") != "no-store" && resp.Header.Get("Cache-Control") == "" {
				t.Errorf("%s: a 404 says %q: clients would keep it", path, resp.Header.Get("Cache-Control"))
			}
		}
	})
	t.Run("a channel's own ttl is the age of its packages, and bounds that of its index", func(t *testing.T) {
		w.Admin().In(t).Must(200, "PATCH", "/api/channels/channel1", map[string]any{"ttl": 7})
		if got := get(t, "/get/channel1/noarch/repodata.json", nil).Header.Get("Cache-Control"); got != "public, max-age=7" {
			t.Errorf("index: %q", got)
		}
	})
	t.Run("only GET and HEAD", func(t *testing.T) {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			resp := w.Admin().In(t).Do(method, path, "x")
			if resp.Status != 405 || !slices.Contains(strings.Split(resp.Header.Get("Allow"), ", "), "GET") {
				t.Errorf("%s: %d, Allow %q", method, resp.Status, resp.Header.Get("Allow"))
			}
		}
	})
	t.Run("an upload shows in the index at once for who made it", func(t *testing.T) {
		second := packages(t)[1]
		w.Admin().In(t).Must(201, "POST", "/api/channels/channel0/upload/"+second.filename+"?sha256=", second.data)
		if got := get(t, "/get/channel0/"+second.subdir+"/"+second.filename, nil); got.Status != 200 {
			t.Errorf("the file: %d", got.Status)
		}
		eventually(t, func() *platformtest.Response {
			resp := get(t, "/get/channel0/"+second.subdir+"/repodata.json", nil)
			if !strings.Contains(string(resp.Body), second.filename) {
				resp.Status = 404
			}
			return resp
		})
	})
}

// eventually repeats a request until it is answered 200: index files follow an upload in the background.
func eventually(t *testing.T, get func() *platformtest.Response) *platformtest.Response {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp := get()
		if resp.Status == 200 {
			return resp
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d: %s", resp.Status, resp.Body)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
