package dataplane_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestReadinessOfTheDataPlane(t *testing.T) {
	for name, c := range map[string]struct {
		ready  func(context.Context) error
		status int
		says   string // the client's error
	}{
		"nothing to ask": {nil, http.StatusNoContent, ""},
		"all is well":    {func(context.Context) error { return nil }, http.StatusNoContent, ""},
		"the store is away": {
			func(context.Context) error { return fault.New(fault.Unavailable, "connection refused") },
			http.StatusServiceUnavailable, "blobs: connection refused",
		},
		"the store stands still": {
			func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			http.StatusServiceUnavailable, "blobs: no answer within",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, &blobtest.Memory{}, func(o *dataplane.Options) { o.Ready = c.ready })
			client, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: b.server.URL, HTTP: b.server.Client()})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			resp, err := b.server.Client().Get(b.server.URL + dataplane.ReadyPath)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status || time.Since(began) > 1200*time.Millisecond {
				t.Errorf("%s after %s, want %d within what the edge allows itself", resp.Status, time.Since(began), c.status)
			}
			err = client.Check(t.Context())
			if (err == nil) != (c.says == "") || err != nil && (!fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		b := setup(t, &blobtest.Memory{})
		client, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: b.server.URL, HTTP: &http.Client{Transport: &http.Transport{}}})
		if err != nil {
			t.Fatal(err)
		}
		b.server.Close()
		if err := client.Check(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%v", err)
		}
	})
}
