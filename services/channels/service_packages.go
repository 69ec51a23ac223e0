package channels

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

func packageResource(channel uuid.UUID, name string) string {
	return "package/" + channel.String() + "/" + name
}

// own makes the caller the owner of packages that are new: who first brings one has a say in it from then on. The
// packages are there already, and the channel's own people may do all that a package's may, so a failure is no reason
// to undo anything.
func (s *Service) own(ctx context.Context, c authn.Caller, channel *channelRow, names []string) {
	if c.UserID == "" {
		return
	}
	for _, name := range names {
		_, err := s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
			Binding: &identityv1.Binding{Subject: "user/" + c.UserID, Role: authz.Owner, Resource: packageResource(channel.ID, name)},
		})
		if err != nil {
			s.log.ErrorContext(ctx, "a package has no owner of its own", "channel", channel.Name, "package", name, "user", c.Name, "error", err)
		}
	}
}

// disown takes all roles on packages that are gone; a failure leaves rows, which allow nothing until a package of that
// name comes back.
func (s *Service) disown(ctx context.Context, channel *channelRow, names ...string) {
	for _, name := range names {
		_, err := s.identity.DeleteResourceBindings(context.WithoutCancel(ctx), &identityv1.DeleteResourceBindingsRequest{Resource: packageResource(channel.ID, name)})
		if err != nil {
			s.log.ErrorContext(ctx, "the roles on a deleted package could not be removed", "channel", channel.Name, "package", name, "error", err)
		}
	}
}

// CreatePackage makes a package without files.
func (s *Service) CreatePackage(ctx context.Context, req *channelsv1.CreatePackageRequest) (*channelsv1.Package, error) {
	name, err := parsePackage(req.GetName())
	if err != nil {
		return nil, err
	}
	for field, text := range map[string]string{"summary": req.GetSummary(), "description": req.GetDescription(), "url": req.GetUrl()} {
		if len(text) > maxText || !isText(text) {
			return nil, fault.Field(field, "must be text of at most %d bytes", maxText)
		}
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	p := &packageRow{Name: name, Summary: req.GetSummary(), Description: req.GetDescription(), URL: req.GetUrl()}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		locked, err := lockChannel(ctx, tx, ch.ID) // or a deletion at the same moment would leave the row behind
		if err != nil {
			return err
		}
		now, err := touchChannel(ctx, tx, ch.ID, s.now().UTC())
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO channels.packages (channel_id, name, summary, description, url, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`, ch.ID, p.Name, p.Summary, p.Description, p.URL, now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return fault.New(fault.Conflict, "Package %s/%s exists", ch.Name, name).WithReason("PACKAGE_EXISTS")
		}
		return s.record(ctx, tx, caller, "package.create", locked, map[string]any{"package": name})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	s.own(ctx, caller, ch, []string{name})
	return p.toProto(), nil
}

// CopyFile lists a file of another channel here too: a new reference to the same bytes.
func (s *Service) CopyFile(ctx context.Context, req *channelsv1.CopyFileRequest) (*channelsv1.File, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	if !isText(req.GetSourceChannel()) {
		return nil, notFound(shown(req.GetSourceChannel()))
	}
	from, err := channelByName(ctx, s.pool, req.GetSourceChannel())
	if err != nil {
		return nil, err
	}
	if err := s.roles.Allow(ctx, caller, authz.ChannelRead, from.resource().PackageOf(req.GetSourcePackage())); err != nil {
		return nil, err
	}
	pkg, err := packageByName(ctx, s.pool, from, likePart(req.GetSourcePackage()))
	if err != nil {
		return nil, err
	}
	path := req.GetSubdir() + "/" + req.GetFilename()
	absent := fault.New(fault.NotFound, "package version %s not found", shown(path)).WithReason("FILE_NOT_FOUND")
	d, err := dist.ParseFilename(req.GetFilename())
	if err != nil || d.Name != pkg.Name || dist.CheckSubdir(req.GetSubdir()) != nil {
		return nil, absent
	}
	var file plannedFile
	var moved *fileRow
	var fresh []string
	_, err = s.publish(ctx, publication{
		channel: ch.ID, cause: causeCopy, author: caller.Actor(),
		texts: map[string]packageText{pkg.Name: {summary: pkg.Summary, description: pkg.Description, url: pkg.URL}},
		stage: func(ctx context.Context, st *staging) (err error) {
			if err := hostedOnly(st.channel); err != nil {
				return err
			}
			if file, err = plannedCopy(ctx, st.tx, from.ID, path, caller.Actor()); errors.Is(err, pgx.ErrNoRows) {
				return absent
			} else if err != nil {
				return err
			}
			live, err := filesAt(ctx, st.tx, ch.ID, []string{path})
			if err != nil {
				return err
			}
			if old := live[path]; old != nil {
				return duplicate(path, old.Digest != nil && *old.Digest == blob.Digest(file.digest))
			}
			done := false
			if err := st.plan(ctx, func() (plannedFile, bool, error) { more := !done; done = true; return file, more, nil }); err != nil {
				return err
			}
			if err := st.diff(ctx); err != nil {
				return err
			}
			return s.checkStored(ctx, st)
		},
		moved: func(ctx context.Context, tx pgx.Tx, out *published) error {
			fresh = out.fresh
			_, err := tx.Exec(ctx, `INSERT INTO channels.conda_facts (channel_id, digest, facts)
				SELECT $1, digest, facts FROM channels.conda_facts WHERE channel_id = $2 AND digest = $3 ON CONFLICT DO NOTHING`, ch.ID, from.ID, file.digest)
			if err != nil {
				return pg.Classify(err)
			}
			return s.record(ctx, tx, caller, "file.copy", out.channel, map[string]any{"path": path, "from": from.Name, "revision": out.channel.Head})
		},
		finish: func(ctx context.Context, tx pgx.Tx, _ *published) error {
			found, err := filesAt(ctx, tx, ch.ID, []string{path})
			moved = found[path]
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	s.own(ctx, caller, ch, fresh)
	if moved == nil {
		return nil, absent
	}
	return moved.toProto(), nil
}

// plannedCopy reads a stored file of a channel as a plan for another one.
func plannedCopy(ctx context.Context, tx pgx.Tx, channel uuid.UUID, path, uploader string) (f plannedFile, err error) {
	f = plannedFile{path: path, uploader: uploader}
	err = tx.QueryRow(ctx, `SELECT digest, md5, size, name, version, build, build_number, arch, record, run_exports FROM channels.files
		WHERE channel_id = $1 AND path = $2 AND removed_rev IS NULL AND digest IS NOT NULL AND NOT redirect`, channel, path).
		Scan(&f.digest, &f.md5, &f.size, &f.name, &f.version, &f.build, &f.buildNumber, &f.arch, &f.record, &f.runExports)
	return f, err
}

// ListPackageMembers returns who has a role on a package.
func (s *Service) ListPackageMembers(ctx context.Context, req *channelsv1.ListPackageMembersRequest) (*channelsv1.ListMembersResponse, error) {
	ch, p, err := s.packageOf(ctx, req.GetChannel(), req.GetPackage())
	if err != nil {
		return nil, err
	}
	r, err := s.identity.ListBindings(ctx, &identityv1.ListBindingsRequest{Resource: packageResource(ch.ID, p.Name)})
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListMembersResponse)
	for _, b := range r.GetBindings() {
		out.Members = append(out.Members, &channelsv1.Member{User: b.GetUser(), Role: b.GetRole()})
	}
	return out, nil
}

func (s *Service) packageOf(ctx context.Context, channel, name string) (*channelRow, *packageRow, error) {
	ch, err := channelByName(ctx, s.pool, channel)
	if err != nil {
		return nil, nil, err
	}
	p, err := packageByName(ctx, s.pool, ch, likePart(name))
	return ch, p, err
}

// AddPackageMember gives a user a role on a package. Who has one keeps it: that is a Conflict.
func (s *Service) AddPackageMember(ctx context.Context, req *channelsv1.AddPackageMemberRequest) (*channelsv1.Member, error) {
	if !authz.ValidRole(req.GetRole()) {
		return nil, fault.Field("role", "Input should be 'owner', 'maintainer' or 'member'")
	}
	if req.GetUsername() == "" {
		return nil, fault.Field("username", "username should not be empty")
	}
	ch, p, err := s.packageOf(ctx, req.GetChannel(), req.GetPackage())
	if err != nil {
		return nil, err
	}
	resource := packageResource(ch.ID, p.Name)
	r, err := s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
		Binding: &identityv1.Binding{Role: req.GetRole(), Resource: resource}, Username: req.GetUsername(), OnlyNew: true,
		AuditAction: "package.member.add", AuditResource: auditName(ch),
	})
	var f *fault.Error
	if errors.As(err, &f) && f.Reason == "HAS_ROLE" {
		return nil, fault.New(fault.Conflict, "Member %s in %s/%s exists", req.GetUsername(), ch.Name, p.Name).WithReason("MEMBER_EXISTS")
	}
	if err != nil {
		return nil, err
	}
	s.heeded(ctx, r.GetVersion())
	return &channelsv1.Member{User: r.GetUser(), Role: req.GetRole()}, nil
}

// RemovePackageMember takes a user's role on a package away. Packages need no owner: those of their channel look after
// them.
func (s *Service) RemovePackageMember(ctx context.Context, req *channelsv1.RemovePackageMemberRequest) (*emptypb.Empty, error) {
	if req.GetUsername() == "" {
		return nil, fault.Field("username", "username should not be empty")
	}
	ch, p, err := s.packageOf(ctx, req.GetChannel(), req.GetPackage())
	if err != nil {
		return nil, err
	}
	_, err = s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
		Binding: &identityv1.Binding{Resource: packageResource(ch.ID, p.Name)}, Username: req.GetUsername(), Revoke: true,
		AuditAction: "package.member.remove", AuditResource: auditName(ch),
	})
	var f *fault.Error
	if errors.As(err, &f) && f.Reason == "NO_SUCH_ROLE" {
		return nil, fault.New(fault.NotFound, "user %s is not a member of package %s/%s", req.GetUsername(), ch.Name, p.Name).WithReason("MEMBER_NOT_FOUND")
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
