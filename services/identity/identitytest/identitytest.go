// Package identitytest lets tests forge what only identity can make.
package identitytest

import (
	"crypto/ed25519"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/seal"
)

// SigningKey returns the key that identity signs with now: for tokens that are expired or meant for somebody else.
func SigningKey(t testing.TB, db pg.DB, master *seal.Key) authn.Key {
	t.Helper()
	var id string
	var sealed []byte
	err := db.QueryRow(t.Context(), `SELECT id, sealed FROM identity.signing_keys WHERE retire_time IS NULL`).Scan(&id, &sealed)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := master.Open(sealed, "signing-key/"+id)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}
}
