package identity

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// store is the SQL of identity, on a pool or in a transaction.
type store struct{ db pg.DB }

// bump raises the snapshot's version and holds the lock that orders all changes until the transaction ends. Take it
// first: two changes that lock rows and then wait for it could wait for each other.
func (st store) bump(ctx context.Context) (version int64, err error) {
	err = st.db.QueryRow(ctx, `UPDATE identity.state SET version = version + 1 RETURNING version`).Scan(&version)
	return version, pg.Classify(err)
}

func (st store) version(ctx context.Context) (version int64, err error) {
	err = st.db.QueryRow(ctx, `SELECT version FROM identity.state`).Scan(&version)
	return version, pg.Classify(err)
}

// user is a row of identity.users with the server role.
type user struct {
	ID         string
	Username   string
	Name       string
	AvatarURL  string
	CreateTime time.Time
	Role       string
	Disabled   bool
}

const userColumns = `u.id::text, u.username, u.name, u.avatar_url, u.create_time, coalesce(b.role, ''), u.disable_time IS NOT NULL
	FROM identity.users u LEFT JOIN identity.bindings b ON b.subject = 'user/' || u.id AND b.resource = 'server'`

func userNotFound(username string) error {
	return fault.New(fault.NotFound, "User %s not found", username)
}

func (st store) insertUser(ctx context.Context, username, name, avatarURL string) (u user, err error) {
	u = user{Username: username, Name: name, AvatarURL: avatarURL}
	err = st.db.QueryRow(ctx, `INSERT INTO identity.users (username, name, avatar_url) VALUES ($1, $2, $3) RETURNING id::text, create_time`,
		username, name, avatarURL).Scan(&u.ID, &u.CreateTime)
	if pg.IsUnique(err, "users_username") {
		return user{}, fault.New(fault.Conflict, "User %s exists already", username).WithReason("USER_EXISTS")
	}
	return u, pg.Classify(err)
}

// userByName returns the living user of that name, in any case, or NotFound.
func (st store) userByName(ctx context.Context, username string) (user, error) {
	u, err := st.oneUser(ctx, `SELECT `+userColumns+` WHERE lower(u.username) = lower($1) AND u.delete_time IS NULL`, username)
	if fault.Is(err, fault.NotFound) {
		return user{}, userNotFound(username)
	}
	return u, err
}

// userByID returns the living user, or NotFound.
func (st store) userByID(ctx context.Context, id string) (user, error) {
	u, err := st.oneUser(ctx, `SELECT `+userColumns+` WHERE u.id = $1::uuid AND u.delete_time IS NULL`, id)
	if fault.Is(err, fault.NotFound) {
		return user{}, userNotFound(id)
	}
	return u, err
}

func (st store) oneUser(ctx context.Context, sql string, args ...any) (user, error) {
	rows, err := st.db.Query(ctx, sql, args...)
	if err != nil {
		return user{}, pg.Classify(err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[user])
	return u, pg.Classify(err)
}

func (st store) users(ctx context.Context, sql string, args ...any) ([]user, error) {
	rows, err := st.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, pg.Classify(err)
	}
	us, err := pgx.CollectRows(rows, pgx.RowToStructByPos[user])
	return us, pg.Classify(err)
}

// usersByID returns users, deleted ones included, in no order.
func (st store) usersByID(ctx context.Context, ids []string) ([]user, error) {
	return st.users(ctx, `SELECT `+userColumns+` WHERE u.id = ANY($1::uuid[])`, ids)
}

// userPage asks for a page of users by name. An empty only means everybody.
type userPage struct {
	query string
	only  string
	after string
	skip  int64
	limit int32
}

const userFilter = ` WHERE u.delete_time IS NULL AND strpos(lower(u.username), lower($1)) > 0 AND ($2 = '' OR u.id::text = $2)`

func (st store) listUsers(ctx context.Context, p userPage) ([]user, error) {
	return st.users(ctx, `SELECT `+userColumns+userFilter+` AND lower(u.username) > lower($3) ORDER BY lower(u.username) OFFSET $4 LIMIT $5`,
		p.query, p.only, p.after, p.skip, p.limit)
}

func (st store) countUsers(ctx context.Context, query, only string) (n int64, err error) {
	err = st.db.QueryRow(ctx, `SELECT count(*) FROM identity.users u`+userFilter, query, only).Scan(&n)
	return n, pg.Classify(err)
}

// anyUser reports whether there was ever a user.
func (st store) anyUser(ctx context.Context) (found bool, err error) {
	err = st.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM identity.users)`).Scan(&found)
	return found, pg.Classify(err)
}

// deleteUser keeps the row with its name, and takes all that hangs on it.
func (st store) deleteUser(ctx context.Context, id string) error {
	for _, sql := range []string{
		`DELETE FROM identity.sessions WHERE user_id = $1::uuid`,
		`DELETE FROM identity.passwords WHERE user_id = $1::uuid`,
		`DELETE FROM identity.logins WHERE user_id = $1::uuid`,
		`DELETE FROM identity.group_members WHERE user_id = $1::uuid`,
		`DELETE FROM identity.api_keys WHERE user_id = $1::uuid`,
		`DELETE FROM identity.bindings WHERE subject = 'user/' || $1::text`,
		`UPDATE identity.users SET delete_time = now(), avatar_url = '' WHERE id = $1::uuid`,
	} {
		if _, err := st.db.Exec(ctx, sql, id); err != nil {
			return pg.Classify(err)
		}
	}
	return nil
}

// role returns the subject's role on the resource, or nothing.
func (st store) role(ctx context.Context, subject, resource string) (role string, err error) {
	err = pg.Classify(st.db.QueryRow(ctx, `SELECT role FROM identity.bindings WHERE subject = $1 AND resource = $2`, subject, resource).Scan(&role))
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	return role, err
}

// setRole gives a role instead of what there was; an empty one takes it away.
func (st store) setRole(ctx context.Context, subject, resource, role string) error {
	if role == "" {
		_, err := st.db.Exec(ctx, `DELETE FROM identity.bindings WHERE subject = $1 AND resource = $2`, subject, resource)
		return pg.Classify(err)
	}
	_, err := st.db.Exec(ctx, `INSERT INTO identity.bindings (subject, resource, role) VALUES ($1, $2, $3)
		ON CONFLICT (subject, resource) DO UPDATE SET role = excluded.role`, subject, resource, role)
	return pg.Classify(err)
}

// otherOwner reports whether another user owns the resource, who can still do something. Groups do not count: they can be
// empty tomorrow.
func (st store) otherOwner(ctx context.Context, resource, subject string) (found bool, err error) {
	err = st.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM identity.bindings b JOIN identity.users u ON b.subject = 'user/' || u.id
		WHERE b.resource = $1 AND b.role = 'owner' AND b.subject <> $2 AND u.delete_time IS NULL AND u.disable_time IS NULL)`,
		resource, subject).Scan(&found)
	return found, pg.Classify(err)
}

// resourceUsers returns the users who have a role on the resource, with that role, by name.
func (st store) resourceUsers(ctx context.Context, resource string) (us []user, roles []string, err error) {
	rows, err := st.db.Query(ctx, `SELECT u.id::text, u.username, u.name, u.avatar_url, u.create_time, coalesce(s.role, ''), b.role
		FROM identity.bindings b
		JOIN identity.users u ON b.subject = 'user/' || u.id
		LEFT JOIN identity.bindings s ON s.subject = b.subject AND s.resource = 'server'
		WHERE b.resource = $1 AND u.delete_time IS NULL ORDER BY lower(u.username)`, resource)
	if err != nil {
		return nil, nil, pg.Classify(err)
	}
	var u user
	var role string
	_, err = pgx.ForEachRow(rows, []any{&u.ID, &u.Username, &u.Name, &u.AvatarURL, &u.CreateTime, &u.Role, &role}, func() error {
		us, roles = append(us, u), append(roles, role)
		return nil
	})
	return us, roles, pg.Classify(err)
}

// countOn returns how many users have a role on each of some resources.
func (st store) countOn(ctx context.Context, resources []string) (map[string]int64, error) {
	rows, err := st.db.Query(ctx, `SELECT b.resource, count(*) FROM identity.bindings b JOIN identity.users u ON b.subject = 'user/' || u.id
		WHERE b.resource = ANY($1) AND u.delete_time IS NULL GROUP BY b.resource`, resources)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := map[string]int64{}
	var resource string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&resource, &n}, func() error {
		out[resource] = n
		return nil
	})
	return out, pg.Classify(err)
}

// userBindings returns a subject's roles on the resources that begin with a prefix.
func (st store) userBindings(ctx context.Context, subject, prefix string) ([]*identityv1.RoleGrant, error) {
	rows, err := st.db.Query(ctx, `SELECT resource, role FROM identity.bindings WHERE subject = $1 AND starts_with(resource, $2) ORDER BY resource`, subject, prefix)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var out []*identityv1.RoleGrant
	var resource, role string
	_, err = pgx.ForEachRow(rows, []any{&resource, &role}, func() error {
		out = append(out, &identityv1.RoleGrant{Role: role, Resource: resource})
		return nil
	})
	return out, pg.Classify(err)
}

// usersByName returns the living users of those names, in no order.
func (st store) usersByName(ctx context.Context, names []string) ([]user, error) {
	return st.users(ctx, `SELECT `+userColumns+` WHERE u.delete_time IS NULL AND lower(u.username) IN (SELECT lower(n) FROM unnest($1::text[]) n)`, names)
}

// deleteBindings takes all roles on a resource and on the packages below; it returns how many there were.
func (st store) deleteBindings(ctx context.Context, r authz.Resource) (int64, error) {
	below := ""
	if r.Kind == authz.Channel {
		below = "package/" + r.ID + "/"
	}
	tag, err := st.db.Exec(ctx, `DELETE FROM identity.bindings WHERE resource = $1 OR ($2 <> '' AND starts_with(resource, $2))`, r.String(), below)
	return tag.RowsAffected(), pg.Classify(err)
}

func (st store) insertNamespace(ctx context.Context, name string) (created time.Time, err error) {
	err = st.db.QueryRow(ctx, `INSERT INTO identity.namespaces (name) VALUES ($1) RETURNING create_time`, name).Scan(&created)
	if pg.IsUnique(err, "namespaces_pkey") {
		return created, fault.New(fault.Conflict, "Namespace %s exists already", name).WithReason("NAMESPACE_EXISTS")
	}
	return created, pg.Classify(err)
}

type namespace struct {
	Name       string
	CreateTime time.Time
}

func (st store) namespaces(ctx context.Context) ([]namespace, error) {
	rows, err := st.db.Query(ctx, `SELECT name, create_time FROM identity.namespaces ORDER BY name`)
	if err != nil {
		return nil, pg.Classify(err)
	}
	ns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[namespace])
	return ns, pg.Classify(err)
}
