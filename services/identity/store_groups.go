package identity

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// group is a row of identity.groups.
type group struct {
	ID          string
	Name        string
	Description string
	CreateTime  time.Time
	Members     int64
	Elevated    bool // it has a role on the server
}

func (g group) toProto() *identityv1.Group {
	return &identityv1.Group{Id: g.ID, Name: g.Name, Description: g.Description, CreateTime: timestamppb.New(g.CreateTime), MembersCount: g.Members}
}

const groupColumns = `SELECT g.id::text, g.name, g.description, g.create_time,
	(SELECT count(DISTINCT m.user_id) FROM identity.group_members m WHERE m.group_id = g.id),
	EXISTS (SELECT FROM identity.bindings b WHERE b.subject = 'group/' || g.id AND b.resource = 'server')
	FROM identity.groups g `

func (st store) group(ctx context.Context, name string) (group, error) {
	rows, err := st.db.Query(ctx, groupColumns+`WHERE g.name = $1`, name)
	if err != nil {
		return group{}, pg.Classify(err)
	}
	g, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[group])
	if err = pg.Classify(err); fault.Is(err, fault.NotFound) {
		return group{}, fault.New(fault.NotFound, "Group %s not found", cut(name, 255))
	}
	return g, err
}

func (st store) groups(ctx context.Context, query, only, after string, limit int32) ([]group, error) {
	rows, err := st.db.Query(ctx, groupColumns+`WHERE strpos(lower(g.name), lower($1)) > 0 AND g.name > $3
		AND ($2 = '' OR EXISTS (SELECT FROM identity.group_members m WHERE m.group_id = g.id AND m.user_id::text = $2))
		ORDER BY g.name LIMIT $4`, query, only, after, limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	gs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[group])
	return gs, pg.Classify(err)
}

func (st store) insertGroup(ctx context.Context, name, description string) (g group, err error) {
	g = group{Name: name, Description: description}
	err = st.db.QueryRow(ctx, `INSERT INTO identity.groups (name, description) VALUES ($1, $2) RETURNING id::text, create_time`, name, description).
		Scan(&g.ID, &g.CreateTime)
	if pg.IsUnique(err, "groups_name") {
		return group{}, fault.New(fault.Conflict, "Group %s exists already", name).WithReason("GROUP_EXISTS")
	}
	return g, pg.Classify(err)
}

// groupOrNew is for groups that a provider's claims name.
func (st store) groupOrNew(ctx context.Context, name string) (group, error) {
	if _, err := st.db.Exec(ctx, `INSERT INTO identity.groups (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`, name); err != nil {
		return group{}, pg.Classify(err)
	}
	return st.group(ctx, name)
}

func (st store) deleteGroup(ctx context.Context, id string) error {
	for _, sql := range []string{
		`DELETE FROM identity.bindings WHERE subject = 'group/' || $1::text`,
		`DELETE FROM identity.groups WHERE id = $1::uuid`,
	} {
		if _, err := st.db.Exec(ctx, sql, id); err != nil {
			return pg.Classify(err)
		}
	}
	return nil
}

func (st store) isMember(ctx context.Context, groupID, userID, source string) (in bool, err error) {
	err = st.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM identity.group_members WHERE group_id = $1::uuid AND user_id = $2::uuid AND source = $3)`,
		groupID, userID, source).Scan(&in)
	return in, pg.Classify(err)
}

func (st store) addMember(ctx context.Context, groupID, userID, source string) error {
	_, err := st.db.Exec(ctx, `INSERT INTO identity.group_members (group_id, user_id, source) VALUES ($1::uuid, $2::uuid, $3) ON CONFLICT DO NOTHING`,
		groupID, userID, source)
	return pg.Classify(err)
}

func (st store) removeMember(ctx context.Context, name, userID, source string) error {
	_, err := st.db.Exec(ctx, `DELETE FROM identity.group_members m USING identity.groups g
		WHERE g.id = m.group_id AND g.name = $1 AND m.user_id = $2::uuid AND m.source = $3`, name, userID, source)
	return pg.Classify(err)
}

// groupsBySource returns the names of the groups that a provider's claims put the user into.
func (st store) groupsBySource(ctx context.Context, userID, source string) ([]string, error) {
	rows, err := st.db.Query(ctx, `SELECT g.name FROM identity.group_members m JOIN identity.groups g ON g.id = m.group_id
		WHERE m.user_id = $1::uuid AND m.source = $2 ORDER BY g.name`, userID, source)
	if err != nil {
		return nil, pg.Classify(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return names, pg.Classify(err)
}

// members returns who is in a group; somebody who was put in twice comes once, by hand first.
func (st store) members(ctx context.Context, groupID string) ([]*identityv1.GroupMember, error) {
	rows, err := st.db.Query(ctx, `SELECT `+strings.Replace(userColumns, "FROM", ", m.source FROM", 1)+`
		JOIN (SELECT user_id, min(source) AS source FROM identity.group_members WHERE group_id = $1::uuid GROUP BY user_id) m ON m.user_id = u.id
		WHERE u.delete_time IS NULL ORDER BY lower(u.username)`, groupID)
	if err != nil {
		return nil, pg.Classify(err)
	}
	type row struct {
		User   user
		Source string
	}
	var r row
	var out []*identityv1.GroupMember
	_, err = pgx.ForEachRow(rows, []any{&r.User.ID, &r.User.Username, &r.User.Name, &r.User.AvatarURL, &r.User.CreateTime, &r.User.Role, &r.User.Disabled, &r.Source}, func() error {
		out = append(out, &identityv1.GroupMember{User: r.User.toProto(), Source: r.Source})
		return nil
	})
	return out, pg.Classify(err)
}

// elevated reports whether a user is an owner or maintainer of the server, by themselves or by a group.
func (st store) elevated(ctx context.Context, userID string) (yes bool, err error) {
	err = st.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM identity.bindings b WHERE b.resource = 'server' AND b.role IN ('owner', 'maintainer')
		AND (b.subject = 'user/' || $1::text OR b.subject IN (SELECT 'group/' || group_id FROM identity.group_members WHERE user_id = $1::uuid)))`, userID).Scan(&yes)
	return yes, pg.Classify(err)
}
