package edge

import (
	"context"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// A file that was deleted can be had for as long as an index lists it, so that nobody who has read that index is left
// without. Who has deleted it shall not find it, though: an edge remembers the deletions that passed through it, and serves
// what they were about only if it stands in the channel's newest revision.

const (
	// goneFor is how long a deletion is remembered. An index follows within a fraction of a second as a rule; one that lags
	// longer than this lags for all edges alike.
	goneFor = 10 * time.Minute
	// goneEntries bounds the memory of deletions, about 200 bytes each. The oldest fall out first.
	goneEntries = 65_536
)

// goneKey is what a deletion was about: a path of a channel, by lower-case name, or all files of a package.
type goneKey struct{ channel, path, pkg string }

func newGone() *lru.Cache[goneKey, time.Time] {
	gone, err := lru.New[goneKey, time.Time](goneEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return gone
}

// deleted remembers what a DELETE was about. It need not have come to pass: to look twice is all that comes of it.
func (f *Files) deleted(r *http.Request, channel string) {
	key := goneKey{channel: strings.ToLower(channel), path: r.PathValue("path")}
	if platform := r.PathValue("platform"); platform != "" {
		key.path = platform + "/" + r.PathValue("filename")
	}
	if key.path == "" {
		key.pkg = strings.ToLower(r.PathValue("package"))
	}
	if key.path != "" || key.pkg != "" {
		f.gone.Add(key, f.now().Add(goneFor))
	}
}

// mayBeGone reports whether a path of a channel was deleted here not long ago.
func (f *Files) mayBeGone(key fileKey) bool {
	if f.gone.Len() == 0 {
		return false
	}
	now := f.now()
	if until, ok := f.gone.Get(goneKey{channel: key.channel, path: key.path}); ok && now.Before(until) {
		return true
	}
	d, err := dist.ParseFilename(key.path[strings.LastIndexByte(key.path, '/')+1:])
	if err != nil {
		return false
	}
	until, ok := f.gone.Get(goneKey{channel: key.channel, pkg: strings.ToLower(d.Name)})
	return ok && now.Before(until)
}

// atHead returns resp, or that nothing is there if its file has left the channel and only an index still lists it.
func (f *Files) atHead(ctx context.Context, key fileKey, resp *channelsv1.ResolveResponse) (*channelsv1.ResolveResponse, error) {
	if !resp.GetFound() || resp.GetIndex() || resp.GetProxy() != nil || !key.pin.zero() || !f.mayBeGone(key) {
		return resp, nil
	}
	// A revision by its number shows what stands in it and nothing else.
	exact, err := f.deps.Channels.Resolve(ctx, &channelsv1.ResolveRequest{Channel: key.channel, Path: key.path, Revision: resp.GetChannel().GetHead()})
	if err != nil {
		return nil, err
	}
	if !exact.GetFound() && exact.GetMissing() == "" {
		return exact, nil
	}
	return resp, nil
}
