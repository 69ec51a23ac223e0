package identity

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// as returns a context in which the audit log names the user: whoever has just shown who they are.
func as(ctx context.Context, u user) context.Context {
	return authn.NewContext(ctx, authn.Caller{UserID: u.ID, Name: u.Username})
}

// client is where a login comes from, cut to what can be kept.
type client struct{ address, agent string }

func clientOf(c *identityv1.Client) client {
	return client{cut(c.GetAddress(), 64), cut(c.GetAgent(), 255)}
}

// cut makes what a stranger sent fit to be kept and shown.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
}

// opened is a new session.
type opened struct {
	value   string
	expires time.Time
}

// openSession logs a user in. A session that the browser had before ends: whoever knew it shall not know this one.
func (s *Service) openSession(ctx context.Context, action string, u user, provider string, from client, replace string) (opened, error) {
	value, err := authn.RandomString(s.random, sessionLength)
	if err != nil {
		return opened{}, err
	}
	o := opened{value, s.now().Add(s.cfg.Login.SessionLifetime)}
	err = pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		st := store{tx}
		if replace != "" {
			if _, err := st.deleteSession(ctx, authn.HashKey(replace)); err != nil {
				return err
			}
		}
		if err := st.insertSession(ctx, authn.HashKey(value), u.ID, o.expires, provider, from, s.now()); err != nil {
			return err
		}
		details := map[string]any{}
		if provider != "" {
			details["provider"] = provider
		}
		if from.address != "" {
			details["address"] = from.address
		}
		return audit.Record(ctx, tx, audit.Event{Action: action, Resource: "user/" + u.Username, Details: details})
	})
	return o, err
}

// CreateSession logs a user in. It is for the edge, which has checked the login.
func (s *Service) CreateSession(ctx context.Context, req *identityv1.CreateSessionRequest) (*identityv1.CreateSessionResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	u, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	o, err := s.openSession(ctx, "session.create", u, "", clientOf(req.GetClient()), "")
	if err != nil {
		return nil, err
	}
	return &identityv1.CreateSessionResponse{Session: o.value, ExpireTime: timestamppb.New(o.expires)}, nil
}

// DeleteSession logs out; it may be repeated.
func (s *Service) DeleteSession(ctx context.Context, req *identityv1.DeleteSessionRequest) (*emptypb.Empty, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	err := pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		u, err := store{tx}.deleteSession(ctx, authn.HashKey(req.GetSession()))
		if err != nil || u.ID == "" {
			return err
		}
		return audit.Record(as(ctx, u), tx, audit.Event{Action: "logout", Resource: "user/" + u.Username})
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) authenticateSession(ctx context.Context, session string) (*identityv1.AuthenticateResponse, error) {
	// The index finds the session by its hash: what timing tells is about a hash that nobody can choose.
	hash, now := authn.HashKey(session), s.now()
	u, expires, err := store{s.deps.Pool}.session(ctx, hash, now, s.cfg.Login.IdleTimeout)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.Unauthenticated, "Not logged in")
	}
	if err != nil {
		return nil, err
	}
	s.usedSessions.note(string(hash[:]), now)
	return &identityv1.AuthenticateResponse{
		Principal: authn.Caller{UserID: u.ID, Name: u.Username}.ToProto(), ExpireTime: timestamppb.New(expires),
	}, nil
}

// ofUser returns the user whose logins the caller wants to see or change: themselves, or anybody with users.manage.
func (s *Service) ofUser(ctx context.Context, username string) (u user, self bool, err error) {
	caller, err := unscoped(ctx)
	if err != nil {
		return user{}, false, err
	}
	u, err = store{s.deps.Pool}.userByName(ctx, username)
	if err == nil && u.ID == caller.UserID {
		return u, true, nil
	}
	if denied := s.allow(ctx, authz.UsersManage); denied != nil {
		return user{}, false, denied // also if there is no such user
	}
	return u, false, err
}

// ListSessions lists a user's logins.
func (s *Service) ListSessions(ctx context.Context, req *identityv1.ListSessionsRequest) (*identityv1.ListSessionsResponse, error) {
	u, _, err := s.ofUser(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	all, err := store{s.deps.Pool}.sessionsOf(ctx, u.ID, s.now(), s.cfg.Login.IdleTimeout)
	if err != nil {
		return nil, err
	}
	return &identityv1.ListSessionsResponse{Sessions: all}, nil
}

// RevokeSessions ends a user's logins. Edges believe in a session for two seconds more at most.
func (s *Service) RevokeSessions(ctx context.Context, req *identityv1.RevokeSessionsRequest) (*identityv1.RevokeSessionsResponse, error) {
	u, self, err := s.ofUser(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	if !self {
		if err := s.mayShutOut(ctx, u); err != nil {
			return nil, err
		}
	}
	var n int64
	err = pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) (err error) {
		if n, err = (store{tx}).deleteSessionsOf(ctx, u.ID, req.GetId()); err != nil || n == 0 {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "session.revoke", Resource: "user/" + u.Username, Details: map[string]any{"count": n}})
	})
	if err != nil {
		return nil, err
	}
	if n == 0 && req.GetId() != 0 {
		return nil, fault.New(fault.NotFound, "there is no such login")
	}
	return &identityv1.RevokeSessionsResponse{Revoked: n}, nil
}

func (s *Service) deleteExpiredSessions(ctx context.Context) error {
	return store{s.deps.Pool}.deleteExpiredSessions(ctx, s.now(), s.cfg.Login.IdleTimeout)
}

// flushSessions writes when sessions were used; what fails is tried again.
func (s *Service) flushSessions(ctx context.Context) error {
	return s.usedSessions.flush(func(hashes []string, times []time.Time) error {
		return store{s.deps.Pool}.touchSessions(ctx, hashes, times)
	})
}

func (st store) insertSession(ctx context.Context, hash authn.KeyHash, userID string, expires time.Time, provider string, from client, now time.Time) error {
	_, err := st.db.Exec(ctx, `INSERT INTO identity.sessions (hash, user_id, expire_time, provider, address, agent, last_used_time)
		VALUES ($1, $2::uuid, $3, $4, $5, $6, $7)`, hash[:], userID, expires, provider, from.address, from.agent, now)
	return pg.Classify(err)
}

// alive is the WHERE of sessions that have neither expired nor been left alone: $1 is now, $2 the idle timeout.
const alive = `s.expire_time > $1 AND coalesce(s.last_used_time, s.create_time) > $1::timestamptz - $2::interval`

// session returns whose session it is and when it ends, or NotFound.
func (st store) session(ctx context.Context, hash authn.KeyHash, now time.Time, idle time.Duration) (u user, expires time.Time, err error) {
	err = st.db.QueryRow(ctx, `SELECT u.id::text, u.username, s.expire_time FROM identity.sessions s JOIN identity.users u ON u.id = s.user_id
		WHERE `+alive+` AND s.hash = $3 AND u.delete_time IS NULL AND u.disable_time IS NULL`, now, idle, hash[:]).Scan(&u.ID, &u.Username, &expires)
	return u, expires, pg.Classify(err)
}

// deleteSession returns whose it was; nobody's if there was none.
func (st store) deleteSession(ctx context.Context, hash authn.KeyHash) (u user, err error) {
	err = pg.Classify(st.db.QueryRow(ctx, `WITH gone AS (DELETE FROM identity.sessions WHERE hash = $1 RETURNING user_id)
		SELECT u.id::text, u.username FROM gone JOIN identity.users u ON u.id = gone.user_id`, hash[:]).Scan(&u.ID, &u.Username))
	if fault.Is(err, fault.NotFound) {
		return user{}, nil
	}
	return u, err
}

// sessionID is the session's number for people: 52 bits of its hash, which a JSON number can hold.
const sessionID = `('x' || left(encode(s.hash, 'hex'), 13))::bit(52)::bigint`

func (st store) sessionsOf(ctx context.Context, userID string, now time.Time, idle time.Duration) ([]*identityv1.Session, error) {
	rows, err := st.db.Query(ctx, `SELECT `+sessionID+`, s.create_time, coalesce(s.last_used_time, s.create_time), s.expire_time, s.provider, s.address, s.agent
		FROM identity.sessions s WHERE `+alive+` AND s.user_id = $3::uuid ORDER BY s.create_time DESC, s.hash`, now, idle, userID)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var out []*identityv1.Session
	var id int64
	var made, used, ends time.Time
	var provider, address, agent string
	_, err = pgx.ForEachRow(rows, []any{&id, &made, &used, &ends, &provider, &address, &agent}, func() error {
		out = append(out, &identityv1.Session{
			Id: id, CreateTime: timestamppb.New(made), LastUsedTime: timestamppb.New(used), ExpireTime: timestamppb.New(ends),
			Provider: provider, Client: &identityv1.Client{Address: address, Agent: agent},
		})
		return nil
	})
	return out, pg.Classify(err)
}

// deleteSessionsOf ends all sessions of a user, or only one.
func (st store) deleteSessionsOf(ctx context.Context, userID string, id int64) (int64, error) {
	tag, err := st.db.Exec(ctx, `DELETE FROM identity.sessions s WHERE s.user_id = $1::uuid AND ($2::bigint = 0 OR `+sessionID+` = $2)`, userID, id)
	return tag.RowsAffected(), pg.Classify(err)
}

func (st store) touchSessions(ctx context.Context, hashes []string, times []time.Time) error {
	raw := make([][]byte, len(hashes))
	for i, h := range hashes {
		raw[i] = []byte(h)
	}
	_, err := st.db.Exec(ctx, `UPDATE identity.sessions s SET last_used_time = t.used
		FROM unnest($1::bytea[], $2::timestamptz[]) AS t(hash, used)
		WHERE s.hash = t.hash AND (s.last_used_time IS NULL OR s.last_used_time < t.used)`, raw, times)
	return pg.Classify(err)
}

func (st store) deleteExpiredSessions(ctx context.Context, now time.Time, idle time.Duration) error {
	_, err := st.db.Exec(ctx, `DELETE FROM identity.sessions s WHERE NOT (`+alive+`)`, now, idle)
	return pg.Classify(err)
}
