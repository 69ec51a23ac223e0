package stack_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestFiles(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(brisk))

	t.Run("the second reader asks nobody", func(t *testing.T) {
		p := newProxy(t, s, "second", nil)
		data := noise(1, 300_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.gets(path, data)
		p.wantAsked(path, 1)
		p.up.Reset()
		r := p.gets(path, data)
		if n := len(p.up.Requests()); n != 0 {
			t.Errorf("upstream was asked %d times", n)
		}
		if r.Header.Get("ETag") != fetchtest.ETag(data) || r.Header.Get("Content-Length") != strconv.Itoa(len(data)) {
			t.Errorf("header %v", r.Header)
		}
		p.send(304, "GET", path, "If-None-Match", fetchtest.ETag(data))
	})

	t.Run("many first readers are one request", func(t *testing.T) {
		p := newProxy(t, s, "crowd", nil)
		data := noise(2, 2_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.get(200, "noarch/repodata.json")
		open := make(chan struct{})
		p.up.Script("/"+path, fetchtest.Gate(open, fetchtest.File(data)))
		arrived := p.up.Arrived()
		var wg sync.WaitGroup
		for range 24 {
			wg.Go(func() { p.gets(path, data) })
		}
		<-arrived
		close(open)
		wg.Wait()
		p.wantAsked(path, 1)
	})

	t.Run("bytes come while upstream still sends", func(t *testing.T) {
		p := newProxy(t, s, "streamed", nil)
		data := noise(3, 1_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.get(200, "noarch/repodata.json")
		rest := make(chan struct{})
		p.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data[:500_000])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-rest:
			case <-r.Context().Done():
				return
			}
			_, _ = w.Write(data[500_000:])
		})
		resp, err := http.Get(s.URL + p.path(path))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make([]byte, 400_000)
		if _, err := io.ReadFull(resp.Body, first); err != nil || !bytes.Equal(first, data[:len(first)]) {
			t.Fatalf("the first bytes: %v", err)
		}
		if resp.Header.Get("ETag") != "" || resp.Header.Get("Accept-Ranges") != "none" || resp.ContentLength != int64(len(data)) {
			t.Errorf("header %v", resp.Header)
		}
		// One who comes late gets it from the beginning.
		late := make(chan []byte)
		go func() {
			resp, err := http.Get(s.URL + p.path(path))
			if err != nil {
				late <- nil
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			late <- b
		}()
		time.Sleep(50 * time.Millisecond)
		close(rest)
		all, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(all, data[len(first):]) {
			t.Errorf("the rest: %d bytes, %v", len(all), err)
		}
		if !bytes.Equal(<-late, data) {
			t.Error("the late reader got something else")
		}
		p.wantAsked(path, 1)
	})

	t.Run("ranges and HEAD of what is not stored", func(t *testing.T) {
		p := newProxy(t, s, "ranges", nil)
		data := noise(4, 400_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		r := p.send(200, "HEAD", path)
		if r.Header.Get("Content-Length") != "400000" || r.Header.Get("ETag") != fetchtest.ETag(data) {
			t.Errorf("HEAD: %v", r.Header)
		}
		p.wantAsked(path, 0)
		p.send(304, "HEAD", path, "If-None-Match", fetchtest.ETag(data))
		r = p.send(206, "GET", path, "Range", "bytes=-1000")
		if !bytes.Equal(r.Body, data[399_000:]) || r.Header.Get("Content-Range") != "bytes 399000-399999/400000" {
			t.Errorf("a suffix: %d bytes, %v", len(r.Body), r.Header)
		}
		r = p.send(206, "GET", path, "Range", "bytes=10-19")
		if !bytes.Equal(r.Body, data[10:20]) {
			t.Error("a range of what is stored")
		}
		p.send(416, "GET", path, "Range", "bytes=400000-")
		p.wantAsked(path, 1)
	})

	t.Run("what is not listed is not asked for", func(t *testing.T) {
		p := newProxy(t, s, "unlisted", nil)
		p.ch.Add("noarch", "pkg", "1.0", []byte("x"))
		p.ch.Put("noarch/secret-1.0-0.conda", []byte("not in the index"))
		r := p.get(404, "noarch/secret-1.0-0.conda")
		if want := "unlisted/noarch/secret-1.0-0.conda not found"; !bytes.Contains(r.Body, []byte(want)) {
			t.Errorf("%s, want %q", r.Body, want)
		}
		p.wantAsked("noarch/secret-1.0-0.conda", 0)
	})

	t.Run("a file that is gone is asked for once in a while", func(t *testing.T) {
		p := newProxy(t, s, "gone", nil)
		path := p.ch.Add("noarch", "pkg", "1.0", []byte("x"))
		p.up.Script("/"+path, fetchtest.Status(404))
		for range 5 {
			p.get(404, path)
		}
		p.wantAsked(path, 1)
		for range 5 {
			p.get(404, "linux-64/repodata.json")
			p.get(404, "nothing.txt")
		}
		p.wantAsked("linux-64/repodata.json", 1)
		p.wantAsked("nothing.txt", 1)
	})

	t.Run("a document that is no index is passed on and kept", func(t *testing.T) {
		p := newProxy(t, s, "plain", nil)
		p.ch.Put("test_file.txt", []byte("Hello world!"))
		p.gets("test_file.txt", []byte("Hello world!"))
		p.gets("test_file.txt", []byte("Hello world!"))
		p.wantAsked("test_file.txt", 1)
	})

	t.Run("a wrong file is never complete and never stored", func(t *testing.T) {
		for name, size := range map[string]int{"small": 1000, "large": 3_000_000} {
			p := newProxy(t, s, "wrong-"+name, nil)
			data := noise(5, size)
			path := p.ch.Add("noarch", "pkg", "1.0", data)
			ranged := p.ch.Add("noarch", "ranged", "1.0", noise(12, size))
			bad := bytes.Clone(data)
			bad[size/2] ^= 1
			p.up.Script("/"+ranged, fetchtest.File(bad))
			p.up.Script("/"+path, fetchtest.File(bad))
			p.mustFail(path)
			n := p.asked(path)
			r := p.get(502, path) // refused for a while, in words
			if !bytes.Contains(r.Body, []byte("not what the upstream's index says")) {
				t.Errorf("%s: %s", name, r.Body)
			}
			p.wantAsked(path, n)
			p.get(502, ranged, "Range", "bytes=0-99") // a part would be complete
		}
	})

	t.Run("a file that was replaced with its index is had at once", func(t *testing.T) {
		p := newProxy(t, s, "replaced", nil)
		before, after := noise(6, 1000), noise(7, 1200)
		path := p.ch.Add("noarch", "pkg", "1.0", before)
		p.get(200, "noarch/repodata.json")
		p.ch.Add("noarch", "pkg", "1.0", after)
		p.gets(path, after)
		p.ch.Add("noarch", "pkg", "1.0", before)
	})

	t.Run("an upstream that breaks off is asked for the rest", func(t *testing.T) {
		p := newProxy(t, s, "resumed", nil)
		data := noise(8, 3_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.up.Script("/"+path, fetchtest.CutFile(data, 1_500_000))
		p.gets(path, data)
		p.wantAsked(path, 2)
	})

	t.Run("an upstream that cannot resume starts over and readers do not notice", func(t *testing.T) {
		p := newProxy(t, s, "restarted", nil)
		data := noise(9, 3_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.up.Script("/"+path, fetchtest.CutFile(data, 1_500_000), fetchtest.IgnoreRange(fetchtest.File(data)))
		p.gets(path, data)
	})

	t.Run("an upstream that stays broken fails its readers", func(t *testing.T) {
		p := newProxy(t, s, "broken", nil)
		data := noise(10, 1_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.get(200, "noarch/repodata.json")
		p.up.Script("/"+path, fetchtest.Truncate(data, 500_000, fetchtest.RightLength))
		p.mustFail(path)
		p.up.Script("/"+path, fetchtest.File(data))
		moment()
		p.gets(path, data) // and works again when it does
	})

	t.Run("a reader that leaves does not end it for others", func(t *testing.T) {
		p := newProxy(t, s, "left", nil)
		data := noise(11, 1_000_000)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		p.get(200, "noarch/repodata.json")
		p.up.Script("/"+path, fetchtest.Drip(data, 100_000, 50*time.Millisecond))
		resp, err := http.Get(s.URL + p.path(path))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(resp.Body, make([]byte, 1000))
		done := make(chan struct{})
		go func() { defer close(done); p.gets(path, data) }()
		resp.Body.Close()
		<-done
		p.wantAsked(path, 1)
	})
}

// mustFail asks for a file that must not come as a whole: with an error status, or cut off.
func (p *proxy) mustFail(path string) {
	p.t.Helper()
	resp, err := http.Get(p.stack.URL + p.path(path))
	if err != nil {
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode == 200 && err == nil {
		p.t.Errorf("%s came as a whole, %d bytes", path, len(b))
	}
}
