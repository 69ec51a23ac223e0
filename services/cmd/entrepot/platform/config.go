package platform

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/identity/login"
	"github.com/entrepot-dev/entrepot/services/metrics"
	"github.com/entrepot-dev/entrepot/services/storage"
	"github.com/entrepot-dev/entrepot/services/sync"
	"github.com/entrepot-dev/entrepot/services/sync/plane"
)

// Config is everything that can be set: by YAML file, ENTREPOT_* variables and flags, in this order.
type Config struct {
	// DataDir holds all that an embedded part keeps, the keys and the lock.
	DataDir string `koanf:"data_dir"`
	// Target says which parts run in this process; `all` is every one of them.
	Target []string `koanf:"target"`
	// Kinds narrows which jobs the worker pools of this process do; none means all that the targets have.
	Kinds []string `koanf:"kinds"`
	// Dev makes test users, lets anyone log in as anyone and allows upstreams on loopback.
	Dev bool `koanf:"dev"`

	HTTPAddr    string `koanf:"http_addr"`
	GRPCAddr    string `koanf:"grpc_addr"`
	ServiceAddr string `koanf:"service_addr"`
	DataAddr    string `koanf:"data_addr"`
	OpsAddr     string `koanf:"ops_addr"`

	// TLSCert and TLSKey turn on TLS at the gRPC front door.
	TLSCert string `koanf:"tls_cert"`
	TLSKey  string `koanf:"tls_key"`

	// DatabaseURL replaces the private PostgreSQL. It may hold a password.
	DatabaseURL config.Secret `koanf:"database_url"`
	// NATSURL replaces the embedded NATS server. It may hold a token.
	NATSURL config.Secret `koanf:"nats_url"`
	// BlobURL is a directory or s3://bucket/prefix?endpoint=…; default <data_dir>/blobs.
	BlobURL config.Secret `koanf:"blob_url"`
	// MasterKeyFile seals signing keys and credentials; default <data_dir>/master-key, made if absent.
	MasterKeyFile string `koanf:"master_key_file"`
	// AdminKeyFile gets the first administrator's API key, or holds one that was chosen before the first start; default
	// <data_dir>/admin-key.
	AdminKeyFile string `koanf:"admin_key_file"`

	// Services are `host:port` of services that run in other processes, by name.
	Services map[string]string `koanf:"services"`
	// DataURL is where the data plane is, if storage runs in another process.
	DataURL string `koanf:"data_url"`
	// FetchURLs are where fetch planes are, for gateways: the data addresses of sync. A name with several addresses stands
	// for several. Without any, the gateway asks the fetch plane of its own process.
	FetchURLs []string `koanf:"fetch_urls"`
	// DialTCP makes calls to services of this same process go over its service port too, and not in memory: a process then
	// has no way to another part but the network. For tests of separate processes.
	DialTCP bool `koanf:"dial_tcp"`
	// TargetSecret proves to identity which part of the platform this process is; the same in all processes of one installation.
	TargetSecret config.Secret `koanf:"target_secret"`

	// PublicURL is where the edge is reached from outside, such as https://conda.example.org: what other servers are told,
	// and never asked over the network. Without it, what a request came to.
	PublicURL string `koanf:"public_url"`
	// ChannelQuota is the size limit of channels that are made without one; 0 means none.
	ChannelQuota config.Bytes `koanf:"channel_quota"`
	// PackageStore is a directory with packages as <channel>/<subdir>/<file>, which the action reindex looks through.
	PackageStore string `koanf:"package_store"`

	// RateLimit says how often somebody may ask; without it, as often as they like.
	RateLimit edge.RateLimits `koanf:"rate_limit"`

	// EgressAllow are CIDRs of inner addresses that upstreams may have; loopback is allowed in development.
	EgressAllow []string `koanf:"egress_allow"`
	// MaxUpload bounds one uploaded file.
	MaxUpload config.Bytes `koanf:"max_upload"`
	// HotCache is the memory that the edge keeps small files in.
	HotCache config.Bytes `koanf:"hot_cache"`
	// DatabaseConns is how many connections to PostgreSQL the process may open.
	DatabaseConns int `koanf:"database_conns"`
	// DrainDelay passes between the moment that readiness drops and the first listener's end: the time that load balancers
	// take to notice. 0 where nothing stands in front, or it only makes stopping slow.
	DrainDelay time.Duration `koanf:"drain_delay"`

	Log  LogConfig   `koanf:"log"`
	OTLP OTLPConfig  `koanf:"otlp"`
	Jobs JobsConfig  `koanf:"jobs"`
	Sync sync.Config `koanf:"sync"`
	// Proxy says how proxy channels behave.
	Proxy plane.Config `koanf:"proxy"`

	// Metrics says how long download counts are kept.
	Metrics metrics.Config `koanf:"metrics"`

	// Login says how people log in.
	Login login.Config `koanf:"login"`

	// Upkeep looks after what is stored.
	Upkeep storage.Upkeep `koanf:"upkeep"`
}

// LogConfig says what is logged and how.
type LogConfig struct {
	// Level is debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is text or json.
	Format string `koanf:"format"`
}

// OTLPConfig says where traces go.
type OTLPConfig struct {
	// Endpoint is host:port or a URL of a collector; empty means nowhere.
	Endpoint string `koanf:"endpoint"`
}

// JobsConfig says how jobs live.
type JobsConfig struct {
	// LeaseTTL is how long a vanished worker keeps its job.
	LeaseTTL time.Duration `koanf:"lease_ttl"`
	// Drain is how long jobs may go on to finish when a worker pool stops. Those that do not are given back, without a
	// failed attempt, and another worker goes on with them at once: longer only pays for jobs that begin at the front.
	Drain time.Duration `koanf:"drain"`
	// Retention is how long jobs that have ended are kept.
	Retention time.Duration `koanf:"retention"`
	// StreamReplicas of the job streams: 1 with the embedded server, 3 in a NATS cluster.
	StreamReplicas int `koanf:"stream_replicas"`
}

// Targets are the parts that a process can run.
var Targets = []string{"gateway", "channels", "sync", "identity", "storage", "jobs", "metrics", "sync-worker", "channels-worker", "storage-worker"}

// All is the target that stands for all of them.
const All = "all"

// DefaultConfig runs the whole platform on one machine.
func DefaultConfig() Config {
	return Config{
		DataDir: defaultDataDir(), Target: []string{All},
		HTTPAddr: "127.0.0.1:8000", GRPCAddr: "127.0.0.1:9090", ServiceAddr: "127.0.0.1:9091", DataAddr: "127.0.0.1:9092", OpsAddr: "127.0.0.1:9100",
		MaxUpload: 64 << 30, HotCache: 256 << 20, DatabaseConns: 20,
		Log:    LogConfig{Level: "info", Format: "text"},
		Jobs:   JobsConfig{LeaseTTL: 30 * time.Second, Drain: 10 * time.Second, Retention: 14 * 24 * time.Hour, StreamReplicas: 1},
		Sync:   sync.DefaultConfig(),
		Proxy:  plane.DefaultConfig(),
		Upkeep: storage.DefaultUpkeep(), Metrics: metrics.DefaultConfig(), Login: login.DefaultConfig(),
	}
}

// defaultDataDir: PostgreSQL does not run as root, and its account cannot look into root's home.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/entrepot"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "entrepot")
	}
	return "entrepot-data"
}

// Blobs returns the URL or directory of the blob store.
func (c Config) Blobs() string { return c.blobURL() }

// MasterKey returns the path of the master key.
func (c Config) MasterKey() string {
	if c.MasterKeyFile != "" {
		return c.MasterKeyFile
	}
	return filepath.Join(c.DataDir, "master-key")
}

// Runs reports whether the process runs the target.
func (c Config) Runs(target string) bool {
	return slices.Contains(c.Target, All) || slices.Contains(c.Target, target)
}

// Validate refuses what cannot work, naming every field that is wrong.
func (c Config) Validate() error {
	var bad []fault.Violation
	fail := func(field, format string, args ...any) {
		bad = append(bad, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	if len(c.Target) == 0 {
		fail("target", "name at least one of %s, %s", All, strings.Join(Targets, ", "))
	}
	for _, t := range c.Target {
		if t != All && !slices.Contains(Targets, t) {
			fail("target", "there is no target %q; there are %s, %s", t, All, strings.Join(Targets, ", "))
		}
	}
	if c.DataDir == "" {
		fail("data_dir", "the data directory must be named")
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "") {
		fail("public_url", "%q is not an http or https URL", c.PublicURL)
	}
	if c.ChannelQuota < 0 {
		fail("channel_quota", "must not be negative")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		fail("tls_cert", "tls_cert and tls_key go together")
	}
	for _, s := range c.EgressAllow {
		if _, err := netip.ParsePrefix(s); err != nil {
			fail("egress_allow", "%q is not a CIDR such as 10.0.0.0/8", s)
		}
	}
	if c.DatabaseConns < 4 {
		fail("database_conns", "a process needs at least 4 connections")
	}
	if c.HotCache < 0 || c.MaxUpload < 1 {
		fail("hot_cache", "hot_cache must not be negative and max_upload must be positive")
	}
	if c.Jobs.LeaseTTL < time.Second {
		fail("jobs.lease_ttl", "a lease under a second would be lost by a pause of the garbage collector")
	}
	for field, d := range map[string]time.Duration{"jobs.drain": c.Jobs.Drain, "drain_delay": c.DrainDelay} {
		if d < 0 {
			fail(field, "must not be negative")
		}
	}
	if !slices.Contains(c.Target, All) {
		for field, s := range map[string]config.Secret{"database_url": c.DatabaseURL, "nats_url": c.NATSURL, "target_secret": c.TargetSecret} {
			if s.IsZero() {
				fail(field, "is needed when the targets run in processes of their own")
			}
		}
	}
	for _, err := range []error{c.Sync.Validate(), c.Proxy.Validate(), c.Upkeep.Validate(), c.Metrics.Validate(), c.RateLimit.Validate(), c.Login.Validate()} {
		if f, ok := err.(*fault.Error); ok {
			bad = append(bad, f.Violations...)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	err := fault.New(fault.Invalid, "the configuration cannot be used")
	err.Violations = bad
	return err
}

// Doubts are settings that work, but hardly as somebody means them.
func (c Config) Doubts() (out []string) {
	if c.Runs("gateway") && !c.Dev && c.plainLogins() {
		out = append(out, "public_url is not https: login cookies are sent without Secure, and whoever is on the way can read them")
	}
	return out
}

// plainLogins reports whether browsers elsewhere log in over http, as far as the settings tell. A reverse proxy that speaks
// https is known by public_url only.
func (c Config) plainLogins() bool {
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && err == nil {
		return !strings.EqualFold(u.Scheme, "https") && !isLoopback(u.Hostname())
	}
	host, _, err := net.SplitHostPort(c.HTTPAddr)
	return err == nil && !isLoopback(host)
}

// isLoopback reports whether a host is this machine, which nobody is on the way to.
func isLoopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost")
}

// trustedProxies are those of the configuration, which Validate has read.
func (c Config) trustedProxies() (out []netip.Prefix) {
	for _, s := range c.RateLimit.TrustedProxies {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
