package fetchtest_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, method, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

func TestScript(t *testing.T) {
	up := fetchtest.New(t)
	up.Script("/f", fetchtest.Status(500), fetchtest.Redirect(302, "/g"), fetchtest.Body([]byte("x")))
	arrived := up.Arrived()
	var got []int
	for range 4 {
		resp, _, err := do(t, "GET", up.URL+"/f?q=1", "X-Test", "1")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, resp.StatusCode)
	}
	if got[0] != 500 || got[1] != 302 || got[2] != 200 || got[3] != 200 || up.Count("/f") != 4 {
		t.Errorf("%v", got)
	}
	<-arrived
	if r := up.Requests()[0]; r.Method != "GET" || r.Query != "q=1" || r.Header.Get("X-Test") != "1" {
		t.Errorf("%+v", r)
	}
	if resp, _, _ := do(t, "GET", up.URL+"/other"); resp.StatusCode != 404 {
		t.Errorf("%d", resp.StatusCode)
	}
	up.Reset()
	if resp, _, _ := do(t, "GET", up.URL+"/f"); resp.StatusCode != 500 || len(up.Requests()) != 1 {
		t.Errorf("%d after a reset", resp.StatusCode)
	}
}

func TestBehavioursMisbehaveAsTheySay(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100)
	up := fetchtest.New(t)
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		n      int
		length int64
		broken bool
	}{
		"right length":     {fetchtest.Truncate(data, 100, fetchtest.RightLength), 100, 1000, true},
		"wrong length":     {fetchtest.Truncate(data, 100, fetchtest.WrongLength), 100, 100, false},
		"no length":        {fetchtest.Truncate(data, 100, fetchtest.NoLength), 100, -1, false},
		"chunked":          {fetchtest.Truncate(data, 100, fetchtest.ChunkedLength), 100, -1, true},
		"cut file":         {fetchtest.CutFile(data, 300), 300, 1000, true},
		"drip":             {fetchtest.Drip(data, 300, 0), 1000, 1000, false},
		"file":             {fetchtest.File(data), 1000, 1000, false},
		"wrong range":      {fetchtest.WrongRange(data, 900), 100, 100, false},
		"slow, then right": {fetchtest.Slow(1, fetchtest.Body(data)), 1000, 1000, false},
	} {
		t.Run(name, func(t *testing.T) {
			up.Script("/f", tc.h)
			resp, b, err := do(t, "GET", up.URL+"/f")
			if resp == nil || len(b) != tc.n || resp.ContentLength != tc.length || (err != nil) != tc.broken {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		up.Script("/f", fetchtest.Reset())
		if _, _, err := do(t, "GET", up.URL+"/f"); err == nil {
			t.Error("no error")
		}
	})
	t.Run("gate", func(t *testing.T) {
		open := make(chan struct{})
		up.Script("/f", fetchtest.Gate(open, fetchtest.Body(data)))
		arrived := up.Arrived()
		go func() { <-arrived; close(open) }()
		if _, b, err := do(t, "GET", up.URL+"/f"); err != nil || len(b) != 1000 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

func TestStatic(t *testing.T) {
	data := []byte("0123456789")
	up := fetchtest.New(t)
	up.Fallback(fetchtest.Static(map[string][]byte{"a/b": data}))
	for name, tc := range map[string]struct {
		method, path string
		header       []string
		status       int
		body         string
	}{
		"whole":         {"GET", "/a/b", nil, 200, "0123456789"},
		"head":          {"HEAD", "/a/b", nil, 200, ""},
		"missing":       {"GET", "/a/c", nil, 404, "404 page not found\n"},
		"range":         {"GET", "/a/b", []string{"Range", "bytes=2-4"}, 206, "234"},
		"if-range":      {"GET", "/a/b", []string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789"},
		"past the end":  {"GET", "/a/b", []string{"Range", "bytes=10-"}, 416, "invalid range: failed to overlap\n"},
		"none match":    {"GET", "/a/b", []string{"If-None-Match", fetchtest.ETag(data)}, 304, ""},
		"not modified":  {"GET", "/a/b", []string{"If-Modified-Since", fetchtest.Modified.Format(http.TimeFormat)}, 304, ""},
		"another match": {"GET", "/a/b", []string{"If-None-Match", `"x"`}, 200, "0123456789"},
	} {
		resp, b, err := do(t, tc.method, up.URL+tc.path, tc.header...)
		if err != nil || resp.StatusCode != tc.status || string(b) != tc.body {
			t.Errorf("%s: %d %q, %v", name, resp.StatusCode, b, err)
		}
	}
}
