package fetchplane

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bundle struct {
	client *Client
	asked  []*http.Request
}

// setup runs one plane for each handler; they share a host name.
func setup(t *testing.T, handlers ...http.HandlerFunc) *bundle {
	b := &bundle{}
	var urls []string
	for _, h := range handlers {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.asked = append(b.asked, r)
			h(w, r)
		}))
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL)
	}
	var err error
	b.client, err = NewClient(Options{
		URLs: urls, Token: func(context.Context) (string, error) { return "token", nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	return b
}

func (b *bundle) ask(method string) (*Answer, error) {
	r := httptest.NewRequest(method, "/get/c/noarch/a-1-0.conda", nil)
	r.Header.Set("Range", "bytes=5-")
	r.Header.Set("X-Api-Key", "a client's secret")
	return b.client.Ask(r, &channelsv1.Channel{Id: "id", Name: "c"}, "noarch/a-1-0.conda", "", true)
}

func resolved(w http.ResponseWriter, res *channelsv1.ResolveResponse) {
	data, err := proto.Marshal(res)
	if err != nil {
		panic(err)
	}
	w.Header().Set(AnswerHeader, AnswerResolved)
	w.Header().Set(ResolvedHeader, base64.StdEncoding.EncodeToString(data))
	w.Header().Set(HeaderAge, "61")
	w.WriteHeader(200)
}

func TestAsk(t *testing.T) {
	t.Run("a resolved file arrives, also by HEAD", func(t *testing.T) {
		want := &channelsv1.ResolveResponse{Found: true, Size: 7}
		for _, method := range []string{"GET", "HEAD"} {
			b := setup(t, func(w http.ResponseWriter, _ *http.Request) { resolved(w, want) })
			a, err := b.ask(method)
			if err != nil || !proto.Equal(a.Resolved, want) || a.Age != "61" {
				t.Fatalf("%+v, %v", a, err)
			}
			r := b.asked[0]
			q := url.Values{"channel": {"c"}, "id": {"id"}, "path": {"noarch/a-1-0.conda"}}
			if diff := cmp.Diff(q, r.URL.Query()); diff != "" || r.Method != method || r.URL.Path != Path {
				t.Errorf("%s %s %s", r.Method, r.URL, diff)
			}
			if r.Header.Get(TokenHeader) != "token" || r.Header.Get("Range") != "bytes=5-" || r.Header.Get("X-Api-Key") != "" {
				t.Errorf("header %v", r.Header)
			}
		}
	})

	t.Run("an error is the fault that it was, also by HEAD", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD"} {
			b := setup(t, func(w http.ResponseWriter, _ *http.Request) {
				WriteError(w, fault.New(fault.NotFound, "not »here«").WithReason("WHY"))
			})
			_, err := b.ask(method)
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.NotFound || f.Reason != "WHY" || f.Message != "not »here«" {
				t.Errorf("%s: %v", method, err)
			}
		}
	})

	t.Run("what is internal stays inside", func(t *testing.T) {
		b := setup(t, func(w http.ResponseWriter, _ *http.Request) { WriteError(w, errors.New("password")) })
		if _, err := b.ask("GET"); err == nil || strings.Contains(err.Error(), "password") || !fault.Is(err, fault.Internal) {
			t.Error(err)
		}
	})

	t.Run("a plane that does not answer is passed over, and asked last for a while", func(t *testing.T) {
		broken := 0
		b := setup(t, func(w http.ResponseWriter, r *http.Request) {
			if broken++; broken == 1 {
				panic(http.ErrAbortHandler)
			}
			resolved(w, &channelsv1.ResolveResponse{})
		}, func(w http.ResponseWriter, _ *http.Request) { resolved(w, &channelsv1.ResolveResponse{}) })
		for i := range 10 {
			if _, err := b.ask("GET"); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
		}
		if broken > 1 && len(b.asked) != 10 { // either the other plane is in charge, or this one was avoided after its failure
			t.Errorf("the broken plane was asked %d times of %d", broken, len(b.asked))
		}
	})

	t.Run("a plane that is frozen is passed over", func(t *testing.T) {
		freeze := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		b := setup(t, freeze, freeze)
		began := time.Now()
		if _, err := b.ask("GET"); !fault.Is(err, fault.Unavailable) || len(b.asked) != 2 {
			t.Errorf("%v, of %d planes", err, len(b.asked))
		}
		if took := time.Since(began); took > 4*hurry {
			t.Errorf("it took %s", took)
		}
	})

	t.Run("a plane that shows that it works is waited for", func(t *testing.T) {
		b := setup(t, func(w http.ResponseWriter, _ *http.Request) {
			for began := time.Now(); time.Since(began) < hurry+2*Beat; time.Sleep(Beat) {
				w.WriteHeader(http.StatusProcessing)
			}
			resolved(w, &channelsv1.ResolveResponse{Found: true})
		})
		if a, err := b.ask("GET"); err != nil || !a.Resolved.GetFound() {
			t.Errorf("%v, %v", a, err)
		}
	})

	t.Run("a stream that breaks off is seen to", func(t *testing.T) {
		b := setup(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(AnswerHeader, AnswerStream)
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write(make([]byte, 50))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		a, err := b.ask("GET")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Stream.Body.Close()
		if n, err := io.Copy(io.Discard, a.Stream.Body); n != 50 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})

	t.Run("without planes nothing can be had", func(t *testing.T) {
		b := setup(t)
		if _, err := b.ask("GET"); !fault.Is(err, fault.Unavailable) {
			t.Error(err)
		}
	})
}

func TestANameStandsForAllItsAddresses(t *testing.T) {
	c, err := NewClient(Options{
		URLs: []string{"http://sync:9092"}, Log: slog.New(slog.DiscardHandler),
		Lookup: func(_ context.Context, host string) ([]string, error) {
			return []string{"10.0.0.1", "10.0.0.2", "fd00::1"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.lookup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"http://10.0.0.1:9092", "http://10.0.0.2:9092", "http://" + net.JoinHostPort("fd00::1", "9092")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// An ill resolver is outlived.
	c.o.Lookup = func(context.Context, string) ([]string, error) { return nil, errors.New("no answer") }
	c.known = c.known.Add(-2 * lookupFresh)
	if again, err := c.lookup(t.Context()); err != nil || !cmp.Equal(want, again) {
		t.Errorf("%v, %v", again, err)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for _, s := range []string{"sync:9092", "ftp://sync", "http://", "http://sync/path", "%"} {
		if _, err := NewClient(Options{URLs: []string{s}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
