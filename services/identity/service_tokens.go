package identity

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// sessionLength gives a session 274 bits.
const sessionLength = authn.KeyLength

// nobody is the hash and id that are compared when there is no such key, so that an unknown id takes as long as a
// known one with a wrong secret.
var (
	nobodysHash = authn.HashKey("")
	nobodysID   = "000000000000"
)

// Authenticate turns what a client sent into a principal.
func (s *Service) Authenticate(ctx context.Context, req *identityv1.AuthenticateRequest) (*identityv1.AuthenticateResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	switch {
	case (req.GetApiKey() == "") == (req.GetSession() == ""):
		return nil, fault.Field("api_key", "either api_key or session should be set")
	case req.GetSession() != "":
		return s.authenticateSession(ctx, req.GetSession())
	}
	return s.authenticateKey(ctx, req.GetApiKey())
}

func (s *Service) authenticateKey(ctx context.Context, full string) (*identityv1.AuthenticateResponse, error) {
	id, ok := authn.ParseKeyID(full)
	if !ok || !authn.WholeKey(full) {
		id = nobodysID
	}
	hash := authn.HashKey(full)
	st := store{s.deps.Pool}
	key, err := st.key(ctx, id)
	if fault.Is(err, fault.NotFound) {
		key.Hash = nobodysHash[:]
	} else if err != nil {
		return nil, err
	}
	if !hash.Equal(key.Hash) || key.ID == "" || key.Disabled || (key.ExpireTime != nil && !s.now().Before(*key.ExpireTime)) {
		return nil, fault.New(fault.Unauthenticated, "Not logged in")
	}
	res := &identityv1.AuthenticateResponse{ExpireTime: optionalTime(key.ExpireTime)}
	caller := authn.Caller{UserID: key.UserID, Name: key.Username, KeyID: key.ID, Scoped: key.Scoped}
	if key.Scoped {
		roles, err := st.keyRoles(ctx, key.ID)
		if err != nil {
			return nil, err
		}
		caller.Scope = scopeOf(roles[key.ID])
	}
	res.Principal = caller.ToProto()
	s.used.note(key.ID, s.now())
	return res, nil
}

// forUsers lets those targets pass that may act for users of their choice, and so may change what users may do. A credential is asked for, not a token:
// what has a token has only borrowed a name.
func (s *Service) forUsers(ctx context.Context) error {
	target := rpc.TargetFrom(ctx)
	if target == "" {
		return fault.New(fault.Denied, "this needs a target credential")
	}
	if !speaksForUsers(target) {
		return fault.New(fault.Denied, "%s does not act for users", target)
	}
	return nil
}

// MintToken signs an internal token.
func (s *Service) MintToken(ctx context.Context, req *identityv1.MintTokenRequest) (*identityv1.MintTokenResponse, error) {
	target := rpc.TargetFrom(ctx)
	if target == "" {
		return nil, fault.New(fault.Denied, "this needs a target credential")
	}
	caller, err := s.whoFor(ctx, target, req)
	if err != nil {
		return nil, err
	}
	token, expires, err := s.signer.Load().Sign(caller, req.GetAudience())
	if err != nil {
		return nil, err
	}
	return &identityv1.MintTokenResponse{Token: token, ExpireTime: timestamppb.New(expires)}, nil
}

// whoFor decides whom a target may have a token for.
func (s *Service) whoFor(ctx context.Context, target string, req *identityv1.MintTokenRequest) (authn.Caller, error) {
	asked := authn.FromProto(req.GetPrincipal())
	switch {
	case req.GetJobId() != "":
		if s.deps.Jobs == nil {
			return asked, fault.New(fault.Unimplemented, "there are no tokens for jobs")
		}
		job, err := s.deps.Jobs(ctx, req.GetJobId(), req.GetClaim())
		if err != nil {
			return asked, err
		}
		// The job's principal is the job's, not the asker's choice.
		if job.Anonymous() || (asked.UserID != "" && asked.UserID != job.UserID) {
			return asked, fault.New(fault.Denied, "the job does not run as that principal")
		}
		job.JobID, job.Claim = req.GetJobId(), req.GetClaim()
		return job, nil
	case asked.Target != "":
		if asked.UserID != "" || (asked.Target != target && target != "all") {
			return asked, fault.New(fault.Denied, "%s is not %s", target, asked.Target)
		}
		return authn.Service(asked.Target), nil
	case asked.UserID != "":
		if !speaksForUsers(target) {
			return asked, fault.New(fault.Denied, "%s does not act for users", target)
		}
		return asked, nil
	}
	return authn.Caller{}, nil // anonymous: whatever else was sent does not count
}

// GetVerificationKeys returns the public keys that are valid now.
func (s *Service) GetVerificationKeys(context.Context, *identityv1.GetVerificationKeysRequest) (*identityv1.GetVerificationKeysResponse, error) {
	res := &identityv1.GetVerificationKeysResponse{}
	for _, k := range s.signer.Load().PublicKeys() {
		res.Keys = append(res.Keys, &identityv1.VerificationKey{Id: k.ID, PublicKey: k.Key})
	}
	return res, nil
}

// usedKeys collects when keys or sessions were used, to the minute, so that a request writes nothing.
type usedKeys struct {
	mu    sync.Mutex
	times map[string]time.Time
}

func (u *usedKeys) note(id string, now time.Time) {
	minute := now.UTC().Truncate(time.Minute)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.times == nil {
		u.times = make(map[string]time.Time)
	}
	if u.times[id].Before(minute) {
		u.times[id] = minute
	}
}

// flush gives write what was collected; what fails is kept for the next time.
func (u *usedKeys) flush(write func(ids []string, times []time.Time) error) error {
	u.mu.Lock()
	pending := u.times
	u.times = nil
	u.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	ids, times := make([]string, 0, len(pending)), make([]time.Time, 0, len(pending))
	for id, t := range pending {
		ids, times = append(ids, id), append(times, t)
	}
	if err := write(ids, times); err != nil {
		for id, t := range pending {
			u.note(id, t)
		}
		return err
	}
	return nil
}

// flushUsed writes when keys were used.
func (s *Service) flushUsed(ctx context.Context) error {
	return s.used.flush(func(ids []string, times []time.Time) error {
		return store{s.deps.Pool}.touchKeys(ctx, ids, times)
	})
}
