package authn_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKey(t testing.TB, id string) authn.Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Key{ID: id, Private: private}
}

// clock is a time that tests move.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	c.set(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC))
	return c
}
func (c *clock) Now() time.Time          { return *c.now.Load() }
func (c *clock) set(t time.Time)         { c.now.Store(&t) }
func (c *clock) advance(d time.Duration) { c.set(c.Now().Add(d)) }

var everything = authn.Caller{
	UserID: "8d1c64d8-6f0e-4b3f-a2cf-9d1f3a4a2c11", Name: "alice", KeyID: "abcdefghijkl", Scoped: true,
	Scope: []authn.Grant{{Role: "member", Resource: "channel/x"}, {Role: "owner", Resource: "package/x/y"}},
	JobID: "0d6f3b1e-9a51-4a8c-a3ff-4f2f7d2e5a01", Claim: 7,
}

func TestTokens(t *testing.T) {
	type bundle struct {
		clock    *clock
		key      authn.Key
		signer   *authn.Signer
		verifier *authn.Verifier
	}
	setup := func(t *testing.T) bundle {
		b := bundle{clock: newClock(), key: newKey(t, "k1")}
		var err error
		if b.signer, err = authn.NewSigner(b.clock.Now, b.key); err != nil {
			t.Fatal(err)
		}
		b.verifier = authn.NewVerifier(authn.StaticKeys(b.signer.PublicKeys()...), b.clock.Now)
		return b
	}
	sign := func(t *testing.T, b bundle) string {
		token, _, err := b.signer.Sign(everything, "channels")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	refused := func(t *testing.T, b bundle, token, audience string) {
		t.Helper()
		c, err := b.verifier.Verify(t.Context(), token, audience)
		if !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("got %+v, %v, want Unauthenticated", c, err)
		}
	}

	t.Run("a token carries the whole caller, also from the cache", func(t *testing.T) {
		b := setup(t)
		token := sign(t, b)
		for range 2 {
			got, err := b.verifier.Verify(t.Context(), token, "channels")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(everything, got); diff != "" {
				t.Error(diff)
			}
		}
	})
	t.Run("an anonymous caller stays anonymous", func(t *testing.T) {
		b := setup(t)
		token, _, err := b.signer.Sign(authn.Caller{}, "channels")
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.verifier.Verify(t.Context(), token, "channels")
		if err != nil || !got.Anonymous() {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("a token lives sixty seconds and the skew, also in the cache", func(t *testing.T) {
		b := setup(t)
		cached, fresh := sign(t, b), ""
		if _, err := b.verifier.Verify(t.Context(), cached, "channels"); err != nil {
			t.Fatal(err)
		}
		fresh, _, err := b.signer.Sign(authn.Caller{Name: "other"}, "channels")
		if err != nil {
			t.Fatal(err)
		}
		b.clock.advance(authn.TokenLifetime + authn.ClockSkew - time.Second)
		for _, token := range []string{cached, fresh} {
			if _, err := b.verifier.Verify(t.Context(), token, "channels"); err != nil {
				t.Errorf("within its life: %v", err)
			}
		}
		b.clock.advance(time.Second)
		refused(t, b, cached, "channels")
		refused(t, b, fresh, "channels")
	})
	t.Run("another service does not take it, whether cached or not", func(t *testing.T) {
		b := setup(t)
		token := sign(t, b)
		refused(t, b, token, "sync")
		if _, err := b.verifier.Verify(t.Context(), token, "channels"); err != nil {
			t.Fatal(err)
		}
		refused(t, b, token, "sync")
		refused(t, b, token, "")
	})
	t.Run("forgeries are refused", func(t *testing.T) {
		b := setup(t)
		token := sign(t, b)
		head, rest, _ := strings.Cut(token, ".")
		payload, sig, _ := strings.Cut(rest, ".")
		other, err := authn.NewSigner(b.clock.Now, newKey(t, "k1")) // the same id, another key
		if err != nil {
			t.Fatal(err)
		}
		forged, _, _ := other.Sign(everything, "channels")
		make := func(method jwt.SigningMethod, key any, edit func(jwt.MapClaims, map[string]any)) string {
			claims := jwt.MapClaims{
				"iss": "entrepot", "aud": []string{"channels"}, "sub": "u", "iat": b.clock.Now().Unix(), "exp": b.clock.Now().Add(30 * time.Second).Unix(),
			}
			tok := jwt.NewWithClaims(method, claims)
			tok.Header["kid"] = "k1"
			if edit != nil {
				edit(claims, tok.Header)
			}
			s, err := tok.SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if _, err := b.verifier.Verify(t.Context(), make(jwt.SigningMethodEdDSA, b.key.Private, nil), "channels"); err != nil {
			t.Fatalf("the pattern of the forgeries is itself refused: %v", err)
		}
		for name, token := range map[string]string{
			"empty": "", "garbage": "a.b.c", "two parts": head + "." + payload, "no signature": head + "." + payload + ".",
			"cut signature":             head + "." + payload + "." + sig[:len(sig)-4],
			"padded":                    token + "==",
			"other key":                 forged,
			"none":                      make(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
			"HS256 with the public key": make(jwt.SigningMethodHS256, []byte(b.key.Public().Key), nil),
			"no kid":                    make(jwt.SigningMethodEdDSA, b.key.Private, func(_ jwt.MapClaims, h map[string]any) { delete(h, "kid") }),
			"unknown kid":               make(jwt.SigningMethodEdDSA, b.key.Private, func(_ jwt.MapClaims, h map[string]any) { h["kid"] = "k2" }),
			"kid is a number":           make(jwt.SigningMethodEdDSA, b.key.Private, func(_ jwt.MapClaims, h map[string]any) { h["kid"] = 1 }),
			"no expiry":                 make(jwt.SigningMethodEdDSA, b.key.Private, func(c jwt.MapClaims, _ map[string]any) { delete(c, "exp") }),
			"no issue time":             make(jwt.SigningMethodEdDSA, b.key.Private, func(c jwt.MapClaims, _ map[string]any) { delete(c, "iat") }),
			"a day long": make(jwt.SigningMethodEdDSA, b.key.Private, func(c jwt.MapClaims, _ map[string]any) {
				c["exp"] = b.clock.Now().Add(24 * time.Hour).Unix()
			}),
			"two audiences": make(jwt.SigningMethodEdDSA, b.key.Private, func(c jwt.MapClaims, _ map[string]any) {
				c["aud"] = []string{"channels", "sync"}
			}),
			"other issuer": make(jwt.SigningMethodEdDSA, b.key.Private, func(c jwt.MapClaims, _ map[string]any) { c["iss"] = "elsewhere" }),
			"huge":         strings.Repeat("a", 1<<20),
		} {
			t.Run(name, func(t *testing.T) { refused(t, b, token, "channels") })
		}
	})
	t.Run("a rotation is noticed, and a withdrawn key takes its cached tokens along", func(t *testing.T) {
		b := setup(t)
		k2 := newKey(t, "k2")
		next, err := authn.NewSigner(b.clock.Now, k2, b.key)
		if err != nil {
			t.Fatal(err)
		}
		var keys atomic.Pointer[[]authn.PublicKey]
		first := b.signer.PublicKeys()
		keys.Store(&first)
		b.verifier = authn.NewVerifier(func(context.Context) ([]authn.PublicKey, error) { return *keys.Load(), nil }, b.clock.Now)
		old := sign(t, b)
		if _, err := b.verifier.Verify(t.Context(), old, "channels"); err != nil {
			t.Fatal(err)
		}
		both := next.PublicKeys()
		keys.Store(&both)
		b.clock.advance(2 * time.Second)
		token, _, err := next.Sign(everything, "channels")
		if err != nil {
			t.Fatal(err)
		}
		for _, tok := range []string{token, old} {
			if _, err := b.verifier.Verify(t.Context(), tok, "channels"); err != nil {
				t.Errorf("while two keys are valid: %v", err)
			}
		}
		only := next.PublicKeys()[:1]
		keys.Store(&only)
		b.clock.advance(2 * time.Second)
		stranger, _, _ := mustSigner(t, b.clock, newKey(t, "k3")).Sign(everything, "channels")
		refused(t, b, stranger, "channels") // an unknown id fetches the keys
		refused(t, b, old, "channels")
	})
	t.Run("strangers cannot make it ask identity more than once a second", func(t *testing.T) {
		b := setup(t)
		var asked atomic.Int32
		b.verifier = authn.NewVerifier(func(context.Context) ([]authn.PublicKey, error) {
			asked.Add(1)
			return b.signer.PublicKeys(), nil
		}, b.clock.Now)
		token, _, _ := mustSigner(t, b.clock, newKey(t, "zz")).Sign(everything, "channels")
		for range 20 {
			refused(t, b, token, "channels")
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("without keys it is Unavailable, with recent ones it goes on", func(t *testing.T) {
		b := setup(t)
		var down atomic.Bool
		down.Store(true)
		b.verifier = authn.NewVerifier(func(context.Context) ([]authn.PublicKey, error) {
			if down.Load() {
				return nil, errors.New("identity is away")
			}
			return b.signer.PublicKeys(), nil
		}, b.clock.Now)
		if _, err := b.verifier.Verify(t.Context(), sign(t, b), "channels"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
		down.Store(false)
		if _, err := b.verifier.Verify(t.Context(), sign(t, b), "channels"); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		b.clock.advance(90 * time.Second)
		if _, err := b.verifier.Verify(t.Context(), sign(t, b), "channels"); err != nil {
			t.Errorf("identity restarts: %v", err)
		}
		b.clock.advance(time.Minute)
		if _, err := b.verifier.Verify(t.Context(), sign(t, b), "channels"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("keys of two minutes ago: got %v, want Unavailable", err)
		}
	})
}

func mustSigner(t *testing.T, c *clock, k authn.Key) *authn.Signer {
	t.Helper()
	s, err := authn.NewSigner(c.Now, k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokenSource(t *testing.T) {
	t.Run("a token is minted once and renewed fifteen seconds before its end", func(t *testing.T) {
		c := newClock()
		var minted atomic.Int32
		s := authn.NewTokenSource(func(context.Context, authn.Caller, string) (string, time.Time, error) {
			n := minted.Add(1)
			return strings.Repeat("t", int(n)), c.Now().Add(authn.TokenLifetime), nil
		}, c.Now)
		get := func(want string) {
			t.Helper()
			got, err := s.Token(t.Context(), everything, "channels")
			if err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		get("t")
		c.advance(44 * time.Second)
		get("t")
		c.advance(time.Second)
		get("tt")
		s.Forget(everything, "channels")
		get("ttt")
	})
	t.Run("callers that differ in anything do not share a token", func(t *testing.T) {
		s := authn.NewTokenSource(func(_ context.Context, c authn.Caller, aud string) (string, time.Time, error) {
			data, err := c.Marshal()
			return string(data) + c.JobID + string(rune(c.Claim)) + aud, time.Now().Add(time.Minute), err
		}, nil)
		edits := []func(*authn.Caller){
			func(*authn.Caller) {}, func(c *authn.Caller) { c.UserID = "u" }, func(c *authn.Caller) { c.Name = "bob" },
			func(c *authn.Caller) { c.KeyID = "" }, func(c *authn.Caller) { c.Scope = c.Scope[:1] },
			func(c *authn.Caller) { c.Scope = nil }, func(c *authn.Caller) { c.Scoped, c.Scope = false, nil },
			func(c *authn.Caller) { c.Target = "gateway" }, func(c *authn.Caller) { c.JobID = "j" }, func(c *authn.Caller) { c.Claim = 8 },
			func(c *authn.Caller) { c.UserID, c.Name = c.UserID+c.Name, "" },
		}
		seen := map[string]int{}
		for _, aud := range []string{"channels", "sync"} {
			for i, edit := range edits {
				c := everything
				edit(&c)
				tok, err := s.Token(t.Context(), c, aud)
				if err != nil {
					t.Fatal(err)
				}
				if j, ok := seen[tok]; ok {
					t.Errorf("caller %d has the token of caller %d", i, j)
				}
				seen[tok] = i
			}
		}
	})
	t.Run("calls that miss together share one flight, and a failure is not kept", func(t *testing.T) {
		var minted atomic.Int32
		started, release := make(chan struct{}), make(chan struct{})
		s := authn.NewTokenSource(func(context.Context, authn.Caller, string) (string, time.Time, error) {
			if minted.Add(1) == 1 {
				close(started)
				<-release
				return "", time.Time{}, errors.New("not now")
			}
			return "ok", time.Now().Add(time.Minute), nil
		}, nil)
		var wg sync.WaitGroup
		errs := make([]error, 8)
		wg.Go(func() { _, errs[0] = s.Token(context.Background(), everything, "a") })
		<-started
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(gone, everything, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("who waits may leave: got %v", err)
		}
		close(release)
		wg.Wait()
		if errs[0] == nil || minted.Load() != 1 {
			t.Errorf("got %v after %d flights", errs[0], minted.Load())
		}
		for i := range errs {
			wg.Go(func() { _, errs[i] = s.Token(t.Context(), everything, "a") })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil || minted.Load() != 2 {
			t.Errorf("got %v after %d flights", err, minted.Load())
		}
	})
}

func TestAPIKeys(t *testing.T) {
	t.Run("keys are letters and digits that conda finds in a URL", func(t *testing.T) {
		conda := regexp.MustCompile(`/t/([a-zA-Z0-9-]*)`)
		seen := map[string]bool{}
		for range 200 {
			full, id, hash, err := authn.NewAPIKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if m := conda.FindStringSubmatch("http://h/t/" + full + "/get/c"); m == nil || m[1] != full {
				t.Errorf("conda reads %q of %q", m, full)
			}
			if len(full) != authn.KeyLength || id != full[:12] || seen[id] || !hash.Equal(func() []byte { h := authn.HashKey(full); return h[:] }()) {
				t.Errorf("key %q, id %q", full, id)
			}
			seen[id] = true
			for _, s := range []string{full, id} {
				if got, ok := authn.ParseKeyID(s); !ok || got != id {
					t.Errorf("ParseKeyID(%q) = %q, %v", s, got, ok)
				}
			}
		}
	})
	t.Run("every letter is equally likely", func(t *testing.T) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		s, err := authn.RandomString(bytes.NewReader(bytes.Repeat(all, 2)), 248)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[rune]int{}
		for _, r := range s {
			counts[r]++
		}
		for r, n := range counts {
			if n != 4 {
				t.Errorf("%c comes %d times, want 4", r, n)
			}
		}
	})
	t.Run("what is no key has no id", func(t *testing.T) {
		for _, s := range []string{"", "short", strings.Repeat("a", 13), strings.Repeat("-", 12), strings.Repeat("a", 11) + "é", strings.Repeat("a", 47)} {
			if id, ok := authn.ParseKeyID(s); ok {
				t.Errorf("ParseKeyID(%q) = %q", s, id)
			}
		}
	})
	t.Run("without randomness there is no key", func(t *testing.T) {
		if full, _, _, err := authn.NewAPIKey(strings.NewReader("abc")); err == nil {
			t.Errorf("got %q", full)
		}
	})
}

func TestCallersSurviveBeingStored(t *testing.T) {
	data, err := everything.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := authn.Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	want := everything
	want.JobID, want.Claim = "", 0 // the job's own, each time it runs
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
