package edge

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// cardEntries bounds the memory that cards take: some kilobytes each, if a channel has long lists.
const cardEntries = 4096

// Card is a channel as it was a moment ago.
type Card struct {
	// Channel must not be changed.
	Channel *channelsv1.Channel

	at    time.Time
	gen   *atomic.Uint64 // of the channel
	seen  uint64         // its value when channels was asked
	all   uint64         // the value of cards.all then
	roles int64          // the version of the role snapshot then: members are counted from the same rows

	once sync.Once
	json []byte
	err  error
}

// JSON returns what render makes of the channel. It is asked once for each card; all callers give the same render.
func (c *Card) JSON(render func(*channelsv1.Channel) ([]byte, error)) ([]byte, error) {
	c.once.Do(func() { c.json, c.err = render(c.Channel) })
	return c.json, c.err
}

// cards remembers channels, by name without case. See Files.Card.
type cards struct {
	entries *lru.Cache[string, *Card]
	all     atomic.Uint64 // raised when everything is forgotten
	known   lookups
}

func newCards() cards {
	entries, err := lru.New[string, *Card](cardEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return cards{entries: entries}
}

// Card returns a channel if the caller may read it. What is known is believed for a second (D16), unless the channel
// changes sooner: by a broadcast, by a write through this edge, or by a change of roles. Whether the caller may read it
// is decided each time, here if the card is fresh, else by channels, whose refusals are passed on and not remembered.
func (f *Files) Card(ctx context.Context, channel string) (*Card, error) {
	key := strings.ToLower(channel)
	var version int64
	if snap := f.deps.Roles.Snapshot(); snap != nil {
		version = snap.Version()
	}
	all := f.cards.all.Load()
	if c, ok := f.cards.entries.Get(key); ok && c.all == all && c.roles == version && c.gen.Load() == c.seen && f.now().Sub(c.at) < resolveFresh {
		err := f.deps.Roles.Allow(ctx, authn.FromContext(ctx), authz.ChannelRead, authz.Resource{
			Kind: authz.Channel, ID: c.Channel.GetId(), Name: c.Channel.GetName(), Namespace: c.Channel.GetNamespace(), Public: !c.Channel.GetPrivate(),
		})
		if err == nil {
			f.cards.known.count(true)
			return c, nil
		}
	}
	f.cards.known.count(false)
	gen := f.generation(key, "")
	c := &Card{at: f.now(), gen: gen, seen: gen.Load(), all: all, roles: version}
	var err error
	if c.Channel, err = f.deps.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: channel}); err != nil {
		return nil, err
	}
	if f.generation(key, c.Channel.GetId()) == gen { // else so many names were asked for that all counters began anew
		f.cards.entries.Add(key, c)
	}
	return c, nil
}

// wrote forgets what may no longer be true after a request that was answered, but whose answer has not been sent: whoever
// wrote reads the own write. A refusal has changed nothing, and anybody can be refused as often as they like; what failed
// on our side may have been done.
func (f *Files) wrote(r *http.Request, status int) {
	if status >= 400 && status < 500 {
		return
	}
	channel := r.PathValue("channel")
	if channel == "" {
		channel = r.PathValue("channel_name")
	}
	channel, _, _ = strings.Cut(channel, ":") // the native API's verbs are part of the segment
	switch {
	case channel != "":
		if r.Method == http.MethodDelete {
			f.deleted(r, channel)
		}
		f.Changed(channel)
	case !authn.FromContext(r.Context()).Anonymous(): // whose logins are of no channel
		f.ForgetCards()
	}
}

// ForgetCards forgets all channels, after a write that may have concerned any of them.
func (f *Files) ForgetCards() { f.cards.all.Add(1) }

// reads reports whether a method changes nothing.
func reads(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}
