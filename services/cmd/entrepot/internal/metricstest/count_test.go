package metricstest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestWhatCounts: a download counts when its first byte goes out, and nothing else does.
func TestWhatCounts(t *testing.T) {
	s := platformtest.Start(t)
	files := upload(t, s, "channel0")
	f := files[0]
	anon := s.Anonymous()
	path := "/get/channel0/" + f.path()
	whole := anon.Must(200, "GET", path, nil)
	want := 1
	get := func(status int, method, path string, h http.Header) {
		t.Helper()
		anon.Send(status, platformtest.Request{Method: method, Path: path, Header: h})
	}
	// What counts.
	get(200, "GET", "/channels/channel0/"+f.path(), nil)
	get(200, "GET", "/t/"+s.AdminKey+path, nil)
	get(200, "GET", "/get/t/"+s.AdminKey+"/channel0/"+f.path(), nil)
	get(200, "GET", "/get/CHANNEL0/"+f.path(), nil)
	get(206, "GET", path, http.Header{"Range": {"bytes=0-9"}})
	get(206, "GET", path, http.Header{"Range": {"bytes=0-"}})
	get(206, "GET", path, http.Header{"Range": {"bytes=20-29,0-9"}})
	get(206, "GET", path, http.Header{"Range": {"bytes=-999999"}}) // all of it
	get(200, "GET", path, http.Header{"Range": {"bytes=5-"}, "If-Range": {`"00"`}})
	var ch struct{ Head int }
	anon.Must(200, "GET", "/entrepot/v1/channels/channel0", nil).JSON(&ch)
	get(200, "GET", fmt.Sprintf("/get/channel0@%d/%s", ch.Head, f.path()), nil)
	want += 10
	// What does not.
	get(200, "HEAD", path, nil)
	get(304, "GET", path, http.Header{"If-None-Match": {whole.Header.Get("ETag")}})
	get(206, "GET", path, http.Header{"Range": {"bytes=5-"}})
	get(206, "GET", path, http.Header{"Range": {"bytes=-7"}})
	get(206, "GET", path, http.Header{"Range": {"bytes=5-6,9-10"}})
	get(416, "GET", path, http.Header{"Range": {"bytes=9999999-"}})
	get(404, "GET", path+"x", nil)
	get(404, "GET", "/get/channel0/noarch/none-1.0-0.conda", nil)
	get(200, "GET", "/get/channel0/noarch/repodata.json", nil)
	get(200, "GET", "/get/channel0/noarch/repodata_shards.msgpack.zst", nil)
	get(200, "GET", "/get/channel0/", nil)

	settled(t, anon, "channel0", want)

	t.Run("the answers of both APIs", func(t *testing.T) {
		anon := anon.In(t)
		anon.Must(200, "GET", "/get/channel0/"+files[1].path(), nil)
		settled(t, anon, "channel0", want+1)
		var native struct {
			Total, Count int
			Series       []struct{ Count int }
			TopFiles     []struct {
				Name  string
				Count int
			} `json:"top_files"`
			TopPackages []struct {
				Name  string
				Count int
			} `json:"top_packages"`
		}
		anon.Must(200, "GET", "/entrepot/v1/channels/channel0/metrics?top=1&interval=INTERVAL_HOUR", nil).JSON(&native)
		if native.Total != want+1 || native.Count != want+1 || len(native.TopFiles) != 1 || native.TopFiles[0].Name != f.path() || native.TopFiles[0].Count != want ||
			len(native.TopPackages) != 1 || native.TopPackages[0].Name != f.pkg || native.TopPackages[0].Count != want+1 {
			t.Errorf("%+v", native)
		}
		day := query[string](t, s, `SELECT to_char(date_trunc('day', at, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') FROM metrics.series ORDER BY at LIMIT 1`)[0]
		point := func(n int) map[string]any {
			return map[string]any{"series": []any{map[string]any{"timestamp": day, "count": float64(n)}}}
		}
		got := decode(t, anon.Must(200, "GET", "/metrics/channels/channel0", nil).Body)
		if diff := cmp.Diff(map[string]any{
			"period": "D", "metric_name": "download", "packages": map[string]any{f.path(): point(want), files[1].path(): point(1)},
		}, got); diff != "" {
			t.Error(diff)
		}
		got = decode(t, anon.Must(200, "GET", fmt.Sprintf("/metrics/channels/channel0/packages/%s/versions/%s/%s", f.pkg, f.platform, f.name), nil).Body)
		if diff := cmp.Diff(map[string]any{"period": "D", "metric_name": "download", "total": float64(want), "series": point(want)["series"]}, got); diff != "" {
			t.Error(diff)
		}
		var versions []struct {
			Filename      string
			DownloadCount int `json:"download_count"`
		}
		counts := map[string]int{}
		anon.Must(200, "GET", "/api/channels/channel0/packages/"+f.pkg+"/versions", nil).JSON(&versions)
		for _, v := range versions {
			counts[v.Filename] += v.DownloadCount
		}
		if counts[f.name] != want || counts[files[1].name] != 1 || counts[files[2].name] != 0 || len(counts) < 3 {
			t.Errorf("download_count: %v", counts)
		}
		var one struct {
			DownloadCount int `json:"download_count"`
		}
		anon.Must(200, "GET", fmt.Sprintf("/api/channels/channel0/packages/%s/versions/%s/%s", f.pkg, f.platform, f.name), nil).JSON(&one)
		if one.DownloadCount != want {
			t.Errorf("download_count of one: %d", one.DownloadCount)
		}
	})
}

// TestADownloadThatBreaksOffCountsOnce: the part that was sent, not the one that follows.
func TestADownloadThatBreaksOffCountsOnce(t *testing.T) {
	s := platformtest.Start(t)
	f := upload(t, s, "channel0")[0]
	path := "/get/channel0/" + f.path()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 10); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.Anonymous().Send(206, platformtest.Request{Method: "GET", Path: path, Header: http.Header{"Range": {"bytes=10-"}}})
	settled(t, s.Anonymous(), "channel0", 1)
}

// TestRedirectsCount: whoever is sent to the upstream for a package is counted here.
func TestRedirectsCount(t *testing.T) {
	s := platformtest.Start(t)
	f := upload(t, s, "channel0")[0]
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{
		"name": "sends", "private": false, "mirror_channel_url": s.URL + "/get/channel0", "mirror_mode": "proxy", "metadata": map[string]any{"proxylist": []string{f.pkg}},
	})
	for _, row := range []struct{ method, ranges string }{{"GET", ""}, {"GET", "bytes=0-"}, {"GET", "bytes=7-"}, {"HEAD", ""}} {
		h := http.Header{}
		if row.ranges != "" {
			h.Set("Range", row.ranges)
		}
		s.Anonymous().Send(307, platformtest.Request{Method: row.method, Path: "/get/sends/" + f.path(), Header: h})
	}
	settled(t, s.Anonymous(), "sends", 2)
}

// TestPrivateCounts: what a channel hides, its counts hide too.
func TestPrivateCounts(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin()
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": "priv", "private": true})
	f := upload(t, s, "priv")[0]
	admin.Must(201, "POST", "/api/channels/priv/members", map[string]any{"username": "bob", "role": "member"})
	admin.Must(201, "POST", "/api/channels/priv/packages/"+f.pkg+"/members", map[string]any{"username": "carol", "role": "maintainer"})
	admin.Must(200, "GET", "/get/priv/"+f.path(), nil)
	settled(t, admin, "priv", 1)
	version := fmt.Sprintf("/metrics/channels/priv/packages/%s/versions/%s/%s", f.pkg, f.platform, f.name)
	native := "/entrepot/v1/channels/priv/metrics"
	for _, row := range []struct {
		path                   string
		anon, carol, dave, bob int
	}{
		{"/metrics/channels/priv", 401, 403, 403, 200},
		{version, 401, 200, 403, 200}, // carol's role on the package is enough for it
		{native, 401, 403, 403, 200},
		{native + "/files", 401, 403, 403, 200},
		{native + "/files/" + f.path(), 401, 200, 403, 200},
		{native + "/counts?paths=" + f.path(), 401, 403, 403, 200},
		{native + "/pulls", 401, 403, 403, 403},
		{"/metrics/channels/none", 404, 404, 404, 404},
	} {
		for who, want := range map[*platformtest.Client]int{s.Anonymous(): row.anon, s.User("carol"): row.carol, s.User("dave"): row.dave, s.User("bob"): row.bob} {
			if got := who.Do("GET", row.path, nil); got.Status != want {
				t.Errorf("%s as %q: %d, want %d: %s", row.path, who.Key, got.Status, want, got.Body)
			}
		}
	}
	if body := s.User("bob").Must(200, "GET", version, nil).Body; !strings.Contains(string(body), `"total":1`) {
		t.Errorf("%s", body)
	}
}

// TestDeletedChannels: their counts go, also those that come late.
func TestDeletedChannels(t *testing.T) {
	s := platformtest.Start(t)
	files := upload(t, s, "channel0")
	for _, f := range files {
		s.Anonymous().Must(200, "GET", "/get/channel0/"+f.path(), nil)
	}
	settled(t, s.Anonymous(), "channel0", len(files))
	s.Anonymous().Must(200, "GET", "/get/channel0/"+files[0].path(), nil)
	s.Admin().Must(200, "DELETE", "/api/channels/channel0", nil)
	eventually(t, "the counts to go", func() bool {
		return query[int](t, s, `SELECT count(*) FROM metrics.gone`)[0] == 1 && query[int](t, s, `SELECT (SELECT count(*) FROM metrics.items) + (SELECT count(*) FROM metrics.series)`)[0] == 0
	})
	eventually(t, "the late batch", func() bool {
		return query[int](t, s, `SELECT count(*) FROM metrics.sources WHERE upper(seen) >= 2`)[0] > 0
	})
	if n := query[int](t, s, `SELECT count(*) FROM metrics.items`)[0]; n != 0 {
		t.Errorf("%d items are back", n)
	}
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "channel0", "private": false})
	if n := total(t, s.Anonymous(), "channel0"); n != 0 {
		t.Errorf("a new channel of the name has %d downloads", n)
	}
}
