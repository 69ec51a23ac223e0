package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/seal"
)

// retireAfter is how long a replaced signing key is still valid: every replica looks for the new one each minute, and
// what it signs until then lives another minute.
const retireAfter = 10 * time.Minute

func sealPurpose(keyID string) string { return "signing-key/" + keyID }

// refreshSigner reads the signing keys, and makes a new one if there is none or if it has become too old.
func (s *Service) refreshSigner(ctx context.Context) error {
	keys, err := store{s.deps.Pool}.signingKeys(ctx, s.now())
	if err != nil {
		return fmt.Errorf("read the signing keys: %w", err)
	}
	if due(keys, s.now(), s.cfg.RotateEvery) {
		if err := s.rotate(ctx, s.cfg.RotateEvery); err != nil {
			return err
		}
		if keys, err = (store{s.deps.Pool}).signingKeys(ctx, s.now()); err != nil {
			return fmt.Errorf("read the signing keys: %w", err)
		}
	}
	return s.useKeys(keys)
}

// RotateSigningKey makes a new signing key now. The present one stays valid for ten minutes.
func (s *Service) RotateSigningKey(ctx context.Context) error {
	if err := s.rotate(ctx, 0); err != nil {
		return err
	}
	return s.refreshSigner(ctx)
}

func due(keys []signingKey, now time.Time, age time.Duration) bool {
	return len(keys) == 0 || keys[0].RetireTime != nil || now.Sub(keys[0].CreateTime) >= age
}

// rotate replaces the signing key unless another replica did while we waited for the lock.
func (s *Service) rotate(ctx context.Context, age time.Duration) error {
	err := pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		st := store{tx}
		if err := st.lockState(ctx); err != nil {
			return err
		}
		now := s.now()
		keys, err := st.signingKeys(ctx, now)
		if err != nil || !due(keys, now, age) {
			return err
		}
		seed := make([]byte, ed25519.SeedSize)
		if _, err := io.ReadFull(s.random, seed); err != nil {
			return fmt.Errorf("read random bytes: %w", err)
		}
		id, err := authn.RandomString(s.random, 12)
		if err != nil {
			return err
		}
		key := signingKey{ID: id, Sealed: s.deps.Master.Seal(seed, sealPurpose(id)), CreateTime: now}
		return st.replaceSigningKey(ctx, key, now.Add(retireAfter))
	})
	if err != nil {
		return fmt.Errorf("make a signing key: %w", pg.Classify(err))
	}
	return nil
}

func (s *Service) useKeys(rows []signingKey) error {
	var keys []authn.Key
	for _, row := range rows {
		seed, err := s.deps.Master.Open(row.Sealed, sealPurpose(row.ID))
		if err != nil {
			return err
		}
		if len(seed) != ed25519.SeedSize {
			return fault.New(fault.Internal, "signing key %s has %d bytes", row.ID, len(seed))
		}
		keys = append(keys, authn.Key{ID: row.ID, Private: ed25519.NewKeyFromSeed(seed)})
	}
	if len(keys) == 0 {
		return fault.New(fault.Internal, "there is no signing key")
	}
	signer, err := authn.NewSigner(s.now, keys[0], keys[1:]...)
	if err != nil {
		return err
	}
	s.signer.Store(signer)
	return nil
}

// KeySource gives verifiers in this process the public keys.
func (s *Service) KeySource() authn.KeySource {
	return func(context.Context) ([]authn.PublicKey, error) { return s.signer.Load().PublicKeys(), nil }
}

// Targets are the parts of the platform that have a credential.
var Targets = []string{
	"all", "gateway", "channels", "sync", "crawler", "environments", "storage", "metrics", "identity", "jobs",
	"channels-worker", "sync-worker", "crawler-worker", "storage-worker", "builder",
}

// speaksForUsers reports whether a target may have tokens for any user: those that take calls from users do. A worker
// pool runs what strangers wrote; it has tokens for its jobs only.
func speaksForUsers(target string) bool {
	return !strings.HasSuffix(target, "-worker") && target != "builder"
}

// TargetSecret returns the credential of a target that goes with a master key.
func TargetSecret(master *seal.Key, target string) string {
	mac := hmac.New(sha256.New, master.Derive("target credentials"))
	mac.Write([]byte(target))
	return hex.EncodeToString(mac.Sum(nil))
}

// TargetVerifier checks the credentials of targets, the derived and the configured ones.
func (s *Service) TargetVerifier() rpc.TargetVerifier {
	return func(_ context.Context, name, secret string) error {
		given := sha256.Sum256([]byte(secret)) // equal lengths, whatever was sent
		ok := 0
		for _, want := range []string{TargetSecret(s.deps.Master, name), s.cfg.TargetSecrets[name]} {
			sum := sha256.Sum256([]byte(want))
			if want != "" {
				ok |= subtle.ConstantTimeCompare(sum[:], given[:])
			}
		}
		if ok == 0 || !slices.Contains(Targets, name) {
			return fault.New(fault.Unauthenticated, "unknown target or wrong secret")
		}
		return nil
	}
}
