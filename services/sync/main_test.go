package sync

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is an upstream, a client of it, a database and blobs in memory.
type bundle struct {
	t      *testing.T
	up     *fetchtest.Upstream
	ch     *synctest.Channel
	remote *fetch.Remote
	blobs  *blobtest.Memory
	store  store
	id     uuid.UUID
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, up: fetchtest.New(t), ch: synctest.NewChannel(), blobs: &blobtest.Memory{}, store: store{pgtest.New(t, Schema, refs.Schema)}, id: uuid.New()}
	b.up.Fallback(b.ch)
	c, err := fetch.New(fetch.Config{
		Egress:   fetch.Policy{AllowLoopback: true},
		Retry:    fetch.Retry{Attempts: 2, Base: time.Millisecond, Cap: time.Millisecond, BreakAfter: 1000},
		Timeouts: fetch.Timeouts{Header: time.Second, Window: 300 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.remote, err = c.Remote(fetch.RemoteConfig{BaseURL: b.up.URL}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.remote.Close(); c.Close() })
	return b
}

func (b *bundle) upstream() *upstream {
	return &upstream{remote: b.remote, blobs: b.blobs, store: b.store, channel: b.id, url: b.up.URL, max: 32 << 20}
}

// survey asks the upstream and notes what was found, as a run does.
func (b *bundle) survey(only ...string) ([]index, []string) {
	b.t.Helper()
	found, warnings, err := b.upstream().survey(b.t.Context(), only, false)
	if err != nil {
		b.t.Fatal(err)
	}
	b.keep(found)
	return found, warnings
}

func (b *bundle) keep(found []index) {
	b.t.Helper()
	var same []string
	for _, ix := range found {
		switch {
		case ix.err != nil:
		case ix.changed || ix.CheckedAt.IsZero():
			if err := b.store.putSubdir(b.t.Context(), b.id, b.up.URL, ix.subdirState); err != nil {
				b.t.Fatal(err)
			}
		default:
			same = append(same, ix.Subdir)
		}
	}
	if err := b.store.touch(b.t.Context(), b.id, same); err != nil {
		b.t.Fatal(err)
	}
}

// asked returns what the upstream was asked for since the last call: paths, with the conditions that came.
func (b *bundle) asked() map[string]string {
	out := map[string]string{}
	for _, r := range b.up.Requests() {
		cond := r.Header.Get("If-None-Match")
		if cond == "" {
			cond = r.Header.Get("If-Modified-Since")
		}
		path := r.Path
		if r.Method != http.MethodGet {
			path = r.Method + " " + path
		}
		out[path] = cond
	}
	b.up.Reset()
	return out
}

func (b *bundle) put(data []byte) blob.Digest {
	b.t.Helper()
	info, err := b.blobs.Put(context.Background(), bytesReader(data), blob.PutOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return info.Digest
}
