package authz

import (
	"context"
	"errors"
	"io"
	"time"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// RemoteSource asks identity. Its client must present the process's target credential.
func RemoteSource(client identityv1.IdentityServiceClient) Source {
	return SourceFunc(func(ctx context.Context, known int64) (*Snapshot, error) {
		ctx, cancel := context.WithCancel(ctx) // ends the stream however we return
		defer cancel()
		stream, err := client.GetRoleSnapshot(ctx, &identityv1.GetRoleSnapshotRequest{KnownVersion: known})
		if err != nil {
			return nil, err
		}
		var (
			version  int64
			bindings []Binding
			keys     []KeyState
			users    []string
			members  []Membership
		)
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil, fault.New(fault.Unavailable, "identity's snapshot ended early")
			}
			if err != nil {
				return nil, err
			}
			if part.GetUnchanged() {
				_, _ = stream.Recv() // the end: a call that is cancelled counts as a failed one
				return nil, nil
			}
			if version != 0 && part.GetVersion() != version {
				return nil, fault.New(fault.Internal, "identity's snapshot mixes versions %d and %d", version, part.GetVersion())
			}
			version = part.GetVersion()
			for _, b := range part.GetBindings() {
				bindings = append(bindings, Binding{Subject: b.GetSubject(), Role: b.GetRole(), Resource: b.GetResource()})
			}
			for _, k := range part.GetKeys() {
				state := KeyState{ID: k.GetId(), UserID: k.GetUserId()}
				if k.GetExpiresUnix() != 0 {
					state.Expires = time.Unix(k.GetExpiresUnix(), 0)
				}
				keys = append(keys, state)
			}
			users = append(users, part.GetUserIds()...)
			for _, m := range part.GetMemberships() {
				for _, g := range m.GetGroupIds() {
					members = append(members, Membership{UserID: m.GetUserId(), GroupID: g})
				}
			}
			if part.GetLast() {
				_, _ = stream.Recv()
				return NewSnapshot(version, bindings, keys, users, members...), nil
			}
		}
	})
}
