package identity

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// errUnchanged ends a change that turned out to be none: nothing is committed, and it is no failure.
var errUnchanged = errors.New("nothing changed")

// change runs fn in a transaction that raises the snapshot's version, and tells everybody after the commit. It returns
// the version that holds what fn wanted.
func (s *Service) change(ctx context.Context, fn func(tx pgx.Tx, st store) error) (version int64, err error) {
	err = pg.InTx(ctx, s.deps.Pool, pgx.TxOptions{}, func(tx pgx.Tx) (err error) {
		st := store{tx}
		if version, err = st.bump(ctx); err != nil {
			return err
		}
		return fn(tx, st)
	})
	if errors.Is(err, errUnchanged) {
		return version - 1, nil
	}
	if err != nil {
		return 0, err
	}
	s.deps.Roles.Wake()
	s.announce(ctx, version)
	return version, nil
}

const announceTimeout = 500 * time.Millisecond

// announce tells the followers elsewhere. They poll anyway: without a bus they learn it two seconds later.
func (s *Service) announce(ctx context.Context, version int64) {
	if s.deps.Bus == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), announceTimeout) // the change is made, whoever hung up
	defer cancel()
	if err := s.deps.Bus.Publish(ctx, authz.SubjectChanged, []byte(strconv.FormatInt(version, 10))); err != nil {
		s.log.DebugContext(ctx, "a change could not be announced", "error", err)
	}
}

// settle waits until this process heeds a change that takes something away, so that who took it sees it gone. It is a
// courtesy: other processes follow within five seconds whatever happens here.
func (s *Service) settle(ctx context.Context, version int64) {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if err := s.deps.Roles.Await(ctx, version); err != nil {
		s.log.DebugContext(ctx, "the change is not heeded here yet", "error", err)
	}
}

// allow asks for a permission on the whole server.
func (s *Service) allow(ctx context.Context, permission string) error {
	return s.deps.Roles.Allow(ctx, authn.FromContext(ctx), permission, authz.Resource{})
}

// unscoped returns the user who calls, with all their rights: a key that was narrowed must not make a wider one, and
// must not end its user.
func unscoped(ctx context.Context) (authn.Caller, error) {
	c := authn.FromContext(ctx)
	switch {
	case c.UserID == "":
		return c, fault.New(fault.Unauthenticated, "Not logged in")
	case c.Scoped:
		return c, fault.New(fault.Denied, "No permission")
	}
	return c, nil
}
