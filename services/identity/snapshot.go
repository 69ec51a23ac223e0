package identity

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// partSize is how many entries one part of the snapshot holds: about 200 bytes each, so a part stays below the 4 MiB
// that a message may have.
const partSize = 4000

// Source reads role snapshots from the database. It keeps the newest, so that many followers cost one read a version.
type Source struct {
	pool *pgxpool.Pool

	mu   sync.Mutex // held while reading: those who come meanwhile want the same
	last *snapshot
}

var _ authz.Source = (*Source)(nil)

// NewSource returns a Source for processes that have the database at hand; the others use authz.RemoteSource.
func NewSource(pool *pgxpool.Pool) *Source { return &Source{pool: pool} }

type snapshot struct {
	version  int64
	bindings []*identityv1.Binding
	keys     []*identityv1.KeyState
	users    []string
	members  []*identityv1.Membership
}

// Snapshot implements authz.Source.
func (s *Source) Snapshot(ctx context.Context, known int64) (*authz.Snapshot, error) {
	snap, err := s.read(ctx, known)
	if snap == nil || err != nil {
		return nil, err
	}
	bindings := make([]authz.Binding, 0, len(snap.bindings))
	for _, b := range snap.bindings {
		bindings = append(bindings, authz.Binding{Subject: b.GetSubject(), Role: b.GetRole(), Resource: b.GetResource()})
	}
	keys := make([]authz.KeyState, 0, len(snap.keys))
	for _, k := range snap.keys {
		keys = append(keys, authz.KeyState{ID: k.GetId(), UserID: k.GetUserId(), Expires: unixTime(k.GetExpiresUnix())})
	}
	var members []authz.Membership
	for _, m := range snap.members {
		for _, g := range m.GetGroupIds() {
			members = append(members, authz.Membership{UserID: m.GetUserId(), GroupID: g})
		}
	}
	return authz.NewSnapshot(snap.version, bindings, keys, snap.users, members...), nil
}

// read returns the newest snapshot, or nil if it is the known one. The version is asked of the database each time:
// another replica may have made the change.
func (s *Source) read(ctx context.Context, known int64) (*snapshot, error) {
	version, err := store{s.pool}.version(ctx)
	if err != nil {
		return nil, err
	}
	if version == known {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && s.last.version >= version {
		return s.last, nil
	}
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	snap := &snapshot{}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) (err error) {
		st := store{tx}
		if snap.version, err = st.version(ctx); err != nil {
			return err
		}
		return st.fill(ctx, snap)
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	s.last = snap
	return snap, nil
}

// fill reads what a snapshot holds; the transaction makes it one moment's.
func (st store) fill(ctx context.Context, snap *snapshot) error {
	rows, err := st.db.Query(ctx, `SELECT subject, role, resource FROM identity.bindings`)
	if err != nil {
		return err
	}
	var a, b, c string
	if _, err := pgx.ForEachRow(rows, []any{&a, &b, &c}, func() error {
		snap.bindings = append(snap.bindings, &identityv1.Binding{Subject: a, Role: b, Resource: c})
		return nil
	}); err != nil {
		return err
	}
	// Expired keys stay in: whether a key has expired is for the follower's clock, and costs no change of version.
	rows, err = st.db.Query(ctx, `SELECT id, user_id::text, coalesce(ceil(extract(epoch FROM expire_time))::bigint, 0) FROM identity.api_keys`)
	if err != nil {
		return err
	}
	var expires int64
	if _, err := pgx.ForEachRow(rows, []any{&a, &b, &expires}, func() error {
		snap.keys = append(snap.keys, &identityv1.KeyState{Id: a, UserId: b, ExpiresUnix: expires})
		return nil
	}); err != nil {
		return err
	}
	rows, err = st.db.Query(ctx, `SELECT id::text FROM identity.users WHERE delete_time IS NULL AND disable_time IS NULL`)
	if err != nil {
		return err
	}
	if snap.users, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	// Whatever put somebody into a group, they are in it once; groups without a role change nothing.
	rows, err = st.db.Query(ctx, `SELECT m.user_id::text, array_agg(DISTINCT m.group_id::text) FROM identity.group_members m
		WHERE EXISTS (SELECT FROM identity.bindings b WHERE b.subject = 'group/' || m.group_id) GROUP BY m.user_id`)
	if err != nil {
		return err
	}
	var groups []string
	_, err = pgx.ForEachRow(rows, []any{&a, &groups}, func() error {
		snap.members = append(snap.members, &identityv1.Membership{UserId: a, GroupIds: groups})
		groups = nil // else the next row is scanned into the same array
		return nil
	})
	return err
}

// GetRoleSnapshot returns the snapshot in parts.
func (s *Service) GetRoleSnapshot(req *identityv1.GetRoleSnapshotRequest, stream grpc.ServerStreamingServer[identityv1.GetRoleSnapshotResponse]) error {
	snap, err := s.source.read(stream.Context(), req.GetKnownVersion())
	if err != nil {
		return err
	}
	if snap == nil {
		return stream.Send(&identityv1.GetRoleSnapshotResponse{Version: req.GetKnownVersion(), Unchanged: true, Last: true})
	}
	bindings, keys, users, members := snap.bindings, snap.keys, snap.users, snap.members
	for {
		part := &identityv1.GetRoleSnapshotResponse{Version: snap.version}
		part.Bindings, bindings = take(bindings)
		part.Keys, keys = take(keys)
		part.UserIds, users = take(users)
		part.Memberships, members = take(members)
		part.Last = len(bindings)+len(keys)+len(users)+len(members) == 0
		if err := stream.Send(part); err != nil {
			return err
		}
		if part.Last {
			return nil
		}
	}
}

func take[T any](from []T) (part, rest []T) {
	n := min(partSize, len(from))
	return from[:n], from[n:]
}
