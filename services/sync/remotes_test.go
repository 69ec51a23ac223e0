package sync

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// named is a channels service that knows channels by name, and nothing else.
type named struct {
	channelsv1.ChannelServiceClient
	ids map[string]string
}

func (n named) GetChannel(_ context.Context, req *channelsv1.GetChannelRequest, _ ...grpc.CallOption) (*channelsv1.Channel, error) {
	id, ok := n.ids[req.GetChannel()]
	if !ok {
		return nil, fault.New(fault.NotFound, "no such channel")
	}
	return &channelsv1.Channel{Id: id, Name: req.GetChannel()}, nil
}

func TestRemotesFollowTheirSettings(t *testing.T) {
	master, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "master-key"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := fetch.New(fetch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	pool := pgtest.New(t, Schema, refs.Schema)
	channels := named{ids: map[string]string{}}
	svc := New(Deps{Pool: pool, Channels: channels, Master: master})
	open := func(m *seal.Key) *Remotes {
		r := NewRemotes(RemotesDeps{Pool: pool, Fetch: client, Master: m, Config: DefaultConfig()})
		t.Cleanup(r.Close)
		return r
	}
	ctx, r := t.Context(), open(master)
	id := uuid.New()
	ch := &channelsv1.Channel{Id: id.String(), Name: "c", Mirror: &channelsv1.MirrorSettings{Url: "https://h.org/c"}}
	put := func(id uuid.UUID, name string, s *syncv1.RemoteSettings) {
		t.Helper()
		if _, err := svc.PutRemote(ctx, &syncv1.PutRemoteRequest{ChannelId: id.String(), Channel: name, Url: "https://h.org/c", Settings: s}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := r.Open(ctx, ch)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Open(ctx, ch); err != nil || again != first {
		t.Errorf("the same settings give another remote: %v", err)
	}
	put(id, "c", &syncv1.RemoteSettings{BearerToken: "x"})
	second, err := r.Open(ctx, ch)
	if err != nil || second == first {
		t.Errorf("new settings give the old remote: %v", err)
	}
	if again, _ := r.Open(ctx, ch); again != second {
		t.Error("the same settings give another remote")
	}
	put(id, "c", nil)
	put(id, "c", &syncv1.RemoteSettings{BearerToken: "x"}) // deleted and made again is another version
	if again, _ := r.Open(ctx, ch); again == second {
		t.Error("settings that were made anew give the old remote")
	}
	wantReason := func(what string, r *Remotes, ch *channelsv1.Channel, reason string) {
		t.Helper()
		_, err := r.Open(ctx, ch)
		if f, ok := err.(*fault.Error); !ok || f.Kind != fault.Precondition || f.Reason != reason {
			t.Errorf("%s: %v, want %s", what, err, reason)
		}
	}
	wantReason("another origin", r, &channelsv1.Channel{Id: ch.Id, Name: "c", Mirror: &channelsv1.MirrorSettings{Url: "https://evil.org/c"}}, ReasonRemoteOrigin)
	wantReason("the same host over http", r, &channelsv1.Channel{Id: ch.Id, Name: "c", Mirror: &channelsv1.MirrorSettings{Url: "http://h.org/c"}}, ReasonRemoteOrigin)
	wantReason("no master key", open(nil), ch, ReasonNoMasterKey)
	other, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "master-key"))
	if err != nil {
		t.Fatal(err)
	}
	wantReason("another master key", open(other), ch, "SEAL_BROKEN")
	moved := uuid.New()
	if _, err := pool.Exec(ctx, `INSERT INTO sync.remotes (channel_id, sealed) SELECT $1, sealed FROM sync.remotes WHERE channel_id = $2`, moved, id); err != nil {
		t.Fatal(err)
	}
	wantReason("another channel's row", r, &channelsv1.Channel{Id: moved.String(), Name: "m", Mirror: ch.Mirror}, "SEAL_BROKEN")

	t.Run("credentials whose channel never came are dropped, others stay", func(t *testing.T) {
		made, orphan := uuid.New(), uuid.New()
		put(made, "made", &syncv1.RemoteSettings{BearerToken: "x"})
		put(orphan, "orphan", &syncv1.RemoteSettings{BearerToken: "x"})
		channels.ids["made"], channels.ids["orphan"] = made.String(), uuid.NewString() // somebody else's by now
		if _, err := pool.Exec(ctx, `UPDATE sync.remotes SET reserved_at = now() - interval '2 hours' WHERE channel_id IN ($1, $2)`, made, orphan); err != nil {
			t.Fatal(err)
		}
		put(uuid.New(), "young", &syncv1.RemoteSettings{BearerToken: "x"})
		var left []string
		rows, err := pool.Query(ctx, `SELECT channel_id::text FROM sync.remotes WHERE channel_id IN ($1, $2)`, made, orphan)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			left = append(left, s)
		}
		if rows.Err() != nil || len(left) != 1 || left[0] != made.String() {
			t.Errorf("left are %v, want %s alone (%v)", left, made, rows.Err())
		}
	})
}
