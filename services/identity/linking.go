package identity

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/identity/login"
)

// linked is a row of identity.logins.
type linked struct {
	UserID string
	Issuer string
}

// admit returns the user that somebody at a provider is here: the one that the account is linked to, the one who links it
// now, or a new one. It also brings their groups up to date.
func (s *Service) admit(ctx context.Context, p *login.Provider, person login.Person, linkTo string) (u user, err error) {
	_, err = s.change(ctx, func(tx pgx.Tx, st store) error {
		l, found, err := st.login(ctx, p.Name, person.Subject)
		if err != nil {
			return err
		}
		changed := false
		switch {
		case found && l.Issuer != "" && l.Issuer != person.Issuer:
			// The provider's name in the configuration leads elsewhere now; its subjects are other people.
			return fault.New(fault.Denied, "this account was linked when login provider '%s' was another server; it must be linked anew", p.Name).WithReason("LOGIN_ISSUER")
		case found && linkTo != "" && l.UserID != linkTo:
			return fault.New(fault.Conflict, "this account is linked to another user").WithReason("LOGIN_LINKED")
		case found:
			if u, err = st.userByID(ctx, l.UserID); err != nil {
				return err
			}
		case linkTo != "":
			if u, err = st.userByID(ctx, linkTo); err != nil {
				return err
			}
			changed = true
		case p.Config.Closed:
			return fault.New(fault.Denied, "nobody here has this account linked to their user; ask an administrator").WithReason("LOGIN_CLOSED")
		default:
			if u, err = st.newUser(ctx, tx, p, person); err != nil {
				return err
			}
			changed = true
		}
		if u.Disabled {
			return fault.New(fault.Denied, "this user is shut out").WithReason("USER_DISABLED")
		}
		if err := st.saveLogin(ctx, p.Name, person, u.ID, s.now()); err != nil {
			return err
		}
		if !found {
			err := audit.Record(as(ctx, u), tx, audit.Event{
				Action: "login.link", Resource: "user/" + u.Username, Details: map[string]any{"provider": p.Name, "subject": person.Subject},
			})
			if err != nil {
				return err
			}
		}
		if err := st.saveProfile(ctx, u, person); err != nil {
			return err
		}
		synced, err := st.syncGroups(ctx, tx, u, p.Name, p.Config.GroupsFor(p.Name, person))
		if err != nil {
			return err
		}
		if !changed && !synced {
			return st.unbump(ctx)
		}
		return nil
	})
	return u, err
}

// newUser makes a user for somebody who logs in for the first time. A name that is taken gets the provider's behind it:
// who has the name here need not be who has it there.
func (st store) newUser(ctx context.Context, tx pgx.Tx, p *login.Provider, person login.Person) (user, error) {
	want := person.Suggest()
	for n := 1; n <= 100; n++ {
		name := want
		switch {
		case n == 2:
			name += "-" + p.Name
		case n > 2:
			name += fmt.Sprintf("-%s-%d", p.Name, n-1)
		}
		name = name[:min(len(name), maxUsername)]
		if taken, err := st.nameTaken(ctx, name); err != nil {
			return user{}, err
		} else if taken {
			continue
		}
		shown := person.Name
		if shown == "" {
			shown = name
		}
		u, err := st.insertUser(ctx, name, cut(shown, maxShownName), avatar(person))
		if err != nil {
			return user{}, err
		}
		if u.Role = p.Config.RoleFor(person); u.Role != "" {
			if err := st.setRole(ctx, "user/"+u.ID, "server", u.Role); err != nil {
				return user{}, err
			}
		}
		return u, audit.Record(as(ctx, u), tx, audit.Event{
			Action: "user.create", Resource: "user/" + u.Username, Details: map[string]any{"id": u.ID, "role": u.Role, "provider": p.Name},
		})
	}
	return user{}, fault.New(fault.Conflict, "too many users are called %s", want)
}

// avatar returns a picture that other people's pages may show.
func avatar(p login.Person) string {
	if checkCreateUser(&identityv1.CreateUserRequest{Username: "x", AvatarUrl: p.AvatarURL}) != nil {
		return ""
	}
	return p.AvatarURL
}

// syncGroups puts the user into the groups that a provider's claims stand for, and takes them out of those that the same
// provider's claims once put them into. It returns whether anything changed.
func (st store) syncGroups(ctx context.Context, tx pgx.Tx, u user, provider string, want []string) (changed bool, err error) {
	have, err := st.groupsBySource(ctx, u.ID, provider)
	if err != nil {
		return false, err
	}
	event := func(action, group string) error {
		return audit.Record(as(ctx, u), tx, audit.Event{Action: action, Resource: "group/" + group, Details: map[string]any{"user": u.Username, "provider": provider}})
	}
	for _, name := range want {
		if slices.Contains(have, name) {
			continue
		}
		g, err := st.groupOrNew(ctx, name)
		if err != nil {
			return false, err
		}
		if err := st.addMember(ctx, g.ID, u.ID, provider); err != nil {
			return false, err
		}
		if err := event("group.member.add", name); err != nil {
			return false, err
		}
		changed = true
	}
	for _, name := range have {
		if slices.Contains(want, name) {
			continue
		}
		if err := st.removeMember(ctx, name, u.ID, provider); err != nil {
			return false, err
		}
		if err := event("group.member.remove", name); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// ListLinkedLogins lists the accounts that a user may log in with.
func (s *Service) ListLinkedLogins(ctx context.Context, req *identityv1.ListLinkedLoginsRequest) (*identityv1.ListLinkedLoginsResponse, error) {
	u, _, err := s.ofUser(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	all, err := store{s.deps.Pool}.loginsOf(ctx, u.ID)
	if err != nil {
		return nil, err
	}
	return &identityv1.ListLinkedLoginsResponse{Logins: all}, nil
}

// LinkLogin ties an account at a provider to a user by hand, or unties it. Whoever has the account can then be the user,
// so the server's owners and maintainers are an owner's business.
func (s *Service) LinkLogin(ctx context.Context, req *identityv1.LinkLoginRequest) (*emptypb.Empty, error) {
	if _, err := unscoped(ctx); err != nil {
		return nil, err
	}
	u, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	if err := s.mayShutOut(ctx, u); err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		st := store{tx}
		action := "login.link"
		l, found, err := st.login(ctx, req.GetProvider(), req.GetSubject())
		switch {
		case err != nil:
			return err
		case req.GetUnlink():
			if action = "login.unlink"; !found || l.UserID != u.ID {
				return fault.New(fault.NotFound, "%s has no such account", u.Username)
			}
			err = st.deleteLogin(ctx, req.GetProvider(), req.GetSubject())
		case found:
			return fault.New(fault.Conflict, "this account is linked already").WithReason("LOGIN_LINKED")
		default:
			err = st.saveLogin(ctx, req.GetProvider(), login.Person{Subject: req.GetSubject()}, u.ID, time.Time{})
		}
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: action, Resource: "user/" + u.Username, Details: map[string]any{"provider": req.GetProvider(), "subject": req.GetSubject()},
		})
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// login returns whose account it is, and locks the row against a second login at once.
func (st store) login(ctx context.Context, provider, subject string) (l linked, found bool, err error) {
	err = pg.Classify(st.db.QueryRow(ctx, `SELECT user_id::text, issuer FROM identity.logins WHERE provider = $1 AND subject = $2 FOR UPDATE`,
		provider, subject).Scan(&l.UserID, &l.Issuer))
	if fault.Is(err, fault.NotFound) {
		return linked{}, false, nil
	}
	return l, err == nil, err
}

// saveLogin makes or renews the link. A zero now means that nobody has logged in yet.
func (st store) saveLogin(ctx context.Context, provider string, p login.Person, userID string, now time.Time) error {
	var at *time.Time
	if !now.IsZero() {
		at = &now
	}
	_, err := st.db.Exec(ctx, `INSERT INTO identity.logins (provider, subject, issuer, user_id, name, last_login_time) VALUES ($1, $2, $3, $4::uuid, $5, $6)
		ON CONFLICT (provider, subject) DO UPDATE SET issuer = excluded.issuer, name = excluded.name, last_login_time = excluded.last_login_time`,
		provider, p.Subject, p.Issuer, userID, cut(p.Username, maxShownName), at)
	return pg.Classify(err)
}

func (st store) deleteLogin(ctx context.Context, provider, subject string) error {
	_, err := st.db.Exec(ctx, `DELETE FROM identity.logins WHERE provider = $1 AND subject = $2`, provider, subject)
	return pg.Classify(err)
}

func (st store) loginsOf(ctx context.Context, userID string) ([]*identityv1.LinkedLogin, error) {
	rows, err := st.db.Query(ctx, `SELECT provider, subject, name, create_time, last_login_time FROM identity.logins
		WHERE user_id = $1::uuid ORDER BY provider, create_time, subject`, userID)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var out []*identityv1.LinkedLogin
	var provider, subject, name string
	var made time.Time
	var used *time.Time
	_, err = pgx.ForEachRow(rows, []any{&provider, &subject, &name, &made, &used}, func() error {
		out = append(out, &identityv1.LinkedLogin{Provider: provider, Subject: subject, Name: name, CreateTime: timestamppb.New(made), LastLoginTime: optionalTime(used)})
		used = nil
		return nil
	})
	return out, pg.Classify(err)
}

// saveProfile fills in what the user does not have yet; what somebody chose here stays.
func (st store) saveProfile(ctx context.Context, u user, p login.Person) error {
	_, err := st.db.Exec(ctx, `UPDATE identity.users SET avatar_url = CASE WHEN avatar_url = '' THEN $2 ELSE avatar_url END,
		name = CASE WHEN (name = '' OR name = username) AND $3 <> '' THEN $3 ELSE name END WHERE id = $1::uuid`, u.ID, avatar(p), cut(p.Name, maxShownName))
	return pg.Classify(err)
}

// nameTaken reports whether a user has the name, or had it: what a user of that name did stays theirs in the audit log.
func (st store) nameTaken(ctx context.Context, name string) (taken bool, err error) {
	err = st.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM identity.users WHERE lower(username) = lower($1))`, name).Scan(&taken)
	return taken, pg.Classify(err)
}

// unbump takes back the raise of the version: what was written does not concern those who follow it.
func (st store) unbump(ctx context.Context) error {
	_, err := st.db.Exec(ctx, `UPDATE identity.state SET version = version - 1`)
	return pg.Classify(err)
}

// passwordOf returns the hash of a user's password; empty if there is none.
func (st store) passwordOf(ctx context.Context, userID string) (hash string, err error) {
	err = pg.Classify(st.db.QueryRow(ctx, `SELECT hash FROM identity.passwords WHERE user_id = $1::uuid`, userID).Scan(&hash))
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	return hash, err
}

// setPassword replaces a user's hash; an empty one takes the password away.
func (st store) setPassword(ctx context.Context, userID, hash string) error {
	sql, args := `INSERT INTO identity.passwords (user_id, hash) VALUES ($1::uuid, $2)
		ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, change_time = now()`, []any{userID, hash}
	if hash == "" {
		sql, args = `DELETE FROM identity.passwords WHERE user_id = $1::uuid`, args[:1]
	}
	_, err := st.db.Exec(ctx, sql, args...)
	return pg.Classify(err)
}

func (st store) setDisabled(ctx context.Context, userID string, disabled bool) error {
	_, err := st.db.Exec(ctx, `UPDATE identity.users SET disable_time = CASE WHEN $2 THEN now() END WHERE id = $1::uuid`, userID, disabled)
	return pg.Classify(err)
}
