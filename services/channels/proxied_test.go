package channels_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/channels"
)

func TestProxiedFiles(t *testing.T) {
	type proxy struct {
		*bundle
		id       string
		settings []byte
	}
	setup := func(t *testing.T, m *channelsv1.MirrorSettings) proxy {
		t.Helper()
		b := setup(t)
		ch, err := b.api.CreateChannel(b.as(b.admin), &channelsv1.CreateChannelRequest{
			Name: "prox", Kind: channelsv1.ChannelKind_CHANNEL_KIND_PROXY, Mirror: &channelsv1.MirrorSettings{Url: "https://up.example/chan", Proxylist: m.GetProxylist()},
		})
		if err != nil {
			t.Fatal(err)
		}
		return proxy{b, ch.GetId(), b.resolve("prox", "x").GetProxy().GetSettings()}
	}
	put := func(t *testing.T, p proxy, path, content string, index bool) *channelsv1.ProxiedFile {
		t.Helper()
		info, err := p.blobs.Put(t.Context(), bytes.NewReader([]byte(content)), blob.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return &channelsv1.ProxiedFile{Path: path, Sha256: info.Digest[:], Size: info.Size, Want: []byte("want"), Index: index, UpdateTime: timestamppb.New(time.Unix(1e9, 0))}
	}
	record := func(t *testing.T, p proxy, req *channelsv1.RecordProxiedRequest) (*channelsv1.RecordProxiedResponse, error) {
		t.Helper()
		req.ChannelId = p.id
		if req.Settings == nil {
			req.Settings = p.settings
		}
		return p.api.RecordProxied(p.target(), req)
	}
	refs := func(t *testing.T, p proxy) (n int) {
		t.Helper()
		if err := p.pool.QueryRow(t.Context(), `SELECT count(*) FROM refs.refs WHERE owner_id = $1`, p.id).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}

	t.Run("a file is there once it is recorded, with its reference", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		f := put(t, p, "noarch/a-1-0.conda", "bytes", false)
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{f}}); err != nil {
			t.Fatal(err)
		}
		got := p.resolve("prox", f.Path)
		if !got.GetFound() || !bytes.Equal(got.GetSha256(), f.Sha256) || got.GetIndex() || got.GetProxy().GetFreshFor() != nil || string(got.GetProxy().GetWant()) != "want" {
			t.Errorf("%v", got)
		}
		if diff := cmp.Diff(1, refs(t, p)); diff != "" {
			t.Error(diff)
		}
		// In doubt it is there, and not fresh; and then forgotten.
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Stale: []string{f.Path}}); err != nil {
			t.Fatal(err)
		}
		if d := p.resolve("prox", f.Path).GetProxy().GetFreshFor(); d == nil || d.AsDuration() > 0 {
			t.Errorf("fresh for %v", d)
		}
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Drop: []string{f.Path}}); err != nil {
			t.Fatal(err)
		}
		if p.resolve("prox", f.Path).GetFound() || refs(t, p) != 0 {
			t.Error("it is still there")
		}
	})

	t.Run("a file is in doubt from the beginning if its index has changed since it was looked up", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Family: "full:noarch", Generation: "2"}); err != nil {
			t.Fatal(err)
		}
		f := put(t, p, "noarch/a-1-0.conda", "bytes", false)
		for generation, sure := range map[string]bool{"1": false, "2": true} {
			_, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{f}, Basis: "full:noarch", BasisGeneration: generation})
			if err != nil {
				t.Fatal(err)
			}
			got := p.resolve("prox", f.Path)
			if !got.GetFound() || (got.GetProxy().GetFreshFor() == nil) != sure {
				t.Errorf("looked up in generation %s: %v", generation, got)
			}
		}
	})

	t.Run("what nobody asks for is let go, and what is asked for stays", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		unused, used := put(t, p, "noarch/a-1-0.conda", "unused", false), put(t, p, "noarch/b-1-0.conda", "used", false)
		index := put(t, p, "noarch/repodata.json", "index", true)
		for _, req := range []*channelsv1.RecordProxiedRequest{
			{Files: []*channelsv1.ProxiedFile{unused, used}}, {Family: "full:noarch", Generation: "1", Files: []*channelsv1.ProxiedFile{index}},
		} {
			if _, err := record(t, p, req); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.pool.Exec(t.Context(), `UPDATE channels.proxied SET used_at = now() - interval '100 days'`); err != nil {
			t.Fatal(err)
		}
		p.resolve("prox", used.Path)
		const keep = 90 * 24 * time.Hour
		for _, dryRun := range []bool{true, false} {
			if n, err := channels.PurgeProxied(t.Context(), p.pool, keep, dryRun); n != 1 || err != nil {
				t.Errorf("%d files, %v", n, err)
			}
		}
		if p.resolve("prox", unused.Path).GetFound() || !p.resolve("prox", used.Path).GetFound() || !p.resolve("prox", index.Path).GetFound() {
			t.Error("the wrong ones are gone")
		}
		if n := refs(t, p); n != 2 {
			t.Errorf("%d references", n)
		}
	})

	t.Run("a family switches as a whole", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		family := func(generation string, files ...*channelsv1.ProxiedFile) int64 {
			resp, err := record(t, p, &channelsv1.RecordProxiedRequest{Family: "full:noarch", Generation: generation, Files: files, FreshFor: durationpb.New(time.Minute)})
			if err != nil {
				t.Fatal(err)
			}
			return resp.GetFamilyFiles()
		}
		family("1", put(t, p, "noarch/repodata.json", "one", true), put(t, p, "noarch/repodata.json.zst", "one.zst", true))
		got := p.resolve("prox", "noarch/repodata.json")
		if len(got.GetEncodings()) != 1 || got.GetEncodings()[0].GetCoding() != "zstd" || !got.GetIndex() || got.GetProxy().GetFreshFor().AsDuration() < 30*time.Second {
			t.Errorf("%v", got)
		}
		family("2", put(t, p, "noarch/repodata.json.zst", "two.zst", true))
		if p.resolve("prox", "noarch/repodata.json").GetFound() {
			t.Error("a form of the generation before is still there")
		}
		if n := refs(t, p); n != 1 {
			t.Errorf("%d references", n)
		}
		if family("2") != 1 || family("3") != 0 {
			t.Error("the files of a family are not counted")
		}
	})

	t.Run("what was fetched under other settings is refused, and changed settings drop all", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		f := put(t, p, "noarch/a-1-0.conda", "bytes", false)
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{f}}); err != nil {
			t.Fatal(err)
		}
		_, err := p.api.UpdateChannel(p.as(p.admin), &channelsv1.UpdateChannelRequest{
			Channel: "prox", Settings: &channelsv1.Channel{Mirror: &channelsv1.MirrorSettings{Excludelist: []string{"b"}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"mirror.excludelist"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if p.resolve("prox", f.Path).GetFound() || refs(t, p) != 0 {
			t.Error("it is still there")
		}
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{f}}); !fault.Is(err, fault.LostRace) {
			t.Errorf("under the former settings: %v", err)
		}
	})

	t.Run("what proxylist names is upstream's", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{Proxylist: []string{"mkl"}})
		if got := p.resolve("prox", "noarch/mkl-1-0.conda").GetRedirectUrl(); got != "https://up.example/chan/noarch/mkl-1-0.conda" {
			t.Error(got)
		}
		if got := p.resolve("prox", "noarch/mkl-devel-1-0.conda").GetRedirectUrl(); got != "" {
			t.Error(got)
		}
	})

	t.Run("pages of files that stand alone", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		var want []string
		for _, path := range []string{"linux-64/x-1-0.conda", "noarch/a-1-0.conda", "noarch/b-1-0.conda", "noarch/c-1-0.conda"} {
			if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{put(t, p, path, path, false)}}); err != nil {
				t.Fatal(err)
			}
			if path[0] == 'n' {
				want = append(want, path)
			}
		}
		var got []string
		for after := ""; ; {
			page, err := p.api.ListProxied(p.target(), &channelsv1.ListProxiedRequest{ChannelId: p.id, Directory: "noarch/", After: after, PageSize: 2})
			if err != nil {
				t.Fatal(err)
			}
			if len(page.GetFiles()) == 0 {
				break
			}
			for _, f := range page.GetFiles() {
				after = f.GetPath()
				got = append(got, after)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("bad paths and other channels are refused", func(t *testing.T) {
		p := setup(t, &channelsv1.MirrorSettings{})
		f := put(t, p, "noarch/a-1-0.conda", "bytes", false)
		bad := put(t, p, "../a", "bytes", false)
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{bad}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("a path that leads out: %v", err)
		}
		ch, err := p.api.CreateChannel(p.as(p.admin), &channelsv1.CreateChannelRequest{Name: "hosted"})
		if err != nil {
			t.Fatal(err)
		}
		p.id = ch.GetId()
		if _, err := record(t, p, &channelsv1.RecordProxiedRequest{Files: []*channelsv1.ProxiedFile{f}}); !fault.Is(err, fault.Precondition) {
			t.Errorf("a hosted channel: %v", err)
		}
	})
}
