// Package identity is the service that knows users, API keys, login sessions, roles and tenants, keeps the audit log,
// and signs the internal tokens that all other parts of the platform trust.
//
// # Who asks it what
//
// The edge shows it what a client sent (Authenticate) and gets a principal; with that it asks for tokens (MintToken),
// one a minute for each service it calls. Every process follows its role snapshot (GetRoleSnapshot) and decides alone.
// So identity may restart at any time: calls under way go on, for as long as tokens and snapshots are fresh.
//
// A part of the platform proves who it is with its target credential: a secret derived from the master key
// (TargetSecret) or configured. Worker pools get tokens for themselves and for jobs whose claim they hold, never for a
// user of their choice.
//
// # Change and version
//
// Each change of a role, key or user runs in one transaction with the raise of the snapshot's version and its audit
// event. After the commit, `identity.changed` goes over the bus, so that followers ask at once instead of within two
// seconds.
//
// # Logins
//
// People log in by a password that is kept here, or at a provider (package login). Either makes a session: a random
// value in a cookie, which ends when its time is over, when nobody uses it, at a logout, with a new password, and when its
// user is shut out or deleted. An account at a provider belongs to a user by the subject that the provider gives, which is
// theirs for ever; never by a name or an address, which pass on. Groups hold roles like users do; the claims of a provider
// put people into groups at each login, and take out only what they put in.
//
// # Secrets
//
// Passwords are stored as argon2id. API keys and sessions are random and stored as SHA-256; the signing keys are sealed with the master key (package
// seal). A new signing key is made every thirty days; the one before stays valid for ten minutes more.
package identity

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	"github.com/entrepot-dev/entrepot/services/identity/login"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema holds what identity keeps. It also reads and empties audit.Schema.
var Schema = pg.Schema{Name: "identity", FS: migrations}

// Config says how the service behaves. The zero Config is good.
type Config struct {
	// Login says how people log in; its zero value is login.DefaultConfig.
	Login login.Config
	// Argon2 are the parameters of new password hashes; its zero value is a good choice.
	Argon2 Argon2
	// RotateEvery is how old a signing key becomes; default thirty days.
	RotateEvery time.Duration
	// TargetSecrets are credentials of targets besides the derived ones: target → secret.
	TargetSecrets map[string]string
}

const defaultRotateEvery = 30 * 24 * time.Hour

// Publisher is what identity needs of the bus.
type Publisher interface {
	Publish(ctx context.Context, subject string, data []byte) error
}

// ChannelResolver finds what a key's roles name. Both methods return NotFound for what does not exist.
type ChannelResolver interface {
	Channel(ctx context.Context, name string) (authz.Resource, error)
	Package(ctx context.Context, channel authz.Resource, name string) error
}

// JobVerifier returns whom the job runs as, if the claim is its current one; else LostRace or NotFound.
type JobVerifier func(ctx context.Context, jobID string, claim int64) (authn.Caller, error)

// Deps are what the service works with. Pool, Roles and Master are needed.
type Deps struct {
	// Pool is the database, with Schema and audit.Schema.
	Pool *pgxpool.Pool
	// Roles decides, also for identity's own RPCs; NewSource feeds it without a detour.
	Roles *authz.Roles
	// Master opens the signing keys.
	Master *seal.Key
	// Bus carries nudges; nil means followers learn by polling.
	Bus Publisher
	// Channels finds channels; nil means keys cannot be narrowed to channels.
	Channels ChannelResolver
	// Jobs checks claims; nil means there are no tokens for jobs.
	Jobs JobVerifier
	// Outgoing asks login providers; it holds the egress policy. It is needed if there are any.
	Outgoing http.RoundTripper
	// Log may be nil.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Random makes keys; nil means crypto/rand.
	Random io.Reader
}

// Service implements IdentityServiceServer, LoginServiceServer and GroupServiceServer.
type Service struct {
	identityv1.UnimplementedIdentityServiceServer
	identityv1.UnimplementedLoginServiceServer
	identityv1.UnimplementedGroupServiceServer

	cfg  Config
	deps Deps

	log    *slog.Logger
	now    func() time.Time
	random io.Reader

	source *Source
	signer atomic.Pointer[authn.Signer]
	used   usedKeys

	providers    map[string]*login.Provider
	passwords    *passwords
	attempts     *attempts
	usedSessions usedKeys

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// New returns the service. It reads the signing keys, and makes the first one in a new database.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	if deps.Pool == nil || deps.Roles == nil || deps.Master == nil {
		return nil, errors.New("identity: Pool, Roles and Master are needed")
	}
	if cfg.Login.SessionLifetime == 0 && cfg.Login.IdleTimeout == 0 {
		providers := cfg.Login.Providers
		cfg.Login = login.DefaultConfig()
		cfg.Login.Providers = providers
	}
	if cfg.RotateEvery == 0 {
		cfg.RotateEvery = defaultRotateEvery
	}
	s := &Service{cfg: cfg, deps: deps, log: deps.Log, now: deps.Now, random: deps.Random, source: NewSource(deps.Pool)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	s.attempts = newAttempts()
	var err error
	if s.passwords, err = newPasswords(cfg.Argon2, s.random); err != nil {
		return nil, err
	}
	if s.providers, err = login.New(cfg.Login, login.Deps{Transport: deps.Outgoing, Now: s.now, Log: s.log}); err != nil {
		return nil, err
	}
	if err := s.refreshSigner(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Register adds the service and the checks of its requests to a server.
func (s *Service) Register(srv *rpc.Server) {
	identityv1.RegisterIdentityServiceServer(srv, s)
	identityv1.RegisterLoginServiceServer(srv, s)
	identityv1.RegisterGroupServiceServer(srv, s)
	registerChecks(srv)
}

// Start begins the background work: moving audit events, noting when keys were used, forgetting dead sessions,
// renewing signing keys. Stop ends it.
func (s *Service) Start(ctx context.Context) {
	if s.stop != nil {
		return
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx)) // Stop ends it, after the server has drained
	s.every(ctx, time.Second, "move audit events", s.DrainAudit)
	s.every(ctx, 30*time.Second, "note the use of keys", s.flushUsed)
	s.every(ctx, 30*time.Second, "note the use of logins", s.flushSessions)
	s.every(ctx, time.Minute, "renew the signing keys", s.refreshSigner)
	s.every(ctx, 10*time.Minute, "forget dead sessions", s.deleteExpiredSessions)
}

// Stop ends the background work, waits for it, and writes what is still in memory. It may be called twice.
func (s *Service) Stop(ctx context.Context) error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	s.wg.Wait()
	s.stop = nil
	return errors.Join(s.flushUsed(ctx), s.flushSessions(ctx), s.DrainAudit(ctx))
}

// every runs f now and then. A failure is told once, until it works again.
func (s *Service) every(ctx context.Context, period time.Duration, what string, f func(context.Context) error) {
	s.wg.Go(func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		failing := false
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := f(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !failing {
				s.log.WarnContext(ctx, "background work fails", "work", what, "error", err)
			}
			failing = err != nil
		}
	})
}
