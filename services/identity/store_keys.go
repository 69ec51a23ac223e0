package identity

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// apiKey is a row of identity.api_keys with its owner's name.
type apiKey struct {
	ID          string
	UserID      string
	Username    string
	Hash        []byte
	Description string
	Scoped      bool
	CreateTime  time.Time
	ExpireTime  *time.Time
	LastUsed    *time.Time
	Disabled    bool // its owner is shut out
}

// keyRole is a role that a key is narrowed to.
type keyRole struct {
	KeyID    string
	Resource string
	Role     string
	Shown    string
}

const keyColumns = `SELECT k.id, k.user_id::text, u.username, k.hash, k.description, k.scoped, k.create_time, k.expire_time, k.last_used_time, u.disable_time IS NOT NULL
	FROM identity.api_keys k JOIN identity.users u ON u.id = k.user_id WHERE u.delete_time IS NULL AND `

func (st store) insertKey(ctx context.Context, k apiKey, roles []keyRole) (created time.Time, err error) {
	err = st.db.QueryRow(ctx, `INSERT INTO identity.api_keys (id, user_id, hash, description, scoped, expire_time)
		VALUES ($1, $2::uuid, $3, $4, $5, $6) RETURNING create_time`,
		k.ID, k.UserID, k.Hash, k.Description, k.Scoped, k.ExpireTime).Scan(&created)
	if err != nil {
		return created, pg.Classify(err)
	}
	for i, r := range roles {
		_, err := st.db.Exec(ctx, `INSERT INTO identity.api_key_roles (key_id, resource, role, shown, position) VALUES ($1, $2, $3, $4, $5)`,
			k.ID, r.Resource, r.Role, r.Shown, i)
		if err != nil {
			return created, pg.Classify(err)
		}
	}
	return created, nil
}

// key returns the key with that id, or NotFound; also one that has expired.
func (st store) key(ctx context.Context, id string) (apiKey, error) {
	rows, err := st.db.Query(ctx, keyColumns+`k.id = $1`, id)
	if err != nil {
		return apiKey{}, pg.Classify(err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[apiKey])
	return k, pg.Classify(err)
}

func (st store) keysOf(ctx context.Context, userID string) ([]apiKey, error) {
	rows, err := st.db.Query(ctx, keyColumns+`k.user_id = $1::uuid ORDER BY k.create_time, k.id`, userID)
	if err != nil {
		return nil, pg.Classify(err)
	}
	ks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[apiKey])
	return ks, pg.Classify(err)
}

// keyRoles returns the roles of keys, in the order they were asked for.
func (st store) keyRoles(ctx context.Context, ids ...string) (map[string][]keyRole, error) {
	rows, err := st.db.Query(ctx, `SELECT key_id, resource, role, shown FROM identity.api_key_roles WHERE key_id = ANY($1) ORDER BY key_id, position`, ids)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[keyRole])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := make(map[string][]keyRole, len(ids))
	for _, r := range all {
		out[r.KeyID] = append(out[r.KeyID], r)
	}
	return out, nil
}

func (st store) deleteKey(ctx context.Context, id string) error {
	tag, err := st.db.Exec(ctx, `DELETE FROM identity.api_keys WHERE id = $1`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return keyNotFound(id)
	}
	return pg.Classify(err)
}

func keyNotFound(id string) error { return fault.New(fault.NotFound, "key '%s' does not exist", id) }

// touchKeys notes when keys were last used.
func (st store) touchKeys(ctx context.Context, ids []string, times []time.Time) error {
	_, err := st.db.Exec(ctx, `UPDATE identity.api_keys k SET last_used_time = t.used
		FROM unnest($1::text[], $2::timestamptz[]) AS t(id, used)
		WHERE k.id = t.id AND (k.last_used_time IS NULL OR k.last_used_time < t.used)`, ids, times)
	return pg.Classify(err)
}

// signingKey is a row of identity.signing_keys.
type signingKey struct {
	ID         string
	Sealed     []byte
	CreateTime time.Time
	RetireTime *time.Time
}

// signingKeys returns the keys that are valid, the one that signs first.
func (st store) signingKeys(ctx context.Context, now time.Time) ([]signingKey, error) {
	rows, err := st.db.Query(ctx, `SELECT id, sealed, create_time, retire_time FROM identity.signing_keys
		WHERE retire_time IS NULL OR retire_time > $1 ORDER BY retire_time IS NOT NULL, create_time DESC, id`, now)
	if err != nil {
		return nil, pg.Classify(err)
	}
	ks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[signingKey])
	return ks, pg.Classify(err)
}

// replaceSigningKey adds a key that signs from now on and gives the others a time to end.
func (st store) replaceSigningKey(ctx context.Context, k signingKey, retire time.Time) error {
	if _, err := st.db.Exec(ctx, `DELETE FROM identity.signing_keys WHERE retire_time <= $1`, k.CreateTime); err != nil {
		return pg.Classify(err)
	}
	if _, err := st.db.Exec(ctx, `UPDATE identity.signing_keys SET retire_time = $1 WHERE retire_time IS NULL`, retire); err != nil {
		return pg.Classify(err)
	}
	_, err := st.db.Exec(ctx, `INSERT INTO identity.signing_keys (id, sealed, create_time) VALUES ($1, $2, $3)`, k.ID, k.Sealed, k.CreateTime)
	return pg.Classify(err)
}

// lockState waits for all other changes to end and keeps new ones out until the transaction ends.
func (st store) lockState(ctx context.Context) error {
	_, err := st.db.Exec(ctx, `SELECT version FROM identity.state FOR UPDATE`)
	return pg.Classify(err)
}

// scopeOf returns the grants of a key as the caller carries them.
func scopeOf(roles []keyRole) []authn.Grant {
	out := make([]authn.Grant, 0, len(roles))
	for _, r := range roles {
		out = append(out, authn.Grant{Role: r.Role, Resource: r.Resource})
	}
	return out
}
