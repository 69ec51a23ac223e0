package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// laggingChannel is a channel whose index lists everything that was ever in it.
type laggingChannel struct {
	channelsv1.ChannelServiceClient
	head   int64
	listed map[string]bool // whether it is also at head
	asked  int
}

func (c *laggingChannel) Resolve(_ context.Context, req *channelsv1.ResolveRequest, _ ...grpc.CallOption) (*channelsv1.ResolveResponse, error) {
	c.asked++
	there, listed := c.listed[req.GetPath()]
	if req.GetRevision() != 0 {
		listed = there
	}
	return &channelsv1.ResolveResponse{Channel: &channelsv1.Channel{Id: "c1", Name: "Main", Head: c.head}, Found: listed}, nil
}

func TestWhatWasDeletedHereIsNotServedHere(t *testing.T) {
	const one, other, elsewhere = "noarch/one-1-0.conda", "noarch/one-2-0.conda", "noarch/two-1-0.conda"
	for _, row := range []struct {
		name, method, path string
		status             int
		left               []string // of the three, when all were deleted, by this request or elsewhere
	}{
		{"a file", "DELETE", "/q/MAIN/versions/noarch/one-1-0.conda", 200, []string{other, elsewhere}},
		{"a file by the native API", "DELETE", "/n/main/files/" + one, 204, []string{other, elsewhere}},
		{"a file, and nobody knows", "DELETE", "/n/main/files/" + one, 503, []string{other, elsewhere}},
		{"a package", "DELETE", "/q/main/packages/One", 200, []string{elsewhere}},
		{"another channel's file", "DELETE", "/n/second/files/" + one, 200, []string{one, other, elsewhere}},
		{"a refusal", "DELETE", "/n/main/files/" + one, 403, []string{one, other, elsewhere}},
		{"another write", "PUT", "/n/main/files/" + one, 200, []string{one, other, elsewhere}},
	} {
		t.Run(row.name, func(t *testing.T) {
			ch := &laggingChannel{head: 7, listed: map[string]bool{one: true, other: true, elsewhere: true}}
			files := NewFiles(FilesDeps{Channels: ch})
			now := time.Now()
			files.now = func() time.Time { return now }
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				clear(ch.listed)
				ch.listed[one], ch.listed[other], ch.listed[elsewhere] = false, false, false
				ch.head++
				w.WriteHeader(row.status)
			})
			d := &Dialect{Name: "test", Prefixes: []string{"/"}}
			for _, p := range []string{"/q/{channel}/versions/{platform}/{filename}", "/n/{channel}/files/{path...}", "/q/{channel}/packages/{package}"} {
				d.Routes = append(d.Routes, Route{Method: "DELETE", Pattern: p, Kind: Raw, Handler: handler}, Route{Method: "PUT", Pattern: p, Kind: Raw, Handler: handler})
			}
			e, err := New(NewAuthenticator(nil), d)
			if err != nil {
				t.Fatal(err)
			}
			e.Remembers(files)
			served := func(path string, p pin) bool {
				t.Helper()
				resp, err := files.resolve(t.Context(), fileKey{"main", path, p})
				if err != nil {
					t.Fatal(err)
				}
				return resp.GetFound()
			}
			for _, path := range []string{one, other, elsewhere} {
				if !served(path, pin{}) {
					t.Fatalf("%s is not there", path)
				}
			}
			e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(row.method, row.path, nil))
			if row.status == http.StatusForbidden {
				now = now.Add(resolveFresh) // nothing is forgotten
			}
			left := map[string]bool{}
			for _, path := range row.left {
				left[path] = true
			}
			for _, path := range []string{one, other, elsewhere} {
				if got := served(path, pin{}); got != left[path] {
					t.Errorf("%s is served: %t", path, got)
				}
			}
			// Back again, it is served at once, and the past is as it was.
			ch.listed[one] = true
			files.Changed("main")
			if !served(one, pin{}) || !served(one, pin{revision: 7}) {
				t.Error("what was put back is not served")
			}
			ch.listed[one] = false
			now = now.Add(goneFor)
			files.Changed("main")
			if !served(one, pin{}) {
				t.Error("a deletion is remembered for ever")
			}
			asked := ch.asked
			if served(elsewhere, pin{}); ch.asked != asked+1 {
				t.Errorf("what nobody deleted was asked for %d times", ch.asked-asked)
			}
		})
	}
}
