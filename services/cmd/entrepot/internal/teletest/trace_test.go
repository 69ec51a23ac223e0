package teletest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// syncJob asks for a sync in the Quetz dialect and waits for its end.
func syncJob(t *testing.T, s *platformtest.Stack, channel string, header http.Header) (state string) {
	t.Helper()
	s.Admin().In(t).Send(200, platformtest.Request{
		Method: "PUT", Path: "/api/channels/" + channel + "/actions", Body: map[string]any{"action": "synchronize"}, Header: header,
	})
	return lastSync(t, s, channel)
}

// lastSync waits for the end of a channel's newest sync.
func lastSync(t *testing.T, s *platformtest.Stack, channel string) (state string) {
	t.Helper()
	eventually(t, "the sync of "+channel, func() bool {
		var list struct {
			Jobs []struct{ Kind, State, Resource, Error string }
		}
		s.Admin().In(t).Must(200, "GET", "/entrepot/v1/jobs?page_size=100", nil).JSON(&list)
		for _, j := range list.Jobs {
			if strings.HasPrefix(j.Kind, "sync.") && j.Resource == "channel/"+channel {
				state = j.State
				// What failed may be tried again later; its first error is enough.
				return state == "JOB_STATE_SUCCEEDED" || state == "JOB_STATE_DEAD" || state == "JOB_STATE_CANCELLED" || j.Error != ""
			}
		}
		return false
	})
	return state
}

// idle waits until no job waits or runs.
func idle(t *testing.T, s *platformtest.Stack) {
	t.Helper()
	eventually(t, "the end of all jobs", func() bool {
		var list struct{ Jobs []struct{ State string } }
		s.Admin().In(t).Must(200, "GET", "/entrepot/v1/jobs?page_size=1000", nil).JSON(&list)
		for _, j := range list.Jobs {
			if j.State == "JOB_STATE_QUEUED" || j.State == "JOB_STATE_RUNNING" {
				return false
			}
		}
		return true
	})
}

// upstream is a channel with two packages, on loopback.
func upstream(t *testing.T) *fetchtest.Upstream {
	t.Helper()
	ch := synctest.NewChannel()
	ch.AddPackage(t, "noarch", "alpha", "1.0", dist.Conda)
	ch.AddPackage(t, "linux-64", "beta", "2.0", dist.TarBz2)
	up := fetchtest.New(t)
	up.Fallback(ch)
	return up
}

func newMirror(t *testing.T, s *platformtest.Stack, name, url string) {
	t.Helper()
	s.Admin().In(t).Must(201, "POST", "/api/channels", map[string]any{
		"name": name, "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []string{},
	})
}

// TestOneTrace: the spans of a sync, from the request that asked for it to the upstream's files, are one connected tree;
// design D22.
func TestOneTrace(t *testing.T) {
	s, r := traced(t)
	up := upstream(t)
	newMirror(t, s, "traced", up.URL)
	if state := syncJob(t, s, "traced", nil); state != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("the sync is %s", state)
	}
	idle(t, s)
	s.Stop() // which sends what is left
	all := r.all()
	var root span
	for _, sp := range all {
		if sp.name == "PUT /api/channels/{channel_name}/actions" {
			root = sp
		}
	}
	if root.id == "" {
		t.Fatalf("there is no span of the request at the edge; there are %d spans: %v", len(all), names(all))
	}
	if root.parent != "" {
		t.Errorf("the edge's span has the parent %s", root.parent)
	}
	found := map[string]int{}
	for _, sp := range all {
		if sp.trace != root.trace {
			continue
		}
		found[sp.name]++
		if sp.id == root.id {
			continue
		}
		parent, ok := all[sp.parent]
		if !ok || parent.trace != root.trace {
			t.Errorf("%s hangs in the air: its parent %q is not in the trace", sp.name, sp.parent)
		}
	}
	for _, want := range []string{
		"entrepot.sync.v1.SyncService/StartSync", "jobs.enqueue sync.channel", "jobs.publish sync.channel", "jobs.run sync.channel",
		"entrepot.channels.v1.ChannelService/Diff", "entrepot.channels.v1.ChannelService/Apply", "jobs.enqueue channels.index",
		"jobs.publish channels.index", "jobs.run channels.index", "fetch GET",
	} {
		if found[want] == 0 {
			t.Errorf("no span %s in the trace; there are %v", want, found)
		}
	}
	// What stands below what: the path from each upstream request up to the HTTP request.
	fetched := map[string]bool{}
	for _, sp := range all {
		if !strings.HasPrefix(sp.name, "fetch ") || sp.trace != root.trace {
			continue
		}
		fetched[sp.attrs["url.full"]] = true
		var path []string
		for at := sp; at.id != ""; at = all[at.parent] {
			path = append(path, at.name)
			if at.parent != "" && at.begin < all[at.parent].begin {
				t.Errorf("%s began before its parent %s", at.name, all[at.parent].name)
			}
		}
		slices.Reverse(path)
		if at := strings.Join(path, " > "); !strings.HasPrefix(at, root.name+" > ") || !strings.Contains(at, "> jobs.enqueue sync.channel > jobs.publish sync.channel > jobs.run sync.channel >") {
			t.Errorf("an upstream request stands at %s", at)
		}
	}
	if len(fetched) < 4 { // two indexes, two files
		t.Errorf("the trace has the upstream requests %v", fetched)
	}
	for _, q := range up.Requests() {
		if !fetched[up.URL+q.Path] {
			t.Errorf("the request to %s is in no span of the trace", q.Path)
		}
	}
}

// TestStrangersTraces: at the public ports a trace context is a link and nothing more. Who could make us part of a trace
// of his could bloat it, join others', and say what is sampled.
func TestStrangersTraces(t *testing.T) {
	s, r := traced(t)
	up := upstream(t)
	newMirror(t, s, "own", up.URL)
	foreign := map[string]bool{}
	header := func(flags string) (id string, h http.Header) {
		id = fmt.Sprintf("%032x", 0xabc0+len(foreign))
		foreign[id] = true
		return id, http.Header{
			"Traceparent": {"00-" + id + "-00f067aa0ba902b7-" + flags}, "Tracestate": {"stranger=" + strings.Repeat("s", 200)}, "Baggage": {"stranger-baggage=" + strings.Repeat("b", 200)},
		}
	}
	sampled, h := header("01")
	syncJob(t, s, "own", h)
	unsampled, h := header("00")
	s.Anonymous().In(t).Send(200, platformtest.Request{Method: "GET", Path: "/api/channels", Header: h})

	id, h := header("01")
	md := metadata.MD{}
	for k, v := range h {
		md.Set(strings.ToLower(k), v...)
	}
	md.Set("authorization", "Bearer "+s.AdminKey)
	client := channelsv1.NewChannelServiceClient(s.Conn())
	if _, err := client.ListChannels(metadata.NewOutgoingContext(context.Background(), md), &channelsv1.ListChannelsRequest{}); err != nil {
		t.Fatal(err)
	}
	s.Stop()

	linked := map[string]string{}
	for _, sp := range r.all() {
		if foreign[sp.trace] {
			t.Errorf("%s is part of a stranger's trace", sp.name)
		}
		for _, l := range sp.links {
			linked[l] = sp.name
		}
	}
	want := map[string]string{
		sampled: "PUT /api/channels/{channel_name}/actions", unsampled: "GET /api/channels", id: "entrepot.channels.v1.ChannelService/ListChannels",
	}
	for trace, name := range want {
		if linked[trace] != name {
			t.Errorf("the trace %s is linked from %q, want %q", trace, linked[trace], name)
		}
	}
	for _, text := range []string{"ssssssss", "bbbbbbbb", "stranger"} {
		if strings.Contains(r.text(), text) {
			t.Errorf("what a stranger wrote is in the spans: %s", text)
		}
	}
}
