package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

var cheap = Argon2{Memory: 64, Time: 1, Threads: 1}

func TestPasswordHashes(t *testing.T) {
	p, err := newPasswords(cheap, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := p.hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, p *passwords, password, hash string, ok, stale bool) {
		t.Helper()
		gotOK, gotStale, err := p.verify(t.Context(), password, hash)
		if err != nil || gotOK != ok || gotStale != stale {
			t.Errorf("%q: ok %v, stale %v, %v; want %v, %v", password, gotOK, gotStale, err, ok, stale)
		}
	}
	t.Run("say how they were made, and differ each time", func(t *testing.T) {
		if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
			t.Error(hash)
		}
		again, err := p.hash(t.Context(), "correct horse")
		if err != nil || again == hash {
			t.Errorf("%s %v", again, err)
		}
	})
	t.Run("fit one password", func(t *testing.T) {
		check(t, p, "correct horse", hash, true, false)
		for _, wrong := range []string{"", "Correct horse", "correct horse ", strings.Repeat("x", maxPassword+1)} {
			check(t, p, wrong, hash, false, false)
		}
	})
	t.Run("with other parameters are made anew", func(t *testing.T) {
		strong, err := newPasswords(Argon2{Memory: 128, Time: 2, Threads: 1}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		check(t, strong, "correct horse", hash, true, true)
	})
	t.Run("no hash fits nothing, and takes the same work", func(t *testing.T) {
		check(t, p, "", "", false, false)
		check(t, p, "correct horse", "", false, false)
		p := &passwords{params: cheap, random: rand.Reader, slots: make(chan struct{}), dummy: p.dummy} // no slot is ever free
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		for _, h := range []string{hash, ""} {
			if _, _, err := p.verify(ctx, "x", h); !errors.Is(err, gone) {
				t.Errorf("%q needs no slot: %v", h, err)
			}
		}
	})
	t.Run("that nobody made are refused", func(t *testing.T) {
		for _, h := range []string{
			"x", "$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA", strings.Replace(hash, "v=19", "v=16", 1),
			strings.Replace(hash, "m=64", "m=4294967295", 1), strings.Replace(hash, "m=64", "m=0", 1), strings.Replace(hash, "t=1", "t=0", 1),
			strings.Replace(hash, "p=1", "p=0", 1), strings.Replace(hash, "t=1", "t=4000000000", 1), hash + "$", hash[:len(hash)-40],
		} {
			if ok, _, err := p.verify(t.Context(), "correct horse", h); ok || !fault.Is(err, fault.Internal) {
				t.Errorf("%s: %v %v", h, ok, err)
			}
		}
	})
}

func TestNewPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"0123456789": true, "012345678": false, "ééééééééé": false, "éééééééééé": true, "longer-than-a-name": false, "\xff123456789": false,
		"0123456789\x00": false, strings.Repeat("a", maxPassword): true, strings.Repeat("a", maxPassword+1): false,
	} {
		if err := checkPassword("new_password", "Longer-Than-A-Name", password); (err == nil) != ok {
			t.Errorf("%q: %v", password, err)
		}
	}
}

func TestAttempts(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	t.Run("ten for a name from an address, then the window has to pass", func(t *testing.T) {
		a := newAttempts()
		for range attemptsPerName {
			if wait := a.take("bob", "192.0.2.1", start); wait != 0 {
				t.Fatal(wait)
			}
		}
		if wait := a.take("BOB", "192.0.2.1", start.Add(time.Minute)); wait != attemptWindow-time.Minute {
			t.Error(wait)
		}
		if a.take("bob", "192.0.2.2", start) != 0 || a.take("carol", "192.0.2.1", start) != 0 {
			t.Error("others are held up")
		}
		if wait := a.take("bob", "192.0.2.1", start.Add(attemptWindow)); wait != 0 {
			t.Error(wait)
		}
	})
	t.Run("who knows the password is not counted", func(t *testing.T) {
		a := newAttempts()
		for range 3 * attemptsPerSource {
			if wait := a.take("bob", "192.0.2.1", start); wait != 0 {
				t.Fatal(wait)
			}
			a.succeeded("bob", "192.0.2.1")
		}
	})
	t.Run("many names from one network", func(t *testing.T) {
		a := newAttempts()
		for i := range attemptsPerSource {
			if a.take(strings.Repeat("x", i+1), "2001:db8::"+string("123456789abcdef"[i%15]), start) != 0 {
				t.Fatal(i)
			}
		}
		if a.take("another", "2001:db8::ffff", start) == 0 {
			t.Error("a /64 counts as many")
		}
		if a.take("another", "2001:db8:1::1", start) != 0 {
			t.Error("the next network is held up")
		}
	})
}

func TestWhatStrangersSendIsCutToFit(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "a\r\nb": "a??b", "\xffa": "?a", "ééé": "éé", "abcdef": "abcde"} {
		if got := cut(in, 5); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
