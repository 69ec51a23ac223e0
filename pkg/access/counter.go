package access

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"

	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

const (
	// Every is the pause between batches: what a kill may cost.
	Every = time.Second
	// defaultRoom is for so many files an hour while the bus is away; a file takes some 200 bytes.
	defaultRoom = 200_000
	// maxPaths and maxBytes bound a batch, which must fit into a message of 1 MiB.
	maxPaths = 4000
	maxBytes = 512 << 10
	// maxPath bounds one path; longer ones are not counted. Names that channels take are far shorter.
	maxPath = 1024
)

// Publisher puts a batch into the stream and returns once it is kept there. The id is the same for each attempt at the
// same batch.
type Publisher interface {
	Publish(ctx context.Context, id string, data []byte) error
}

// CounterConfig is what a Counter stands on.
type CounterConfig struct {
	// Instance names the gateway. Two that run at once must differ in it, or in the nanosecond of their start.
	Instance string
	// Publisher is the bus.
	Publisher Publisher
	// Room is for how many files downloads are remembered while the bus is away; 0 means 200,000.
	Room int
	// Log hears when downloads are lost and when the bus is away; nil drops it.
	Log *slog.Logger
	// Meter counts; nil means the global one.
	Meter metric.MeterProvider
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// key is a file of a channel in an hour.
type key struct {
	channel uuid.UUID
	path    string
	hour    int64 // Unix time, seconds
}

// Counter counts downloads. Count may be called by many at once; Start and Stop by its owner.
type Counter struct {
	cfg     CounterConfig
	epoch   int64
	metrics *counterMetrics

	mu      sync.Mutex
	pending map[key]int64
	lost    int64 // not yet reported

	// What follows belongs to the goroutine that publishes, and to Stop when that has ended.
	seq    int64
	sealed []sealed // numbered, and not acknowledged

	cancel context.CancelFunc
	done   chan struct{}
}

// sealed is a batch that has its number.
type sealed struct {
	id   string
	data []byte
	seq  int64
}

// NewCounter returns a counter that publishes nothing before Start.
func NewCounter(cfg CounterConfig) (*Counter, error) {
	if cfg.Room <= 0 {
		cfg.Room = defaultRoom
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Counter{cfg: cfg, epoch: cfg.Now().UnixNano(), pending: map[key]int64{}}
	var err error
	c.metrics, err = newCounterMetrics(cfg.Meter, c)
	return c, err
}

// Count notes one download of a file of a channel, given by its UUID. What no channel could have is not counted.
func (c *Counter) Count(channel, path string) {
	id, err := uuid.Parse(channel)
	if err != nil || path == "" || len(path) > maxPath || !utf8.ValidString(path) {
		return
	}
	hour := c.cfg.Now().Unix()
	k := key{id, path, hour - hour%3600}
	c.mu.Lock()
	n, known := c.pending[k]
	full := !known && len(c.pending) >= c.cfg.Room
	if full {
		c.lost++
	} else {
		c.pending[k] = n + 1
	}
	c.mu.Unlock()
	c.metrics.counted(full)
}

// take returns what was counted since the last call.
func (c *Counter) take() (map[key]int64, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 && c.lost == 0 {
		return nil, 0
	}
	counts, lost := c.pending, c.lost
	c.pending, c.lost = make(map[key]int64, min(len(counts), 1024)), 0
	return counts, lost
}

// waiting returns how many files have counts that are in no batch yet.
func (c *Counter) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// batches turns counts into batches without numbers, in an order that does not depend on chance.
func batches(counts map[key]int64, lost int64) (out []*metricsv1.AccessBatch) {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.hour, b.hour), slices.Compare(a.channel[:], b.channel[:]), strings.Compare(a.path, b.path))
	})
	var b *metricsv1.AccessBatch
	var ch *metricsv1.ChannelAccess
	var last key
	paths, size := 0, 0
	for _, k := range keys {
		if b == nil || k.hour != last.hour || paths >= maxPaths || size >= maxBytes {
			b, ch, paths, size = &metricsv1.AccessBatch{Hour: k.hour}, nil, 0, 0
			out = append(out, b)
		}
		if ch == nil || k.channel != last.channel {
			ch = &metricsv1.ChannelAccess{ChannelId: slices.Clone(k.channel[:])}
			b.Channels = append(b.Channels, ch)
			size += len(k.channel) + 8
		}
		ch.Paths = append(ch.Paths, k.path)
		ch.Counts = append(ch.Counts, counts[k])
		paths, size, last = paths+1, size+len(k.path)+8, k
	}
	if lost > 0 {
		if len(out) == 0 {
			out = append(out, &metricsv1.AccessBatch{})
		}
		out[0].Lost = lost
	}
	return out
}
