package fetch_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestRetries(t *testing.T) {
	ok := fetchtest.Body([]byte("ok"))
	for _, tc := range []struct {
		name   string
		script []http.HandlerFunc
		asked  int
		kind   fault.Kind
		reason string // empty: success
		status int
	}{
		{"500 twice", []http.HandlerFunc{fetchtest.Status(500), fetchtest.Status(500), ok}, 3, 0, "", 0},
		{"502, 503, 504", []http.HandlerFunc{fetchtest.Status(502), fetchtest.Status(503), fetchtest.Status(504), ok}, 4, 0, "", 0},
		{"500 for ever", []http.HandlerFunc{fetchtest.Status(500)}, 4, fault.Upstream, fetch.ReasonStatus, 500},
		{"408 once", []http.HandlerFunc{fetchtest.Status(408), ok}, 2, 0, "", 0},
		{"429 without a time", []http.HandlerFunc{fetchtest.Status(429), ok}, 2, 0, "", 0},
		{"403 once", []http.HandlerFunc{fetchtest.Status(403), ok}, 2, 0, "", 0},
		{"403 for ever", []http.HandlerFunc{fetchtest.Status(403)}, 2, fault.Upstream, fetch.ReasonStatus, 403},
		{"404", []http.HandlerFunc{fetchtest.Status(404), ok}, 1, fault.NotFound, fetch.ReasonNotFound, 404},
		{"410", []http.HandlerFunc{fetchtest.Status(410), ok}, 1, fault.NotFound, fetch.ReasonNotFound, 410},
		{"401", []http.HandlerFunc{fetchtest.Status(401), ok}, 1, fault.Upstream, fetch.ReasonStatus, 401},
		{"400", []http.HandlerFunc{fetchtest.Status(400), ok}, 1, fault.Upstream, fetch.ReasonStatus, 400},
		{"501", []http.HandlerFunc{fetchtest.Status(501), ok}, 1, fault.Upstream, fetch.ReasonStatus, 501},
		{"304 unasked", []http.HandlerFunc{fetchtest.Status(304), ok}, 1, fault.Upstream, fetch.ReasonStatus, 304},
		{"reset", []http.HandlerFunc{fetchtest.Reset(), fetchtest.Reset(), ok}, 3, 0, "", 0},
		{"reset for ever", []http.HandlerFunc{fetchtest.Reset()}, 4, fault.Upstream, fetch.ReasonRefused, 0},
		{"redirect without Location", []http.HandlerFunc{fetchtest.Status(302), ok}, 1, fault.Upstream, fetch.ReasonBadTarget, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := fetchtest.New(t)
			up.Script("/f", tc.script...)
			b, _, err := get(t, newRemote(t, newClient(t), up.URL), fetch.Request{Path: "f"})
			if n := up.Count("/f"); n != tc.asked {
				t.Errorf("asked %d times, want %d", n, tc.asked)
			}
			if tc.reason == "" {
				if err != nil || string(b) != "ok" {
					t.Fatalf("%q, %v", b, err)
				}
				return
			}
			wantReason(t, err, tc.kind, tc.reason)
			if fetch.StatusOf(err) != tc.status || !strings.Contains(err.Error(), up.URL+"/f") {
				t.Errorf("status %d, error %v", fetch.StatusOf(err), err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close() // the port was free a moment ago
		r := newRemote(t, newClient(t), "http://"+l.Addr().String(), func(c *fetch.RemoteConfig) { c.Attempts = 2 })
		_, _, err = get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
	})
	t.Run("waits grow, with jitter, up to the cap", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Fallback(fetchtest.Status(500))
		clk := &clock{}
		c := newClient(t, func(c *fetch.Config) {
			c.Clock, c.Retry = clk, fetch.Retry{Attempts: 6, Base: time.Second, Cap: 5 * time.Second}
		})
		if _, _, err := get(t, newRemote(t, c, up.URL), fetch.Request{Path: "f"}); err == nil {
			t.Fatal("no error")
		}
		want := []time.Duration{time.Second / 2, time.Second, 2 * time.Second, 5 * time.Second / 2, 5 * time.Second / 2} // Rand is 0.5
		if d := cmp.Diff(want, clk.slept); d != "" {
			t.Error(d)
		}
	})
}

func TestRedirects(t *testing.T) {
	up := fetchtest.New(t)
	up.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if n == 0 {
			fetchtest.Body([]byte("end"))(w, r)
			return
		}
		fetchtest.Redirect(302, strconv.Itoa(n-1))(w, r)
	}))
	r := newRemote(t, newClient(t), up.URL)
	t.Run("ten are followed", func(t *testing.T) {
		b, resp, err := get(t, r, fetch.Request{Path: "10"})
		if err != nil || string(b) != "end" || resp.FinalURL != up.URL+"/0" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("eleven are not", func(t *testing.T) {
		up.Reset()
		_, _, err := get(t, r, fetch.Request{Path: "11"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRedirect)
		if n := len(up.Requests()); n != 11 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("a loop is cut when it closes", func(t *testing.T) {
		up.Script("/a", fetchtest.Redirect(307, "/b"))
		up.Script("/b", fetchtest.Redirect(307, "/a"))
		up.Reset()
		_, _, err := get(t, r, fetch.Request{Path: "a"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRedirect)
		if n := len(up.Requests()); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestBrake(t *testing.T) {
	ok := fetchtest.Body([]byte("ok"))
	t.Run("Retry-After holds every request to that host, and no other", func(t *testing.T) {
		up, other := fetchtest.New(t), fetchtest.New(t)
		up.Script("/f", fetchtest.Status(429, "Retry-After", "7"), ok)
		up.Fallback(ok)
		other.Fallback(ok)
		clk := &clock{}
		c := newClient(t, func(c *fetch.Config) { c.Clock, c.Rand = clk, func() float64 { return 0 } })
		r := newRemote(t, c, up.URL, func(c *fetch.RemoteConfig) { c.Attempts = 1 })
		if _, _, err := get(t, r, fetch.Request{Path: "f"}); fetch.StatusOf(err) != 429 {
			t.Fatal(err)
		}
		if _, _, err := get(t, newRemote(t, c, other.URL), fetch.Request{Path: "x"}); err != nil || clk.total() != 0 {
			t.Errorf("another host waited %s: %v", clk.total(), err)
		}
		// another remote of the same host
		if _, _, err := get(t, newRemote(t, c, up.URL), fetch.Request{Path: "g"}); err != nil {
			t.Fatal(err)
		}
		if got := clk.total().Round(time.Second); got != 7*time.Second {
			t.Errorf("waited %s", got)
		}
	})
	t.Run("a date works too", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Script("/f", fetchtest.Status(503, "Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat)), ok)
		clk := &clock{}
		if _, _, err := get(t, newRemote(t, newClient(t, func(c *fetch.Config) { c.Clock = clk }), up.URL), fetch.Request{Path: "f"}); err != nil {
			t.Fatal(err)
		}
		if got := clk.total(); got < 25*time.Second || got > 35*time.Second {
			t.Errorf("waited %s", got)
		}
	})
	t.Run("a wait longer than allowed is the caller's to schedule", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Script("/f", fetchtest.Status(429, "Retry-After", "600"), ok)
		clk := &clock{}
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Clock = clk }), up.URL)
		for i, reason := range []string{fetch.ReasonStatus, fetch.ReasonThrottled} {
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			wantReason(t, err, fault.Upstream, reason)
			var f *fault.Error
			if errors.As(err, &f); f.RetryAfter.Round(time.Second) != 600*time.Second {
				t.Errorf("%d: retry after %s", i, f.RetryAfter)
			}
		}
		if up.Count("/f") != 1 || clk.total() != 0 {
			t.Errorf("asked %d times, waited %s", up.Count("/f"), clk.total())
		}
	})
	t.Run("a host that keeps failing is left alone, and comes back with one success", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Fallback(fetchtest.Status(500))
		clk := &clock{}
		c := newClient(t, func(c *fetch.Config) {
			c.Clock, c.Retry = clk, fetch.Retry{Attempts: 1, BreakAfter: 3, Cap: 3 * time.Second}
		})
		r := newRemote(t, c, up.URL)
		reasons := map[string]int{}
		for range 10 {
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			var f *fault.Error
			if !errors.As(err, &f) {
				t.Fatal(err)
			}
			reasons[f.Reason]++
		}
		// three failures, then after waits of 1 and 2 s one each; the brake of 4 s is over the cap
		if d := cmp.Diff(map[string]int{fetch.ReasonStatus: 5, fetch.ReasonThrottled: 5}, reasons); d != "" || up.Count("/f") != 5 {
			t.Fatalf("asked %d times: %s", up.Count("/f"), d)
		}
		up.Fallback(ok)
		_ = clk.Sleep(t.Context(), 5*time.Second)
		for range 5 {
			if _, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCancellationIsImmediate(t *testing.T) {
	up := fetchtest.New(t)
	cause := errors.New("the job was cancelled")
	for _, tc := range []struct {
		name  string
		serve http.HandlerFunc
		clock fetch.Clock
	}{
		{"while the upstream thinks", fetchtest.Hang(), &clock{}},
		{"while it drips", fetchtest.Drip(noise(1, 100), 1, time.Minute), &clock{}},
		{"during backoff", fetchtest.Status(500), nil},
		{"during a brake", fetchtest.Status(429, "Retry-After", "60"), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up.Script("/f", tc.serve)
			c := newClient(t, func(c *fetch.Config) { c.Clock, c.Retry.Base, c.Retry.Cap = tc.clock, time.Hour, time.Hour })
			ctx, cancel := context.WithCancelCause(t.Context())
			arrived := up.Arrived()
			go func() { <-arrived; cancel(cause) }()
			began := time.Now()
			_, err := newRemote(t, c, up.URL).Download(ctx, fetch.DownloadRequest{Path: "f", Size: fetch.UnknownSize, MaxSize: 1000}, &sink{})
			if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || !fault.Is(err, fault.Cancelled) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
	t.Run("a deadline is a timeout of ours, not the upstream's", func(t *testing.T) {
		up.Script("/f", fetchtest.Hang())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := newRemote(t, newClient(t), up.URL).Get(ctx, fetch.Request{Path: "f", MaxSize: 1})
		if !fault.Is(err, fault.Timeout) {
			t.Errorf("got %v", err)
		}
	})
}
