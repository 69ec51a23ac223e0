package plane

import (
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Config says how proxies behave.
type Config struct {
	// IndexTTL is how long an index is served without asking upstream; never longer than the channel's ttl.
	IndexTTL time.Duration `koanf:"index_ttl"`
	// RevalidateWait is how long readers of a stale index wait for upstream's answer before they get the copy there is.
	RevalidateWait time.Duration `koanf:"revalidate_wait"`
	// MaxStale is how old a copy may be that is served while upstream fails.
	MaxStale time.Duration `koanf:"max_stale"`
	// RetryAfter is how long upstream is left alone after it failed, as far as there is a copy.
	RetryAfter time.Duration `koanf:"retry_after"`
	// NegativeTTL is how long it is remembered that upstream does not have a file.
	NegativeTTL time.Duration `koanf:"negative_ttl"`
	// RefuseTTL is how long a file is refused that is not what the index says.
	RefuseTTL time.Duration `koanf:"refuse_ttl"`
	// LeaseTTL is how long a process that vanished keeps others from fetching what it was fetching.
	LeaseTTL time.Duration `koanf:"lease_ttl"`
	// Flights bounds the files that a process fetches at a time, and a quarter of it those of one channel; more are refused.
	Flights int `koanf:"flights"`
	// Linger is how long a file is fetched on that nobody waits for any more: who left may come back.
	Linger time.Duration `koanf:"linger"`
	// Keep is how long files stay in storage that nobody asks for; 0 means for ever. Upkeep lets go of them.
	Keep time.Duration `koanf:"keep"`
	// SpoolDir holds what is under way; default <data_dir>/spool.
	SpoolDir string `koanf:"spool_dir"`
}

// DefaultConfig keeps indexes current to the minute.
func DefaultConfig() Config {
	return Config{
		IndexTTL: time.Minute, RevalidateWait: 2 * time.Second, MaxStale: 7 * 24 * time.Hour, RetryAfter: 5 * time.Second,
		NegativeTTL: 10 * time.Second, RefuseTTL: time.Minute, LeaseTTL: 5 * time.Second, Flights: 512, Linger: 2 * time.Minute, Keep: 90 * 24 * time.Hour,
	}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	for field, d := range map[string]time.Duration{
		"index_ttl": c.IndexTTL, "revalidate_wait": c.RevalidateWait, "max_stale": c.MaxStale, "retry_after": c.RetryAfter,
		"negative_ttl": c.NegativeTTL, "refuse_ttl": c.RefuseTTL, "linger": c.Linger, "keep": c.Keep,
	} {
		if d < 0 {
			return fault.Field("proxy."+field, "proxy.%s must not be negative", field)
		}
	}
	if c.LeaseTTL < time.Second {
		return fault.Field("proxy.lease_ttl", "a lease under a second would be lost by a pause of the garbage collector")
	}
	if c.Flights < 1 {
		return fault.Field("proxy.flights", "proxy.flights must be positive")
	}
	return nil
}
