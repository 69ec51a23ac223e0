package edge

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Answers about a proxy's index overtake each other between the fetch plane and the edge.
func TestAnOlderAnswerDoesNotTakeThePlaceOfANewerOne(t *testing.T) {
	began := time.Now()
	key := fileKey{channel: "p", path: "noarch/repodata.json"}
	answer := func(gen *atomic.Uint64, digest byte, changed int, index bool) *fileEntry {
		return &fileEntry{at: began, gen: gen, seen: gen.Load(), resp: &channelsv1.ResolveResponse{
			Found: true, Index: index, Sha256: []byte{digest}, Proxy: &channelsv1.ProxyState{}, UpdateTime: timestamppb.New(began.Add(time.Duration(changed) * time.Second)),
		}}
	}
	for _, row := range []struct {
		name           string
		first, second  int // when the index that each tells of was changed
		index, changed bool
		later          time.Duration
		want           byte
	}{
		{"a newer one", 1, 2, true, false, 0, 2},
		{"an older one", 2, 1, true, false, 0, 1},
		{"one of the same moment", 1, 1, true, false, 0, 2},
		{"an older one when the first is not believed any more", 2, 1, true, false, resolveFresh, 2},
		{"an older one after a change of the channel", 2, 1, true, true, 0, 2},
		{"an older one of a package", 2, 1, false, false, 0, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := NewFiles(FilesDeps{})
			now := began
			f.now = func() time.Time { return now }
			gen := f.generation(key.channel, "")
			f.remember(key, answer(gen, 1, row.first, row.index))
			now = now.Add(row.later)
			if row.changed {
				f.Changed(key.channel)
			}
			got := f.remember(key, answer(gen, 2, row.second, row.index)).resp.GetSha256()[0]
			kept, _ := f.entries.Peek(key)
			if got != row.want || kept.resp.GetSha256()[0] != row.want {
				t.Errorf("got answer %d, kept %d, want %d", got, kept.resp.GetSha256()[0], row.want)
			}
		})
	}
}

func TestAStaleCopyIsNotKeptBesideANewerAnswer(t *testing.T) {
	key := fileKey{channel: "p", path: "noarch/repodata.json"}
	asked := time.Now()
	for name, after := range map[string]time.Duration{"an answer from before": -time.Millisecond, "an answer since": time.Millisecond} {
		f := NewFiles(FilesDeps{})
		f.entries.Add(key, &fileEntry{at: asked.Add(after), gen: f.generation(key.channel, ""), resp: &channelsv1.ResolveResponse{}})
		f.keepStale(key, &staleCopy{at: asked}, asked)
		if kept := f.proxies.stale.Contains(key); kept != (after < 0) {
			t.Errorf("%s: kept %t", name, kept)
		}
	}
}
