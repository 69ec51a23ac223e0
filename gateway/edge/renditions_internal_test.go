package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

func TestNamesMaySayWhichRevision(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UTC()
	}
	for in, want := range map[string]struct {
		channel string
		pin     pin
		text    string
	}{
		"main":                           {"main", pin{}, ""},
		"main@1":                         {"main", pin{revision: 1}, "@1"},
		"Main@9223372036854775807":       {"Main", pin{revision: 1<<63 - 1}, "@9223372036854775807"},
		"main@2026-11-21T16:00:00Z":      {"main", pin{at: at("2026-11-21T16:00:00Z")}, "@2026-11-21T16:00:00Z"},
		"main@2026-11-21t16:00:00.5z":    {"main", pin{at: at("2026-11-21T16:00:00.5Z")}, "@2026-11-21T16:00:00.5Z"},
		"main@2026-11-21T16:00:00+02:00": {"main", pin{at: at("2026-11-21T14:00:00Z")}, "@2026-11-21T14:00:00Z"},
		"main@2026-11-21":                {"main", pin{at: at("2026-11-21T00:00:00Z")}, "@2026-11-21T00:00:00Z"},
	} {
		channel, p, err := cutPin(in)
		if err != nil || channel != want.channel || p != want.pin || p.String() != want.text {
			t.Errorf("%s: %q, %v (%s), %v", in, channel, p, p, err)
		}
	}
	for _, in := range []string{"main@", "main@0", "main@-1", "main@+1", "main@1.0", "main@9223372036854775808", "main@latest", "main@2026-13-01", "main@2026-11-21T16:00:00", "main@1@2", "main@ 1"} {
		if _, p, err := cutPin(in); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, %v", in, p, err)
		}
	}
}

func TestChosenEncodings(t *testing.T) {
	forms := []*channelsv1.Encoding{{Coding: "zstd"}, {Coding: "gzip"}}
	for accept, want := range map[string]string{
		"":                                      "",
		"gzip":                                  "gzip",
		"GZIP":                                  "gzip",
		"x-gzip":                                "gzip",
		"gzip, deflate, br, zstd":               "zstd",
		"gzip, deflate":                         "gzip",
		"zstd;q=0.5, gzip;q=0.8":                "gzip",
		"zstd ; q=0.8,gzip;q=0.8":               "zstd",
		"gzip;q=0":                              "",
		"*":                                     "zstd",
		"*;q=0.1, zstd;q=0":                     "gzip",
		"identity":                              "",
		"identity;q=0.5, gzip":                  "gzip",
		"identity, gzip;q=0.5":                  "",
		"br":                                    "",
		"gzip;q=high":                           "",
		"gzip;q=2":                              "",
		";;,,=":                                 "",
		"gzip" + strings.Repeat(", x", 100_000): "gzip",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", accept)
		if got := choose(r, forms).GetCoding(); got != want {
			t.Errorf("%.60s: %q, want %q", accept, got, want)
		}
		r.Header.Set("Range", "bytes=0-1")
		if choose(r, forms) != nil {
			t.Errorf("%.60s: a range of packed bytes", accept)
		}
	}
	if got := encodings(&channelsv1.ResolveResponse{Encodings: forms}, "noarch/repodata.json.zst"); got != nil {
		t.Errorf("what is packed by its name would be packed again: %v", got)
	}
}

// fakeChannels serves one channel's files from a map.
type fakeChannels struct {
	channelsv1.ChannelServiceClient
	mu    sync.Mutex
	asked []string
	files map[string]*channelsv1.ResolveResponse
}

func (f *fakeChannels) Resolve(_ context.Context, req *channelsv1.ResolveRequest, _ ...grpc.CallOption) (*channelsv1.ResolveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fmt.Sprintf("%s %d %s", req.GetPath(), req.GetRevision(), "-")
	if req.GetAt() != nil {
		key = fmt.Sprintf("%s %d %s", req.GetPath(), req.GetRevision(), req.GetAt().AsTime().Format(time.RFC3339))
	}
	f.asked = append(f.asked, key)
	res := f.files[req.GetPath()]
	out := &channelsv1.ResolveResponse{Channel: &channelsv1.Channel{Id: "1", Name: "main", Ttl: 36000}}
	if req.GetRevision() > 100 {
		out.Missing = "channel main has no such revision"
		return out, nil
	}
	if res == nil {
		return out, nil
	}
	out.Found, out.Index, out.Revision = true, true, 7
	out.Sha256, out.Size, out.Encodings, out.UpdateTime = res.GetSha256(), res.GetSize(), res.GetEncodings(), timestamppb.New(time.Unix(1_700_000_000, 0))
	return out, nil
}

type fakeStorage struct {
	storagev1.StorageServiceClient
	signer *grant.Signer
}

func (f *fakeStorage) CreateGrant(_ context.Context, req *storagev1.CreateGrantRequest, _ ...grpc.CallOption) (*storagev1.CreateGrantResponse, error) {
	end := time.Now().Add(time.Hour)
	token, err := f.signer.Sign(grant.Grant{Digest: blob.Digest(req.GetSha256()), Methods: grant.Read, Expires: end, Audience: "data"})
	return &storagev1.CreateGrantResponse{Grant: token, ExpireTime: timestamppb.New(end)}, err
}

// newFilesServer serves /get of a channel with a document in three forms.
func newFilesServer(t *testing.T) (*httptest.Server, *fakeChannels, map[string][]byte) {
	t.Helper()
	key := grant.Key{ID: "1", Secret: []byte(strings.Repeat("k", 32))}
	signer, err := grant.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := grant.NewVerifier("data", nil, key)
	if err != nil {
		t.Fatal(err)
	}
	store := &blobtest.Memory{}
	handler, err := dataplane.New(dataplane.Options{Store: store, Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	data, err := dataplane.NewClient(dataplane.ClientOptions{Local: handler})
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string][]byte{"": bytes.Repeat([]byte("plain"), 100), "zstd": []byte("as zstd"), "gzip": []byte("as gzip")}
	put := func(b []byte) []byte {
		info, err := store.Put(t.Context(), bytes.NewReader(b), blob.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return info.Digest[:]
	}
	doc := &channelsv1.ResolveResponse{Sha256: put(bodies[""]), Size: int64(len(bodies[""]))}
	for _, coding := range []string{"zstd", "gzip"} {
		doc.Encodings = append(doc.Encodings, &channelsv1.Encoding{Coding: coding, Sha256: put(bodies[coding]), Size: int64(len(bodies[coding]))})
	}
	ch := &fakeChannels{files: map[string]*channelsv1.ResolveResponse{
		"noarch/repodata.json":     doc,
		"noarch/repodata.json.zst": {Sha256: doc.Encodings[0].Sha256, Size: doc.Encodings[0].Size},
	}}
	files := NewFiles(FilesDeps{Channels: ch, Storage: &fakeStorage{signer: signer}, Data: data})
	now := time.Now()
	files.now = func() time.Time { return now } // so that what is remembered does not age on a slow machine
	mux := http.NewServeMux()
	mux.HandleFunc("GET /get/{channel}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		files.Serve(w, r, r.PathValue("channel"), r.PathValue("path"), func(w http.ResponseWriter, _ *http.Request, err error) {
			status := http.StatusInternalServerError
			if fault.Is(err, fault.NotFound) {
				status = http.StatusNotFound
			}
			http.Error(w, err.Error(), status)
		})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv, ch, bodies
}

func ask(t *testing.T, srv *httptest.Server, method, path string, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	resp, err := c.Do(req)
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

func TestDocumentsAreSentAsTheClientLikes(t *testing.T) {
	srv, _, bodies := newFilesServer(t)
	const path = "/get/main/noarch/repodata.json"
	etags := map[string]string{}
	for coding, accept := range map[string]string{"": "", "zstd": "gzip, zstd", "gzip": "gzip"} {
		for _, method := range []string{"GET", "HEAD"} {
			resp, body := ask(t, srv, method, path, map[string]string{"Accept-Encoding": accept})
			want := bodies[coding]
			if resp.StatusCode != 200 || resp.ContentLength != int64(len(want)) || resp.Header.Get("Content-Encoding") != coding ||
				resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("Content-Type") != "application/json" ||
				resp.Header.Get("Entrepot-Revision") != "7" || resp.Header.Get("Content-Size") != "500" {
				t.Errorf("%s %s: %d, %d bytes, %v", method, accept, resp.StatusCode, resp.ContentLength, resp.Header)
			}
			if method == "GET" && !bytes.Equal(body, want) {
				t.Errorf("%s: %.20q", accept, body)
			}
			etags[resp.Header.Get("ETag")] = coding
		}
		var mine string
		for tag, c := range etags {
			if c == coding {
				mine = tag
			}
		}
		resp, body := ask(t, srv, "GET", path, map[string]string{"Accept-Encoding": accept, "If-None-Match": mine})
		if resp.StatusCode != 304 || len(body) != 0 || resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("ETag") != mine {
			t.Errorf("%s again: %d, %v", accept, resp.StatusCode, resp.Header)
		}
		resp, body = ask(t, srv, "GET", path, map[string]string{"Accept-Encoding": accept, "If-Modified-Since": "Tue, 01 Jan 2030 00:00:00 GMT"})
		if resp.StatusCode != 304 || len(body) != 0 {
			t.Errorf("%s unmodified: %d, %v", accept, resp.StatusCode, resp.Header)
		}
		resp, body = ask(t, srv, "GET", path, map[string]string{"Accept-Encoding": accept, "If-Match": `"other"`})
		if resp.StatusCode != 412 || len(body) != 0 {
			t.Errorf("%s, if it is another: %d, %q", accept, resp.StatusCode, body)
		}
		// A range is of the plain bytes; one that was begun in another form begins anew.
		resp, body = ask(t, srv, "GET", path, map[string]string{"Accept-Encoding": accept, "Range": "bytes=5-9"})
		if resp.StatusCode != 206 || string(body) != "plain" || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s, a range: %d, %q", accept, resp.StatusCode, body)
		}
		if coding != "" {
			resp, body = ask(t, srv, "GET", path, map[string]string{"Accept-Encoding": accept, "Range": "bytes=2-", "If-Range": mine})
			if resp.StatusCode != 200 || !bytes.Equal(body, bodies[""]) || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s, resumed: %d, %q", accept, resp.StatusCode, body)
			}
		}
	}
	if len(etags) != 3 {
		t.Errorf("the forms share tags: %v", etags)
	}
	resp, body := ask(t, srv, "GET", path+".zst", map[string]string{"Accept-Encoding": "gzip, zstd"})
	if resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != "" || string(body) != "as zstd" || resp.Header.Get("Content-Type") != "application/zstd" {
		t.Errorf("the packed file: %v %q", resp.Header, body)
	}
}

func TestRevisionsAreServedForEver(t *testing.T) {
	srv, ch, bodies := newFilesServer(t)
	for _, c := range []struct{ name, asked, cache string }{
		{"main", "0 -", "public, max-age=60"},
		{"main@5", "5 -", "public, max-age=31536000, immutable"},
		{"main@2020-01-02", "0 2020-01-02T00:00:00Z", "public, max-age=31536000, immutable"},
		{"main@2020-01-02T03:04:05%2B01:00", "0 2020-01-02T02:04:05Z", "public, max-age=31536000, immutable"},
		{"main@2999-01-01T00:00:00Z", "0 2999-01-01T00:00:00Z", "public, max-age=60"},
	} {
		for range 2 { // from channels, then from what is remembered
			resp, body := ask(t, srv, "GET", "/get/"+c.name+"/noarch/repodata.json", nil)
			if resp.StatusCode != 200 || !bytes.Equal(body, bodies[""]) || resp.Header.Get("Cache-Control") != c.cache {
				t.Errorf("%s: %d, %s", c.name, resp.StatusCode, resp.Header.Get("Cache-Control"))
			}
		}
		ch.mu.Lock()
		if d := cmp.Diff([]string{"noarch/repodata.json " + c.asked}, ch.asked); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
		ch.asked = nil
		ch.mu.Unlock()
	}
	for path, want := range map[string]string{
		"main@5/noarch/none":                  "main@5/noarch/none not found\n",
		"main@101/noarch/repodata.json":       "main@101/noarch/repodata.json not found: channel main has no such revision\n",
		"main@yesterday/noarch/repodata.json": "main@yesterday not found: yesterday is neither a revision nor an RFC 3339 date\n",
	} {
		resp, body := ask(t, srv, "GET", "/get/"+path, nil)
		if resp.StatusCode != 404 || string(body) != want || resp.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
}
