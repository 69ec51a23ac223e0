package channels

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// Register serves the service on a server: its methods, how channels are found by name, and what its methods ask for
// beyond their access options. The order is always: the channel exists, the caller may read it, it is of a kind that the
// method works on, and then the method's own permission.
func (s *Service) Register(srv *rpc.Server) {
	channelsv1.RegisterChannelServiceServer(srv, s)
	srv.HandleResource(optionsv1.Resource_RESOURCE_CHANNEL, s.ResolveResource)
	// Package roles count for what is about packages.
	srv.HandleMethod(channelsv1.ChannelService_CheckUpload_FullMethodName, rpc.MethodRule{
		Resources: packagesIn(func(r *channelsv1.CheckUploadRequest) []string { return []string{r.GetFilename()} }), Check: s.checkHosted,
	})
	srv.HandleMethod(channelsv1.ChannelService_AddFiles_FullMethodName, rpc.MethodRule{
		Resources: packagesIn(func(r *channelsv1.AddFilesRequest) (out []string) {
			for _, f := range r.GetFiles() {
				out = append(out, f.GetFilename())
			}
			return out
		}), Check: s.checkHosted,
	})
	srv.HandleMethod(channelsv1.ChannelService_DeleteFile_FullMethodName, rpc.MethodRule{
		Resources: packagesIn(func(r *channelsv1.DeleteFileRequest) []string {
			return []string{r.GetPath()[strings.LastIndexByte(r.GetPath(), '/')+1:]}
		}), Check: s.checkHosted,
	})
	srv.HandleMethod(channelsv1.ChannelService_DeletePackage_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.DeletePackageRequest).GetPackage), Check: s.checkHosted,
	})
	srv.HandleMethod(channelsv1.ChannelService_CreatePackage_FullMethodName, rpc.MethodRule{Check: s.checkHosted})
	srv.HandleMethod(channelsv1.ChannelService_CopyFile_FullMethodName, rpc.MethodRule{Check: s.checkHosted})
	srv.HandleMethod(channelsv1.ChannelService_ListPackageMembers_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.ListPackageMembersRequest).GetPackage),
	})
	srv.HandleMethod(channelsv1.ChannelService_AddPackageMember_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.AddPackageMemberRequest).GetPackage),
	})
	srv.HandleMethod(channelsv1.ChannelService_RemovePackageMember_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.RemovePackageMemberRequest).GetPackage),
	})
	srv.HandleMethod(channelsv1.ChannelService_RegisterMirror_FullMethodName, rpc.MethodRule{Check: s.checkNoProxy})
	srv.HandleMethod(channelsv1.ChannelService_ListMirrors_FullMethodName, rpc.MethodRule{Check: s.checkNoProxy})
	srv.HandleMethod(channelsv1.ChannelService_DeleteMirror_FullMethodName, rpc.MethodRule{Check: s.checkNoProxy})
	srv.HandleMethod(channelsv1.ChannelService_GetPackage_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.GetPackageRequest).GetPackage),
	})
	srv.HandleMethod(channelsv1.ChannelService_ListFiles_FullMethodName, rpc.MethodRule{
		Resources: packageNamed((*channelsv1.ListFilesRequest).GetPackage),
	})
}

var _ grpc.ServiceRegistrar = (*rpc.Server)(nil)

// ResolveResource finds a channel by its name, for the permission that an RPC asks on it.
func (s *Service) ResolveResource(ctx context.Context, name string) (authz.Resource, error) {
	if !isText(name) {
		return authz.Resource{}, notFound(shown(name))
	}
	ch, err := s.channel(ctx, name)
	if err != nil {
		return authz.Resource{}, err
	}
	return ch.resource(), nil
}

// channel returns the channel that an RPC is about: what its rights were decided by is what its handler begins with.
func (s *Service) channel(ctx context.Context, name string) (*channelRow, error) {
	return rpc.Once(ctx, channelKey(strings.ToLower(name)), func() (*channelRow, error) { return channelByName(ctx, s.pool, name) })
}

// channelKey is a channel's name without case.
type channelKey string

func (s *Service) checkHosted(ctx context.Context, _ proto.Message, res authz.Resource) error {
	ch, err := s.channel(ctx, res.Name)
	if err != nil {
		return err
	}
	return hostedOnly(ch)
}

// checkNoProxy refuses proxies, which are nobody's primary.
func (s *Service) checkNoProxy(ctx context.Context, _ proto.Message, res authz.Resource) error {
	id, err := uuid.Parse(res.ID)
	if err != nil {
		return err
	}
	ch, err := channelByID(ctx, s.pool, id)
	if err != nil || ch.kind() != channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return err
	}
	return hostedOnly(ch)
}

// packagesIn asks for the permission on the packages that file names belong to. A name that is none is the handler's to
// refuse, and then the channel itself counts.
func packagesIn[Req proto.Message](filenames func(Req) []string) func(context.Context, proto.Message, authz.Resource) ([]authz.Resource, error) {
	return func(_ context.Context, m proto.Message, res authz.Resource) ([]authz.Resource, error) {
		req, ok := m.(Req)
		if !ok {
			return nil, fault.New(fault.Internal, "the rule does not fit a %T", m)
		}
		var out []authz.Resource
		seen := make(map[string]bool)
		for _, filename := range filenames(req) {
			d, err := dist.ParseFilename(filename)
			if err != nil {
				return nil, nil
			}
			if !seen[d.Name] {
				seen[d.Name] = true
				out = append(out, res.PackageOf(d.Name))
			}
		}
		return out, nil
	}
}

func packageNamed[Req proto.Message](name func(Req) string) func(context.Context, proto.Message, authz.Resource) ([]authz.Resource, error) {
	return func(_ context.Context, m proto.Message, res authz.Resource) ([]authz.Resource, error) {
		req, ok := m.(Req)
		if !ok {
			return nil, fault.New(fault.Internal, "the rule does not fit a %T", m)
		}
		if pkg := name(req); pkg != "" {
			return []authz.Resource{res.PackageOf(pkg)}, nil
		}
		return nil, nil
	}
}

// claimsOf returns the attempt at a job on whose behalf a call is made; none outside jobs.
func claimsOf(c authn.Caller) ([]claim, error) {
	if c.JobID == "" {
		return nil, nil
	}
	id, err := uuid.Parse(c.JobID)
	if err != nil {
		return nil, fault.New(fault.Unauthenticated, "the token names no job").WithReason("TOKEN_INVALID")
	}
	return []claim{{job: id, claim: c.Claim}}, nil
}
