package identity_test

import (
	"strings"
	"testing"
	"time"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// TestSessionsEnd: by time, by idleness; use keeps them alive.
func TestSessionsEnd(t *testing.T) {
	b := setup(t)
	open := func(t *testing.T) string {
		t.Helper()
		res, err := b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "bob", Client: &identityv1.Client{Address: "192.0.2.1", Agent: "curl\x01"}})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetSession()
	}
	alive := func(t *testing.T, session string, want bool) {
		t.Helper()
		_, err := b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{Session: session})
		if want && err != nil || !want && !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("alive %v is wanted: %v", want, err)
		}
	}
	flush := func(t *testing.T) {
		t.Helper()
		b.svc.Start(t.Context())
		if err := b.svc.Stop(t.Context()); err != nil { // writes what is in memory
			t.Fatal(err)
		}
	}
	t.Run("idle", func(t *testing.T) {
		used, idle := open(t), open(t)
		for range 3 {
			b.clock.advance(20 * time.Hour)
			alive(t, used, true)
			flush(t)
		}
		alive(t, idle, false)
		alive(t, used, true)
		b.clock.advance(25 * time.Hour)
		alive(t, used, false)
	})
	t.Run("old, however busy", func(t *testing.T) {
		session := open(t)
		for range 8 {
			alive(t, session, true)
			flush(t)
			b.clock.advance(21 * time.Hour) // 8 × 21 h is a week
		}
		alive(t, session, false)
	})
	t.Run("a session's value is nowhere in the database", func(t *testing.T) {
		session := open(t)
		var row string
		if err := b.pool.QueryRow(t.Context(), `SELECT string_agg(s::text, ' ') FROM identity.sessions s`).Scan(&row); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(row, session) || !strings.Contains(row, "192.0.2.1") || strings.Contains(row, "\x01") {
			t.Error(row)
		}
	})
}
