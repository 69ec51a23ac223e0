package edge

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/time/rate"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// RateLimits say how often somebody may ask. Who is limited is an API key, the user of a session, or, for those who sent
// neither, an address. Each process counts for itself. The zero value limits nobody.
type RateLimits struct {
	// RequestsPerSecond and Burst bound the API; 0 requests per second means no bound, 0 of burst twice the rate.
	RequestsPerSecond float64 `koanf:"requests_per_second"`
	Burst             int     `koanf:"burst"`
	// FilesPerSecond and FilesBurst bound uploads, downloads and index files: an installation asks for hundreds at once.
	FilesPerSecond float64 `koanf:"files_per_second"`
	FilesBurst     int     `koanf:"files_burst"`
	// The same for requests without a key that is worth something, by address; of IPv6 by /64, which is what one customer has.
	AnonymousRequestsPerSecond float64 `koanf:"anonymous_requests_per_second"`
	AnonymousBurst             int     `koanf:"anonymous_burst"`
	AnonymousFilesPerSecond    float64 `koanf:"anonymous_files_per_second"`
	AnonymousFilesBurst        int     `koanf:"anonymous_files_burst"`
	// TrustedProxies are CIDRs of load balancers, whose X-Forwarded-For says which address asks. Anybody else's is not believed.
	TrustedProxies []string `koanf:"trusted_proxies"`
}

// Validate names the fields that cannot be used.
func (l RateLimits) Validate() error {
	var bad []fault.Violation
	fail := func(field, format string, args ...any) {
		bad = append(bad, fault.Violation{Field: "rate_limit." + field, Description: fmt.Sprintf(format, args...)})
	}
	bounds := l.bounds()
	for _, field := range slices.Sorted(maps.Keys(bounds)) {
		b := bounds[field]
		if b.perSecond < 0 || b.perSecond > 1e9 || math.IsNaN(b.perSecond) {
			fail(field, "must be 0 or a positive number of requests in a second")
		}
		if b.burst < 0 {
			fail(field, "its burst must not be negative")
		}
		if b.burst > 0 && b.perSecond == 0 {
			fail(field, "has a burst and no rate")
		}
	}
	for _, s := range l.TrustedProxies {
		if _, err := netip.ParsePrefix(s); err != nil {
			fail("trusted_proxies", "%q is not a CIDR such as 10.0.0.0/8", s)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	err := fault.New(fault.Invalid, "the rate limits cannot be used")
	err.Violations = bad
	return err
}

type bound struct {
	perSecond float64
	burst     int
}

func (b bound) limiter() *rate.Limiter {
	burst := b.burst
	if burst == 0 {
		burst = max(1, int(math.Ceil(2*b.perSecond)))
	}
	return rate.NewLimiter(rate.Limit(b.perSecond), burst)
}

func (l RateLimits) bounds() map[string]bound {
	return map[string]bound{
		"requests_per_second": {l.RequestsPerSecond, l.Burst}, "files_per_second": {l.FilesPerSecond, l.FilesBurst},
		"anonymous_requests_per_second": {l.AnonymousRequestsPerSecond, l.AnonymousBurst},
		"anonymous_files_per_second":    {l.AnonymousFilesPerSecond, l.AnonymousFilesBurst},
	}
}

// ReasonRateLimited is the reason of the fault that refuses a request that came too soon.
const ReasonRateLimited = "RATE_LIMITED"

// limitedEntries bounds the memory that callers can take, about 200 bytes each. Who falls out begins with a full bucket.
const limitedEntries = 65536

// limitKey is whose requests of which kind are counted together.
type limitKey struct {
	who   string
	files bool
}

// Limiter holds back who asks too often: a token bucket for each caller. nil holds nobody back.
type Limiter struct {
	bounds  map[string]bound
	trusted []netip.Prefix
	buckets *lru.Cache[limitKey, *rate.Limiter]
	now     func() time.Time
	refused metric.Int64Counter
}

// NewLimiter returns a limiter, nil if nothing is limited.
func NewLimiter(l RateLimits) (*Limiter, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	limited := false
	for _, b := range l.bounds() {
		limited = limited || b.perSecond > 0
	}
	if !limited {
		return nil, nil
	}
	buckets, err := lru.New[limitKey, *rate.Limiter](limitedEntries)
	if err != nil {
		return nil, err
	}
	refused, err := otel.Meter("entrepot/edge").Int64Counter("entrepot.edge.rate_limited",
		metric.WithDescription("Requests that were refused because they came too soon, by what they asked for and who asked."))
	if err != nil {
		return nil, err
	}
	out := &Limiter{bounds: l.bounds(), buckets: buckets, now: time.Now, refused: refused}
	for _, s := range l.TrustedProxies {
		out.trusted = append(out.trusted, netip.MustParsePrefix(s).Masked())
	}
	return out, nil
}

// Allow takes a token of the caller's bucket. The error is Exhausted and says when there will be one.
func (l *Limiter) Allow(ctx context.Context, caller authn.Caller, address string, files bool) error {
	if l == nil {
		return nil
	}
	who, anonymous := "key/"+caller.KeyID, false
	switch {
	case caller.KeyID != "":
	case caller.UserID != "":
		who = "user/" + caller.UserID
	default:
		who, anonymous = "address/"+address, true
	}
	name := "requests_per_second"
	if files {
		name = "files_per_second"
	}
	if anonymous {
		name = "anonymous_" + name
	}
	b := l.bounds[name]
	if b.perSecond == 0 {
		return nil
	}
	key := limitKey{who, files}
	bucket, ok := l.buckets.Get(key)
	if !ok {
		bucket = b.limiter()
		if other, ok, _ := l.buckets.PeekOrAdd(key, bucket); ok {
			bucket = other
		}
	}
	now := l.now()
	r := bucket.ReserveN(now, 1)
	after := r.DelayFrom(now)
	if after == 0 {
		return nil
	}
	r.CancelAt(now) // who is refused must not be made to wait longer for it
	kind, by := "api", "key"
	if files {
		kind = "files"
	}
	if anonymous {
		by = "address"
	}
	l.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kind), attribute.String("by", by)))
	return fault.New(fault.Exhausted, "too many requests; try again in %d s", int(math.Ceil(after.Seconds()))).WithReason(ReasonRateLimited).WithRetryAfter(after)
}

// Address returns whose requests are counted together when nobody says who they are: an IPv4 address or an IPv6 /64.
func (l *Limiter) Address(r *http.Request) string {
	if l == nil {
		return ""
	}
	return l.AddressOf(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
}

// AddressOf is Address for a peer, as host:port, and the values of X-Forwarded-For.
func (l *Limiter) AddressOf(peer string, forwarded []string) string {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		host = peer
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return peer // no network's: a socket, a test
	}
	addr = addr.Unmap()
	// Each proxy adds, at the end, who asked it: the last one that we do not trust is the client, as far as we know.
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0 && l.trusts(addr); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap()
	}
	if addr.Is6() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

func (l *Limiter) trusts(addr netip.Addr) bool {
	for _, p := range l.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

type addressKey struct{}

// limit holds back who asks a route too often. Health checks are asked for by machines that mean well, and often.
func (rt *router) limit(d *Dialect, route Route, next http.Handler) http.Handler {
	if strings.HasPrefix(route.Pattern, "/health") {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rt.limiter != nil {
			address, _ := r.Context().Value(addressKey{}).(string)
			if err := rt.limiter.Allow(r.Context(), authn.FromContext(r.Context()), address, route.Kind == Bytes); err != nil {
				d.Error(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
