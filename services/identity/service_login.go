package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/identity/login"
)

// wrongPassword says as little to who may not log in, for whatever reason.
func wrongPassword() error { return fault.New(fault.Unauthenticated, "wrong name or password") }

// ListLoginProviders lists the ways to log in.
func (s *Service) ListLoginProviders(ctx context.Context, _ *identityv1.ListLoginProvidersRequest) (*identityv1.ListLoginProvidersResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	res := &identityv1.ListLoginProvidersResponse{}
	if s.cfg.Login.Passwords {
		res.Providers = append(res.Providers, &identityv1.LoginProvider{Name: login.Local, Kind: login.Local, Title: "Password"})
	}
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		p := s.providers[name]
		res.Providers = append(res.Providers, &identityv1.LoginProvider{Name: name, Kind: p.Config.Kind, Title: p.Title(), RevokeUrl: p.RevokeURL()})
	}
	return res, nil
}

// Login checks a password and makes a session.
func (s *Service) Login(ctx context.Context, req *identityv1.LoginRequest) (*identityv1.LoginResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	if !s.cfg.Login.Passwords {
		return nil, fault.New(fault.Denied, "nobody logs in by password here").WithReason("NO_PASSWORDS")
	}
	from := clientOf(req.GetClient())
	if err := s.attempt(req.GetUsername(), from.address); err != nil {
		return nil, err
	}
	st := store{s.deps.Pool}
	u, err := st.userByName(ctx, req.GetUsername())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	hash := ""
	if err == nil {
		if hash, err = st.passwordOf(ctx, u.ID); err != nil {
			return nil, err
		}
	}
	ok, stale, err := s.passwords.verify(ctx, req.GetPassword(), hash)
	if err != nil {
		return nil, err
	}
	if !ok || u.Disabled {
		why := "password"
		if ok {
			why = "disabled"
		}
		// A name that nobody has is not written down: it may be a password, in the wrong field.
		return nil, s.loginFailed(ctx, u.Username, login.Local, why, from, wrongPassword())
	}
	s.attempts.succeeded(req.GetUsername(), from.address)
	ctx = as(ctx, u)
	if stale {
		if hash, err := s.passwords.hash(ctx, req.GetPassword()); err == nil {
			if err := st.setPassword(ctx, u.ID, hash); err != nil {
				s.log.WarnContext(ctx, "a password's hash could not be renewed", "user", u.Username, "error", err)
			}
		}
	}
	return s.loggedIn(ctx, u, login.Local, from, req.GetReplaceSession(), "")
}

func (s *Service) attempt(username, address string) error {
	if wait := s.attempts.take(username, address, s.now()); wait > 0 {
		return fault.New(fault.Exhausted, "too many attempts to log in; try again later").WithReason("LOGIN_ATTEMPTS").WithRetryAfter(wait)
	}
	return nil
}

// loginFailed writes down that a login failed, and returns the error to answer with.
func (s *Service) loginFailed(ctx context.Context, name, provider, why string, from client, answer error) error {
	if provider != login.Local && s.attempts.take("failed", provider+"/"+from.address, s.now()) > 0 {
		return answer // anybody can fail as often as they like; what is written down is bounded
	}
	resource := "login/" + provider
	if name != "" {
		resource = "user/" + name
	}
	err := audit.Record(authn.NewContext(ctx, authn.Caller{}), s.deps.Pool, audit.Event{
		Action: "login.failed", Resource: resource, Details: map[string]any{"provider": provider, "reason": why, "address": from.address},
	})
	if err != nil {
		return err
	}
	return answer
}

func (s *Service) loggedIn(ctx context.Context, u user, provider string, from client, replace, next string) (*identityv1.LoginResponse, error) {
	o, err := s.openSession(ctx, "login", u, provider, from, replace)
	if err != nil {
		return nil, err
	}
	return &identityv1.LoginResponse{Session: o.value, ExpireTime: timestamppb.New(o.expires), User: u.toProto(), Next: next}, nil
}

// flow is what the browser keeps of a login under way, sealed: only the browser that began it can end it.
type flow struct {
	State       string `json:"s"`
	Nonce       string `json:"n"`
	Verifier    string `json:"v"`
	RedirectURL string `json:"r"`
	Next        string `json:"x,omitempty"`
	LinkUserID  string `json:"u,omitempty"`
	Expires     int64  `json:"e"`
}

// flowLifetime is how long somebody may take to log in at a provider.
const flowLifetime = 10 * time.Minute

func flowPurpose(provider string) string { return "login-flow/" + provider }

func (s *Service) provider(name string) (*login.Provider, error) {
	if p := s.providers[name]; p != nil {
		return p, nil
	}
	return nil, fault.New(fault.NotFound, "login provider '%s' is not configured", name)
}

// BeginLogin begins a login at a provider.
func (s *Service) BeginLogin(ctx context.Context, req *identityv1.BeginLoginRequest) (*identityv1.BeginLoginResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	p, err := s.provider(req.GetProvider())
	if err != nil {
		return nil, err
	}
	f := flow{
		Verifier: oauth2.GenerateVerifier(), RedirectURL: req.GetRedirectUrl(), Next: req.GetNext(), LinkUserID: req.GetLinkUserId(),
		State: rand.Text(), Nonce: rand.Text(), Expires: s.now().Add(flowLifetime).Unix(),
	}
	url, err := p.Begin(ctx, login.Flow{State: f.State, Nonce: f.Nonce, Verifier: f.Verifier, RedirectURL: f.RedirectURL})
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	sealed := s.deps.Master.Seal(plain, flowPurpose(p.Name))
	return &identityv1.BeginLoginResponse{Url: url, Flow: base64.RawURLEncoding.EncodeToString(sealed)}, nil
}

// openFlow reads what BeginLogin sealed.
func (s *Service) openFlow(provider, text string) (f flow, err error) {
	bad := fault.New(fault.Unauthenticated, "this browser did not begin this login, or ten minutes have passed; log in again").WithReason("LOGIN_FLOW")
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || text == "" {
		return flow{}, bad
	}
	plain, err := s.deps.Master.Open(sealed, flowPurpose(provider))
	if err != nil || json.Unmarshal(plain, &f) != nil || s.now().Unix() >= f.Expires {
		return flow{}, bad
	}
	return f, nil
}

// FinishLogin ends a login at a provider, and makes a session.
func (s *Service) FinishLogin(ctx context.Context, req *identityv1.FinishLoginRequest) (*identityv1.LoginResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	p, err := s.provider(req.GetProvider())
	if err != nil {
		return nil, err
	}
	from := clientOf(req.GetClient())
	f, err := s.openFlow(p.Name, req.GetFlow())
	if err != nil {
		return nil, err
	}
	// Linking ends as it began: as the same user. Else a stranger could have somebody link the stranger's account.
	if f.LinkUserID != "" && f.LinkUserID != req.GetUserId() {
		return nil, fault.New(fault.Unauthenticated, "to link an account, stay logged in").WithReason("LOGIN_LINK")
	}
	person, err := p.Finish(ctx, login.Flow{State: f.State, Nonce: f.Nonce, Verifier: f.Verifier, RedirectURL: f.RedirectURL},
		login.Answer{State: req.GetState(), Code: req.GetCode(), Issuer: req.GetIssuer(), Error: req.GetError()})
	if err != nil {
		if f, ok := err.(*fault.Error); ok && f.Kind != fault.Upstream {
			return nil, s.loginFailed(ctx, "", p.Name, f.Reason, from, err)
		}
		return nil, err
	}
	if !p.Config.Allowed(person) {
		return nil, s.loginFailed(ctx, person.Suggest(), p.Name, "not allowed", from,
			fault.New(fault.Denied, "you are not among those who may log in here by %s", p.Title()).WithReason("LOGIN_NOT_ALLOWED"))
	}
	u, err := s.admit(ctx, p, person, f.LinkUserID)
	if err != nil {
		if fault.Is(err, fault.Denied) || fault.Is(err, fault.Conflict) {
			return nil, s.loginFailed(ctx, person.Suggest(), p.Name, "not admitted", from, err)
		}
		return nil, err
	}
	return s.loggedIn(as(ctx, u), u, p.Name, from, req.GetReplaceSession(), f.Next)
}

// SetPassword gives a user a password, or takes it away.
func (s *Service) SetPassword(ctx context.Context, req *identityv1.SetPasswordRequest) (*emptypb.Empty, error) {
	u, self, err := s.ofUser(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	if req.NewPassword == nil { // a field of another name shall not take the password away
		return nil, fault.Field("new_password", "must be given; empty takes the password away")
	}
	st := store{s.deps.Pool}
	switch {
	case !self:
		if err := s.mayShutOut(ctx, u); err != nil {
			return nil, err
		}
	default:
		old, err := st.passwordOf(ctx, u.ID)
		if err != nil {
			return nil, err
		}
		if req.GetNewPassword() == "" {
			return nil, fault.Field("new_password", "a password must have at least %d characters", minPassword)
		}
		if old == "" {
			break
		}
		if err := s.attempt(u.Username, "change/"+u.ID); err != nil {
			return nil, err
		}
		ok, _, err := s.passwords.verify(ctx, req.GetOldPassword(), old)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fault.Field("old_password", "the old password is another one")
		}
		s.attempts.succeeded(u.Username, "change/"+u.ID)
	}
	hash := ""
	if req.GetNewPassword() != "" {
		if err := checkPassword("new_password", u.Username, req.GetNewPassword()); err != nil {
			return nil, err
		}
		if hash, err = s.passwords.hash(ctx, req.GetNewPassword()); err != nil {
			return nil, err
		}
	}
	err = pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		st := store{tx}
		if err := st.setPassword(ctx, u.ID, hash); err != nil {
			return err
		}
		n, err := st.deleteSessionsOf(ctx, u.ID, 0)
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "user.password", Resource: "user/" + u.Username, Details: map[string]any{"removed": hash == "", "sessions": n},
		})
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// mayShutOut lets those who manage users deal with a user's logins; with those of the server's owners and maintainers
// only an owner.
func (s *Service) mayShutOut(ctx context.Context, u user) error {
	if err := s.allow(ctx, authz.UsersManage); err != nil {
		return err
	}
	elevated, err := store{s.deps.Pool}.elevated(ctx, u.ID)
	if err != nil || !elevated {
		return err
	}
	return s.allow(ctx, authz.RolesGrant)
}

// SetUserDisabled shuts a user out, or lets them in again.
func (s *Service) SetUserDisabled(ctx context.Context, req *identityv1.SetUserDisabledRequest) (*identityv1.User, error) {
	caller, err := unscoped(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	if seen.ID == caller.UserID && req.GetDisabled() {
		return nil, fault.New(fault.Conflict, "nobody can shut themselves out").WithReason("SELF")
	}
	if err := s.mayShutOut(ctx, seen); err != nil {
		return nil, err
	}
	var u user
	version, err := s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if u, err = st.sameUser(ctx, seen); err != nil {
			return err
		}
		if u.Disabled == req.GetDisabled() {
			return errUnchanged
		}
		action := "user.enable"
		if u.Disabled = req.GetDisabled(); u.Disabled {
			action = "user.disable"
			if err := st.keepServerOwner(ctx, u, ""); err != nil {
				return err
			}
			if _, err := st.deleteSessionsOf(ctx, u.ID, 0); err != nil {
				return err
			}
		}
		if err := st.setDisabled(ctx, u.ID, u.Disabled); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: action, Resource: "user/" + u.Username})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return u.toProto(), nil
}
