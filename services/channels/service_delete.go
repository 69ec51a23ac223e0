package channels

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// resourceName is how jobs spell a channel.
func resourceName(c *channelRow) string { return "channel/" + c.Name }

// DeleteChannel deletes a channel: it stops its jobs, takes its rows and references away, then its roles. Bytes that
// nothing else refers to are collected by storage.
func (s *Service) DeleteChannel(ctx context.Context, req *channelsv1.DeleteChannelRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	// A publication under way in this process ends first; others find the row gone when they want to lock it.
	unlock, err := s.gates.lock(ctx, ch.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.cancelJobs(ctx, ch); err != nil {
		return nil, fmt.Errorf("delete channel %s: %w", ch.Name, err)
	}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			locked, err := lockChannel(ctx, tx, ch.ID)
			if err != nil {
				return err
			}
			if err := deleteChannelRows(ctx, tx, ch.ID); err != nil {
				return err
			}
			if err := removeAllRefs(ctx, tx, ch.ID); err != nil {
				return err
			}
			if err := s.record(ctx, tx, caller, "channel.delete", locked, map[string]any{"files": locked.FileCount, "bytes": locked.Size}); err != nil {
				return err
			}
			if err := s.endRepetitions(ctx, tx, locked); err != nil {
				return err
			}
			if err := s.forgetCounts(ctx, tx, locked); err != nil {
				return err
			}
			return s.forgetUpstream(ctx, tx, locked)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("delete channel %s: %w", ch.Name, err)
	}
	s.names.drop(ch.ID)
	s.announce(ctx, ch, true)
	// Roles on a resource that is gone allow nothing: a failure here leaves rows, not rights.
	if err := s.revokeAll(ctx, ch.ID); err != nil {
		s.log.ErrorContext(ctx, "the roles on a deleted channel could not be removed", "channel", ch.Name, "id", ch.ID, "error", err)
	}
	return &emptypb.Empty{}, nil
}

// forgetUpstream asks sync to drop what it remembers of a mirror's upstream: index blobs of hundreds of megabytes. The
// kind and its arguments are sync's.
func (s *Service) forgetUpstream(ctx context.Context, tx pgx.Tx, c *channelRow) error {
	if c.kind() == channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
		return nil
	}
	as := authn.Service("sync")
	principal, err := as.Marshal()
	if err != nil {
		return err
	}
	_, err = s.jobs.Enqueue(ctx, tx, jobs.EnqueueParams{
		Kind: kindForget, Namespace: c.Namespace, Resource: "channel/" + c.ID.String(), Priority: jobs.Low, Coalesce: jobs.None,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: "sync/" + c.ID.String(), Exclusive: true}},
		Args:      &syncv1.ForgetJobArgs{ChannelId: c.ID.String()},
	})
	return err
}

// cancelJobs stops what works on a channel.
func (s *Service) cancelJobs(ctx context.Context, ch *channelRow) error {
	for _, resource := range []string{resourceName(ch), "channel/" + ch.ID.String()} {
		for after := ""; ; {
			list, next, err := s.jobs.List(ctx, jobs.Filter{Resource: resource, States: []jobs.State{jobs.Queued, jobs.Scheduled, jobs.Running}}, jobs.Page{Cursor: after, Size: 100})
			if err != nil {
				return err
			}
			for _, j := range list {
				if _, err := s.jobs.Cancel(ctx, j.ID); err != nil && !fault.Is(err, fault.Precondition) && !fault.Is(err, fault.NotFound) {
					return err
				}
			}
			if next == "" {
				break
			}
			after = next
		}
	}
	return nil
}

// DeleteFile takes a file out of a hosted channel.
func (s *Service) DeleteFile(ctx context.Context, req *channelsv1.DeleteFileRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	path, err := names.CleanPath(req.GetPath())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	out, err := s.publish(ctx, publication{
		channel: ch.ID, cause: causeDelete, author: caller.Actor(),
		stage: func(ctx context.Context, st *staging) error {
			if err := hostedOnly(st.channel); err != nil {
				return err
			}
			return st.removePath(ctx, path)
		},
		moved: func(ctx context.Context, tx pgx.Tx, out *published) error {
			return s.record(ctx, tx, caller, "file.delete", out.channel, map[string]any{"path": path, "revision": out.channel.Head})
		},
	})
	if err != nil {
		return nil, err
	}
	if !out.moved {
		return nil, fault.New(fault.NotFound, "Package version not found").WithReason("FILE_NOT_FOUND")
	}
	return &emptypb.Empty{}, nil
}

// DeletePackage takes a package with all its files out of a hosted channel.
func (s *Service) DeletePackage(ctx context.Context, req *channelsv1.DeletePackageRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	name, err := parsePackage(req.GetPackage())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	_, err = s.publish(ctx, publication{
		channel: ch.ID, cause: causeDelete, author: caller.Actor(),
		stage: func(ctx context.Context, st *staging) error {
			if err := hostedOnly(st.channel); err != nil {
				return err
			}
			if _, err := packageByName(ctx, st.tx, st.channel, name); err != nil {
				return err
			}
			return st.removePackage(ctx, name)
		},
		finish: func(ctx context.Context, tx pgx.Tx, out *published) error {
			if err := deletePackageRow(ctx, tx, ch.ID, name); err != nil {
				return err
			}
			return s.record(ctx, tx, caller, "package.delete", out.channel, map[string]any{"package": name, "files": out.Removed})
		},
	})
	if err != nil {
		return nil, err
	}
	s.disown(ctx, ch, name)
	return &emptypb.Empty{}, nil
}
