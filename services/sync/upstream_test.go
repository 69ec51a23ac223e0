package sync

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

func find(found []index, subdir string) index {
	for _, ix := range found {
		if ix.Subdir == subdir {
			return ix
		}
	}
	return index{}
}

func TestAnUpstreamIsAskedConditionally(t *testing.T) {
	b := setup(t)
	b.ch.Add("noarch", "a", "1", []byte("a"))
	b.ch.Put("channeldata.json", []byte(`{"packages":{"a":{}},"subdirs":["noarch","linux-64","../x","noarch"]}`))
	found, warnings := b.survey()
	if len(warnings) != 0 || len(found) != 2 || find(found, "noarch").IndexPath != "noarch/repodata.json.zst" || find(found, "noarch").Records != 1 {
		t.Fatalf("%+v %v", found, warnings)
	}
	zst := synctest.Zstd(b.ch.Index("noarch"))
	want := map[string]string{"/channeldata.json": "", "/noarch/repodata.json.zst": "", "HEAD /noarch/repodata.json": ""}
	for _, name := range indexNames {
		want["/linux-64/"+name] = ""
	}
	if diff := cmp.Diff(want, b.asked()); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}

	t.Run("what has not changed is not sent", func(t *testing.T) {
		found, _ := b.survey()
		if ix := find(found, "noarch"); ix.changed || ix.Records != 1 {
			t.Errorf("%+v", ix)
		}
		etag := fetchtest.ETag([]byte(`{"packages":{"a":{}},"subdirs":["noarch","linux-64","../x","noarch"]}`))
		want := map[string]string{"/channeldata.json": etag, "/noarch/repodata.json.zst": fetchtest.ETag(zst), "HEAD /noarch/repodata.json": "", "/linux-64/repodata.json": ""}
		if diff := cmp.Diff(want, b.asked()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
	t.Run("a changed one is", func(t *testing.T) {
		b.ch.Add("noarch", "b", "1", []byte("b"))
		found, _ := b.survey()
		if ix := find(found, "noarch"); !ix.changed || ix.Records != 2 {
			t.Errorf("%+v", ix)
		}
	})
	t.Run("one whose copy was lost is had again", func(t *testing.T) {
		if err := b.blobs.Delete(t.Context(), blob.Digest(find(found, "noarch").IndexDigest)); err != nil {
			t.Fatal(err)
		}
		known, err := b.store.subdirs(t.Context(), b.id, b.up.URL)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range known {
			if s.Subdir == "noarch" {
				if err := b.blobs.Delete(t.Context(), blob.Digest(s.IndexDigest)); err != nil {
					t.Fatal(err)
				}
			}
		}
		found, _ := b.survey()
		ix := find(found, "noarch")
		if _, err := b.blobs.Stat(t.Context(), blob.Digest(ix.IndexDigest)); err != nil || ix.err != nil {
			t.Errorf("%v, %v", err, ix.err)
		}
	})
	t.Run("another upstream is another story", func(t *testing.T) {
		u := b.upstream()
		u.url = "http://elsewhere"
		b.up.Reset()
		if _, _, err := u.survey(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		if got := b.asked(); got["/noarch/repodata.json.zst"] != "" || got["/channeldata.json"] != "" {
			t.Errorf("%v", got)
		}
	})
}

func TestWithoutETagTheTimeIsSent(t *testing.T) {
	b := setup(t)
	b.ch.Add("noarch", "a", "1", []byte("a"))
	date := fetchtest.Modified.Format(http.TimeFormat)
	b.up.Script("/noarch/repodata.json.zst", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-Modified-Since") == date {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Last-Modified", date)
		_, _ = w.Write(synctest.Zstd(b.ch.Index("noarch")))
	})
	b.survey("noarch")
	b.up.Reset()
	found, _ := b.survey("noarch")
	if diff := cmp.Diff(map[string]string{"/noarch/repodata.json.zst": date, "HEAD /noarch/repodata.json": ""}, b.asked()); diff != "" || found[0].changed {
		t.Errorf("%v (-want +got):\n%s", found[0].changed, diff)
	}
}

func TestSubdirsWithoutChanneldata(t *testing.T) {
	for name, tc := range map[string]struct {
		data    http.HandlerFunc
		warned  bool
		subdirs []string
	}{
		"none":              {fetchtest.Status(404), false, dist.KnownSubdirs()},
		"no JSON":           {fetchtest.Body([]byte("<html>")), true, dist.KnownSubdirs()},
		"broken server":     {fetchtest.Status(500), true, dist.KnownSubdirs()},
		"deep":              {fetchtest.Body([]byte(strings.Repeat(`{"a":`, 1<<20))), true, dist.KnownSubdirs()},
		"bomb":              {fetchtest.GzipBomb(1 << 30), true, dist.KnownSubdirs()},
		"no subdirs":        {fetchtest.Body([]byte(`{}`)), false, []string{"noarch"}},
		"an empty list":     {fetchtest.Body([]byte(`{"subdirs":[]}`)), false, []string{"noarch"}},
		"names of all kind": {fetchtest.Body([]byte(`{"subdirs":["linux-64","../etc","","LINUX","a/b","linux-64"]}`)), false, []string{"linux-64", "noarch"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.up.Script("/channeldata.json", tc.data)
			found, warnings := b.survey()
			var got []string
			for _, ix := range found {
				got = append(got, ix.Subdir)
			}
			if diff := cmp.Diff(tc.subdirs, got); diff != "" || (len(warnings) > 0) != tc.warned {
				t.Errorf("warnings %v, subdirs (-want +got):\n%s", warnings, diff)
			}
		})
	}
}

func TestIndexFallbacks(t *testing.T) {
	doc := func(b *bundle) []byte { return b.ch.Index("noarch") }
	for name, tc := range map[string]struct {
		zst, bz2, plain, patched func(*bundle) http.HandlerFunc
		want                     string // index path, or part of the error
	}{
		"the smallest":            {want: "noarch/repodata.json.zst"},
		"no zst":                  {zst: status(404), want: "noarch/repodata.json"},
		"broken zst, other whole": {zst: status(500), want: "noarch/repodata.json"},
		"cut zst": {zst: func(b *bundle) http.HandlerFunc {
			return fetchtest.Truncate(synctest.Zstd(doc(b)), 50, fetchtest.NoLength)
		}, want: "noarch/repodata.json"},
		"a page of a captive portal": {zst: func(*bundle) http.HandlerFunc { return fetchtest.Body([]byte("<html>log in</html>")) }, want: "noarch/repodata.json"},
		"an empty file":              {zst: func(*bundle) http.HandlerFunc { return fetchtest.Body(nil) }, want: "noarch/repodata.json"},
		"only before patches": {
			zst: status(404), plain: status(404), patched: func(b *bundle) http.HandlerFunc { return fetchtest.File(doc(b)) },
			want: "noarch/repodata_from_packages.json",
		},
		"nothing whole":     {zst: status(500), plain: status(503), want: "repodata.json.zst: get "},
		"refused is enough": {zst: func(*bundle) http.HandlerFunc { return fetchtest.Redirect(302, "http://10.0.0.1/") }, want: "--egress-allow"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.ch.Add("noarch", "a", "1", []byte("a"))
			for file, h := range map[string]func(*bundle) http.HandlerFunc{
				"repodata.json.zst": tc.zst, "repodata.json.bz2": tc.bz2, "repodata.json": tc.plain, "repodata_from_packages.json": tc.patched,
			} {
				if h != nil {
					b.up.Script("/noarch/"+file, h(b))
				}
			}
			ix := b.upstream().fetch(t.Context(), subdirState{Subdir: "noarch"}, false)
			switch {
			case ix.err != nil && !strings.Contains(ix.err.Error(), tc.want), ix.err == nil && ix.IndexPath != tc.want:
				t.Errorf("%q, %v; want %s", ix.IndexPath, ix.err, tc.want)
			}
		})
	}
}

func status(code int) func(*bundle) http.HandlerFunc {
	return func(*bundle) http.HandlerFunc { return fetchtest.Status(code) }
}

func TestASubdirIsGoneOnlyIfUpstreamSaysSo(t *testing.T) {
	b := setup(t)
	b.ch.Add("noarch", "a", "1", []byte("a"))
	b.ch.Add("linux-64", "b", "1", []byte("b"))
	b.survey()
	b.up.Script("/linux-64/repodata.json", fetchtest.Status(404))
	b.up.Script("/linux-64/repodata.json.zst", fetchtest.Status(404))

	found, _ := b.survey()
	if ix := find(found, "linux-64"); !fault.Is(ix.err, fault.Upstream) || ix.IndexPath == "" {
		t.Errorf("without channeldata: %+v", ix)
	}
	b.ch.Put("channeldata.json", []byte(`{"subdirs":["linux-64","noarch"]}`))
	found, _ = b.survey()
	if ix := find(found, "linux-64"); ix.err == nil {
		t.Errorf("while it is listed: %+v", ix)
	}
	b.ch.Put("channeldata.json", []byte(`{"subdirs":["noarch"]}`))
	b.up.Script("/noarch/repodata.json.zst", fetchtest.Status(404))
	b.up.Script("/noarch/repodata.json", fetchtest.Status(404))
	if found, _, err := b.upstream().survey(t.Context(), nil, false); err == nil {
		t.Errorf("an upstream that has nothing: %+v", found)
	}
	b.up.Script("/noarch/repodata.json.zst", b.ch.ServeHTTP)
	for range 2 { // once dropped it stays named, so that a run that was killed is made up for
		found, _ = b.survey()
		ix := find(found, "linux-64")
		if ix.err != nil || ix.IndexPath != "" || !ix.known() {
			t.Errorf("dropped: %+v", ix)
		}
	}
	b.up.Script("/linux-64/repodata.json", b.ch.ServeHTTP)
	found, _ = b.survey()
	if ix := find(found, "linux-64"); ix.IndexPath != "linux-64/repodata.json" {
		t.Errorf("come back: %+v", ix)
	}
}
