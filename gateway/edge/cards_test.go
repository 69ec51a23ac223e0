package edge_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// oneChannel is a channels service with one channel, which decides as the real one does.
type oneChannel struct {
	channelsv1.ChannelServiceClient
	roles *authz.Roles

	mu    sync.Mutex
	ch    *channelsv1.Channel
	asked int
}

func (c *oneChannel) set(ch *channelsv1.Channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ch = ch
}

func (c *oneChannel) questions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *oneChannel) GetChannel(ctx context.Context, req *channelsv1.GetChannelRequest, _ ...grpc.CallOption) (*channelsv1.Channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.ch == nil {
		return nil, fault.New(fault.NotFound, "channel %s not found", req.GetChannel())
	}
	res := authz.Resource{Kind: authz.Channel, ID: c.ch.GetId(), Name: c.ch.GetName(), Namespace: "default", Public: !c.ch.GetPrivate()}
	return c.ch, c.roles.Allow(ctx, authn.FromContext(ctx), authz.ChannelRead, res)
}

func TestCards(t *testing.T) {
	id := rpctest.NewIdentity(t)
	alice := id.User("alice", authz.Binding{Role: authz.Member, Resource: "channel/c1"})
	bob := id.User("bob")
	// A refusal is given by a snapshot that is as new as the question: from here on it knows both.
	if err := id.Roles.Allow(t.Context(), bob, authz.ChannelRead, authz.Resource{Kind: authz.Channel, ID: "c1"}); !fault.Is(err, fault.Denied) {
		t.Fatal(err)
	}
	channel := func(description string, private bool) *channelsv1.Channel {
		return &channelsv1.Channel{Id: "c1", Name: "Main", Namespace: "default", Description: description, Private: private}
	}
	setup := func(t *testing.T, private bool) (*oneChannel, *edge.Files, *edge.Files) {
		t.Helper()
		svc := &oneChannel{roles: id.Roles, ch: channel("one", private)}
		gateway := func() *edge.Files { return edge.NewFiles(edge.FilesDeps{Channels: svc, Roles: id.Roles}) }
		return svc, gateway(), gateway()
	}
	ask := func(f *edge.Files, as authn.Caller, name string) string {
		c, err := f.Card(authn.NewContext(t.Context(), as), name)
		if err != nil {
			return fault.KindOf(err).String()
		}
		return c.Channel.GetDescription()
	}
	want := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	told := func(t *testing.T) []byte {
		data, err := json.Marshal(map[string]any{"id": "c1", "name": "Main"})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}

	t.Run("a channel is asked for once, whatever the case of its name", func(t *testing.T) {
		svc, f, _ := setup(t, false)
		for _, as := range []authn.Caller{alice, bob, {}} {
			want(t, ask(f, as, "main"), "one")
			want(t, ask(f, as, "MAIN"), "one")
		}
		if n := svc.questions(); n != 1 {
			t.Errorf("%d questions", n)
		}
	})
	t.Run("a broadcast reaches every gateway's", func(t *testing.T) {
		svc, a, b := setup(t, false)
		want(t, ask(a, bob, "main"), "one")
		want(t, ask(b, bob, "main"), "one")
		svc.set(channel("two", false))
		want(t, ask(b, bob, "main"), "one")
		a.HeadChanged(told(t))
		b.HeadChanged(told(t))
		want(t, ask(a, bob, "main"), "two")
		want(t, ask(b, bob, "main"), "two")
	})
	t.Run("what is private is shown to nobody because somebody else saw it", func(t *testing.T) {
		svc, f, _ := setup(t, true)
		want(t, ask(f, alice, "main"), "one")
		want(t, ask(f, bob, "main"), fault.Denied.String())
		want(t, ask(f, authn.Caller{}, "main"), fault.Unauthenticated.String())
		want(t, ask(f, alice, "main"), "one")
		if n := svc.questions(); n != 3 { // the refusals are of channels
			t.Errorf("%d questions", n)
		}
	})
	t.Run("a channel that becomes private, or goes, is not shown after its broadcast", func(t *testing.T) {
		svc, f, _ := setup(t, false)
		want(t, ask(f, bob, "main"), "one")
		svc.set(channel("one", true))
		f.HeadChanged(told(t))
		want(t, ask(f, bob, "main"), fault.Denied.String())
		svc.set(nil)
		f.HeadChanged(told(t))
		want(t, ask(f, alice, "main"), fault.NotFound.String())
	})
	t.Run("a change of roles asks again", func(t *testing.T) {
		svc, f, _ := setup(t, false)
		want(t, ask(f, bob, "main"), "one")
		svc.set(channel("one member more", false))
		before := id.Roles.Snapshot().Version()
		id.User("carol", authz.Binding{Role: authz.Member, Resource: "channel/c1"})
		if err := id.Roles.Await(t.Context(), before+1); err != nil {
			t.Fatal(err)
		}
		want(t, ask(f, bob, "main"), "one member more")
	})
}

// oneUser is an identity to whom every key is alice's.
type oneUser struct {
	identityv1.IdentityServiceClient
}

func (oneUser) Authenticate(context.Context, *identityv1.AuthenticateRequest, ...grpc.CallOption) (*identityv1.AuthenticateResponse, error) {
	return &identityv1.AuthenticateResponse{Principal: authn.Caller{UserID: "alice", KeyID: "one"}.ToProto()}, nil
}

// Who writes through an edge reads the own write there, also while the channel has not been announced. What is refused
// forgets nothing: anybody could switch off the memory of all.
func TestCardsForgetWhatIsWritten(t *testing.T) {
	id := rpctest.NewIdentity(t)
	// From here on the roles are known; a card from before would be of another version.
	if err := id.Roles.Allow(t.Context(), id.User("bob"), authz.ChannelRead, authz.Resource{Kind: authz.Channel, ID: "c1"}); !fault.Is(err, fault.Denied) {
		t.Fatal(err)
	}
	for _, row := range []struct {
		method, path string
		status       int
		stranger     bool
		asked        bool
	}{
		{"PATCH", "/c/main", 200, false, true},
		{"POST", "/c/MAIN/empty", 200, false, true},
		{"PATCH", "/c/main:rebuild", 200, false, true},
		{"DELETE", "/all", 200, false, true},
		{"PATCH", "/c/main", 500, false, true},
		{"DELETE", "/all", 503, false, true},
		{"PATCH", "/c/other", 200, false, false},
		{"GET", "/c/main", 200, false, false},
		{"PATCH", "/c/main", 401, true, false},
		{"PATCH", "/c/main", 403, false, false},
		{"PATCH", "/c/main", 404, false, false},
		{"PATCH", "/c/main", 409, false, false},
		{"PATCH", "/c/main", 422, false, false},
		{"PATCH", "/c/main", 429, true, false},
		{"DELETE", "/all", 401, true, false},
		{"DELETE", "/all", 403, false, false},
		{"DELETE", "/all", 200, true, false},
		{"DELETE", "/all", 503, true, false},
		{"POST", "/nowhere", 404, true, false},
		{"POST", "/nowhere", 404, false, false},
		{"DELETE", "/c/main", 405, false, false},
	} {
		svc := &oneChannel{roles: id.Roles, ch: &channelsv1.Channel{Id: "c1", Name: "main", Namespace: "default", Description: "one"}}
		files := edge.NewFiles(edge.FilesDeps{Channels: svc, Roles: id.Roles})
		read := func() string {
			c, err := files.Card(t.Context(), "main")
			if err != nil {
				t.Fatal(err)
			}
			return c.Channel.GetDescription()
		}
		write := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			svc.set(&channelsv1.Channel{Id: "c1", Name: "main", Namespace: "default", Description: "two"})
			if row.status != http.StatusOK {
				w.WriteHeader(row.status)
			}
			if r.URL.Path != "/c/MAIN/empty" {
				fmt.Fprint(w, "done")
			}
		})
		d := &edge.Dialect{
			Name: "test", Prefixes: []string{"/"}, NoRoute: func(w http.ResponseWriter, _ *http.Request, status int) { w.WriteHeader(status) },
		}
		for _, p := range []string{"PATCH /c/{channel}", "GET /c/{channel}", "POST /c/{channel}/empty", "DELETE /all"} {
			var method, pattern string
			if _, err := fmt.Sscan(p, &method, &pattern); err != nil {
				t.Fatal(err)
			}
			d.Routes = append(d.Routes, edge.Route{Method: method, Pattern: pattern, Kind: edge.Raw, Handler: write})
		}
		e, err := edge.New(edge.NewAuthenticator(oneUser{}), d)
		if err != nil {
			t.Fatal(err)
		}
		e.Remembers(files)
		if got := read(); got != "one" {
			t.Fatal(got)
		}
		// The answer must not be on its way before the card is forgotten.
		w := &lookingWriter{ResponseRecorder: httptest.NewRecorder(), look: read}
		req := httptest.NewRequest(row.method, row.path, nil)
		if !row.stranger {
			req.Header.Set("X-Api-Key", "key")
		}
		e.ServeHTTP(w, req)
		if w.Code != row.status {
			t.Fatalf("%s %s: %d", row.method, row.path, w.Code)
		}
		want := map[bool]string{true: "two", false: "one"}[row.asked]
		if got := read(); got != want || w.seen != "" && w.seen != want {
			t.Errorf("%s %s, answered %d, by a stranger %t: read %q, and %q when the answer began, want %q", row.method, row.path, row.status, row.stranger, got, w.seen, want)
		}
	}
}

// lookingWriter reads the channel at the moment at which an answer's first byte goes out.
type lookingWriter struct {
	*httptest.ResponseRecorder
	look func() string
	seen string
}

func (w *lookingWriter) Write(p []byte) (int, error) {
	if w.seen == "" {
		w.seen = w.look()
	}
	return w.ResponseRecorder.Write(p)
}
