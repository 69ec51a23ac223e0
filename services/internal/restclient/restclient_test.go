package restclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup starts a server with one handler and a client for it that waits for nothing.
func setup(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return client(t, srv.URL)
}

func client(t *testing.T, server string) *Client {
	t.Helper()
	c, err := New(Config{Server: server, Key: "k", UserAgent: "test", Backoff: func(int) time.Duration { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func TestAnAnswerBecomesAFaultOfItsKind(t *testing.T) {
	for status, kind := range map[int]fault.Kind{
		400: fault.Invalid, 422: fault.Invalid, 413: fault.Invalid, 401: fault.Unauthenticated, 403: fault.Denied, 404: fault.NotFound,
		409: fault.Conflict, 412: fault.Precondition, 429: fault.Exhausted, 500: fault.Internal, 501: fault.Unimplemented, 502: fault.Upstream,
		503: fault.Unavailable, 504: fault.Timeout, 418: fault.Internal,
	} {
		c := setup(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprint(w, `{"title":"T","status":1,"detail":"what happened","reason":"WHY","request_id":"r1","violations":[{"field":"name","description":"is bad"}]}`)
		})
		_, err := c.CreateChannel(t.Context(), &channelsv1.CreateChannelRequest{Name: "x"})
		var f *fault.Error
		if !errors.As(err, &f) {
			t.Fatalf("%d: %v", status, err)
		}
		message := "what happened"
		if kind == fault.Internal {
			message += " (request r1)"
		}
		got := []any{f.Kind, f.Message, f.Reason, f.Violations}
		want := []any{kind, message, "WHY", []fault.Violation{{Field: "name", Description: "is bad"}}}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d: %s", status, d)
		}
	}
}

func TestAnErrorThatIsNoProblemIsToldByItsStatus(t *testing.T) {
	for body, contentType := range map[string]string{"<html>secret proxy page</html>": "text/html", `{"detail":["a","list"]}`: "application/json", "{": "application/json"} {
		c := setup(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(502)
			fmt.Fprint(w, body)
		})
		if _, err := c.Me(t.Context()); err == nil || err.Error() != "the server answered 502 Bad Gateway" {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestABusyServerIsAskedAgainForReadsOnly(t *testing.T) {
	var n atomic.Int32
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprint(w, `{"user":{"username":"alice"}}`)
	})
	me, err := c.Me(t.Context())
	if err != nil || me.GetUser().GetUsername() != "alice" || n.Load() != 3 {
		t.Errorf("%v, %v after %d requests", me, err, n.Load())
	}
	n.Store(0)
	if _, err := c.CreateChannel(t.Context(), &channelsv1.CreateChannelRequest{}); !fault.Is(err, fault.Unavailable) || n.Load() != 1 {
		t.Errorf("a write: %v after %d requests", err, n.Load())
	}
}

func TestAServerThatIsNotThereIsUnreachable(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	_, err := client(t, srv.URL).Me(t.Context())
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Unavailable || f.Reason != Unreachable || !strings.Contains(f.Message, "cannot reach "+srv.URL) {
		t.Errorf("%#v", err)
	}
}

func TestAnotherKindOfServerIsRecognised(t *testing.T) {
	c := setup(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>hello") })
	if _, err := c.Me(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer like an Entrepot server") {
		t.Error(err)
	}
	if _, err := c.Follow(t.Context(), "1", nil); err == nil || !strings.Contains(err.Error(), "does not answer like an Entrepot server") {
		t.Error(err)
	}
}

func TestServersAreCheckedBeforeTheyAreUsed(t *testing.T) {
	for _, s := range []string{"", "example.org", "ftp://x", "http://", "http://u:p@x", "http://x?y", "http://x/#y", "http://a b", "::"} {
		if _, err := New(Config{Server: s}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	u, err := ParseServer("https://x.org/base//")
	if err != nil || u.String() != "https://x.org/base" {
		t.Errorf("%v %v", u, err)
	}
}

func TestPathsAreEscapedSegmentBySegment(t *testing.T) {
	var got []string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.EscapedPath(), r.URL.Path, r.Header.Get("Authorization"))
		fmt.Fprint(w, `{}`)
	})
	based := client(t, c.Server()+"/base/")
	resp, err := based.Open(t.Context(), "demo", "linux-64/x-1!2.0+c%-0.conda")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := []string{"GET /base/channels/demo/linux-64/x-1%212.0+c%25-0.conda", "/base/channels/demo/linux-64/x-1!2.0+c%-0.conda", "Bearer k"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestListsArePagedToTheirEndOrTheLimit(t *testing.T) {
	var sizes []string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		sizes = append(sizes, q.Get("page_size"))
		next := map[string]string{"": "a", "a": "b", "b": ""}[q.Get("page_token")]
		fmt.Fprintf(w, `{"jobs":[{"number":1},{"number":2}],"next_page_token":%q,"total_size":6}`, next)
	})
	all, err := c.Jobs(t.Context(), &jobsv1.ListJobsRequest{}, 0)
	if err != nil || len(all.GetJobs()) != 6 || all.GetTotalSize() != 6 {
		t.Errorf("%v %v", all, err)
	}
	some, err := c.Jobs(t.Context(), &jobsv1.ListJobsRequest{}, 3)
	if err != nil || len(some.GetJobs()) != 3 {
		t.Errorf("%v %v", some, err)
	}
	if d := cmp.Diff([]string{"1000", "1000", "1000", "3", "3"}, sizes); d != "" {
		t.Error(d)
	}
}

func TestFollowComesBackWhereItWas(t *testing.T) {
	var opened []string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		opened = append(opened, r.Header.Get("Last-Event-ID"))
		switch len(opened) {
		case 1:
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, ": hello\n\nid: e-1\nevent: state\ndata: {\"state\":\ndata: {\"state\":\"JOB_STATE_RUNNING\"}}\n\nid: e-2\ndata: {\"pro") // cut within an event
		case 2:
			w.WriteHeader(503)
		case 3:
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "id: e-2\ndata: {\"progress\":{\"done\":3}}\n\nid: e-3\ndata: {\"something\":\"new\"}\n\nid: e-4\r\ndata: {\"state\":{\"number\":7,\"state\":\"JOB_STATE_SUCCEEDED\"}}\r\n\r\n")
		}
	})
	var seen int
	job, err := c.Follow(t.Context(), "7", func(*jobsv1.JobEvent) { seen++ })
	if err != nil || job.GetNumber() != 7 || seen != 4 {
		t.Errorf("%v, %v, %d events", job, err, seen)
	}
	if d := cmp.Diff([]string{"", "e-1", "e-1"}, opened); d != "" {
		t.Error(d)
	}
}

func TestFollowGivesUpOnAJobThatIsNotThereAndOnAServerThatStaysAway(t *testing.T) {
	var n atomic.Int32
	c := setup(t, func(w http.ResponseWriter, r *http.Request) { n.Add(1); w.WriteHeader(404) })
	if _, err := c.Follow(t.Context(), "7", nil); !fault.Is(err, fault.NotFound) || n.Load() != 1 {
		t.Errorf("%v after %d", err, n.Load())
	}
	n.Store(0)
	c = setup(t, func(w http.ResponseWriter, r *http.Request) { n.Add(1); w.WriteHeader(503) })
	if _, err := c.Follow(t.Context(), "7", nil); !fault.Is(err, fault.Unavailable) || n.Load() != patience {
		t.Errorf("%v after %d", err, n.Load())
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "id: e-1\ndata: {\"state\":{\"state\":\"JOB_STATE_RUNNING\"}}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	if _, err := c.Follow(ctx, "7", func(*jobsv1.JobEvent) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
