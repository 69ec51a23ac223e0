package edge_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestEachCallerHasABucketOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := edge.NewLimiter(edge.RateLimits{RequestsPerSecond: 1, Burst: 2, FilesPerSecond: 10, FilesBurst: 1, AnonymousRequestsPerSecond: 0.5, AnonymousBurst: 1})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(c authn.Caller, address string, files bool) time.Duration {
			err := l.Allow(t.Context(), c, address, files)
			if err == nil {
				return 0
			}
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.Exhausted || f.Reason != edge.ReasonRateLimited || f.RetryAfter <= 0 {
				t.Fatalf("%v", err)
			}
			return f.RetryAfter
		}
		one, other, user := authn.Caller{UserID: "u", KeyID: "one"}, authn.Caller{UserID: "u", KeyID: "other"}, authn.Caller{UserID: "u"}
		for i, want := range []time.Duration{0, 0, time.Second, time.Second} { // being refused costs nothing
			if got := ask(one, "a", false); got != want {
				t.Errorf("request %d: %s, not %s", i, got, want)
			}
		}
		for name, got := range map[string]time.Duration{
			"another key": ask(other, "a", false), "a session": ask(user, "a", false), "a file": ask(one, "a", true), "a stranger": ask(authn.Caller{}, "a", false),
			"a stranger elsewhere": ask(authn.Caller{}, "b", false), "files of strangers, which are not bounded": ask(authn.Caller{}, "a", true),
		} {
			if got != 0 {
				t.Errorf("%s waits %s", name, got)
			}
		}
		if got := ask(authn.Caller{}, "a", false); got != 2*time.Second {
			t.Errorf("the stranger waits %s", got)
		}
		time.Sleep(time.Second)
		if got := ask(one, "a", false); got != 0 {
			t.Errorf("after a second it waits %s", got)
		}
	})
}

func TestAnAddressIsBelievedFromTrustedProxiesOnly(t *testing.T) {
	l, err := edge.NewLimiter(edge.RateLimits{RequestsPerSecond: 1, TrustedProxies: []string{"10.0.0.0/8", "fd00::/8"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer, want string
		forwarded  []string
	}{
		{"192.0.2.1:5", "192.0.2.1", []string{"198.51.100.7"}},
		{"10.1.1.1:5", "198.51.100.7", []string{"198.51.100.7"}},
		{"10.1.1.1:5", "198.51.100.7", []string{"203.0.113.9, 198.51.100.7", "10.2.2.2"}},
		{"10.1.1.1:5", "10.1.1.1", []string{"nonsense"}},
		{"10.1.1.1:5", "10.1.1.1", nil},
		{"[fd00::1]:5", "2001:db8:1:2::/64", []string{"2001:db8:1:2:3:4:5:6"}},
		{"[::ffff:192.0.2.1]:5", "192.0.2.1", nil},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := l.Address(r); got != c.want {
			t.Errorf("%s for %q: %s, not %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

func TestRateLimitsThatCannotBeAreNamed(t *testing.T) {
	for name, l := range map[string]edge.RateLimits{
		"negative": {RequestsPerSecond: -1}, "burst alone": {Burst: 5}, "no CIDR": {TrustedProxies: []string{"10.0.0.1"}},
	} {
		if err := l.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l, err := edge.NewLimiter(edge.RateLimits{}); l != nil || err != nil {
		t.Errorf("no limits: %v %v", l, err)
	}
}

func TestRateLimitsAreNamedInOneOrder(t *testing.T) {
	l := edge.RateLimits{Burst: 1, FilesBurst: 1, AnonymousBurst: 1, AnonymousFilesBurst: 1}
	want := []string{
		"rate_limit.anonymous_files_per_second", "rate_limit.anonymous_requests_per_second", "rate_limit.files_per_second", "rate_limit.requests_per_second",
	}
	for range 20 { // a map's order is another each time
		var f *fault.Error
		if !errors.As(l.Validate(), &f) {
			t.Fatal("they are valid")
		}
		var got []string
		for _, v := range f.Violations {
			got = append(got, v.Field)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}
