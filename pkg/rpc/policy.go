package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
)

// exempt are the services that need no access option: they show nothing that is anybody's.
var exempt = []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}

// Policy is what the access option of one method says.
type Policy struct {
	// Method is the full method, `/entrepot.channels.v1.ChannelService/GetChannel`.
	Method string
	// Access is the option itself.
	Access *optionsv1.Access
	// Audience is the service whose tokens the method takes.
	Audience string
	// Input is the request's type.
	Input protoreflect.MessageDescriptor
	// Streaming is true if either side streams.
	Streaming bool

	field protoreflect.FieldDescriptor
}

// Audience returns the audience of a service: the second element of its proto package (`entrepot.channels.v1` →
// channels). The REST dialects' own services (`entrepot.rest.…`) are served by the gateway.
func Audience(service string) string {
	parts := strings.Split(service, ".")
	if len(parts) < 3 {
		return ""
	}
	if parts[1] == "rest" {
		return "gateway"
	}
	return parts[1]
}

// Policies returns the policies of all methods of a service, by full method. A method without one is an error.
func Policies(service string) (map[string]*Policy, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", service, err)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("service %s: is no service", service)
	}
	out := make(map[string]*Policy, sd.Methods().Len())
	for i := range sd.Methods().Len() {
		p, err := policyOf(sd.Methods().Get(i))
		if err != nil {
			return nil, err
		}
		out[p.Method] = p
	}
	return out, nil
}

func policyOf(md protoreflect.MethodDescriptor) (*Policy, error) {
	service := string(md.Parent().FullName())
	p := &Policy{
		Method: "/" + service + "/" + string(md.Name()), Audience: Audience(service), Input: md.Input(),
		Streaming: md.IsStreamingClient() || md.IsStreamingServer(),
	}
	if !proto.HasExtension(md.Options(), optionsv1.E_Access) {
		return nil, fmt.Errorf("method %s has no access option", p.Method)
	}
	p.Access = proto.GetExtension(md.Options(), optionsv1.E_Access).(*optionsv1.Access)
	if p.Audience == "" {
		return nil, fmt.Errorf("method %s: its package names no audience", p.Method)
	}
	switch p.Access.GetRule() {
	case optionsv1.Rule_RULE_LOGIN, optionsv1.Rule_RULE_ANYONE, optionsv1.Rule_RULE_TARGET:
		if p.Access.GetPermission() != "" || p.Access.GetField() != "" {
			return nil, fmt.Errorf("method %s names a permission or a field that its rule does not look at", p.Method)
		}
		return p, nil
	case optionsv1.Rule_RULE_PERMISSION:
	default:
		return nil, fmt.Errorf("method %s has an access option without a rule", p.Method)
	}
	if !authz.Known(p.Access.GetPermission()) {
		return nil, fmt.Errorf("method %s asks for the permission %q, which no role holds", p.Method, p.Access.GetPermission())
	}
	name := p.Access.GetField()
	if (p.Access.GetResource() == optionsv1.Resource_RESOURCE_UNSPECIFIED) != (name == "") {
		return nil, fmt.Errorf("method %s: resource and field of its access option go together", p.Method)
	}
	if name != "" {
		p.field = md.Input().Fields().ByName(protoreflect.Name(name))
		if p.field == nil || p.field.Kind() != protoreflect.StringKind || p.field.Cardinality() == protoreflect.Repeated {
			return nil, fmt.Errorf("method %s: its request has no string field %q", p.Method, name)
		}
	}
	return p, nil
}

// ResourceResolver returns the resource of that name, or NotFound.
type ResourceResolver func(ctx context.Context, name string) (authz.Resource, error)

// MethodRule refines the access option of one method. The order is Quetz's: the resource must exist, the caller must
// be able to read it, the resource must be of a kind that the method works on, and only then the method's own
// permission counts.
type MethodRule struct {
	// Resources returns what the permission is asked on instead of the resource that the field names, such as the
	// packages that a request is about; all must allow it. Nil or an empty answer means that resource itself.
	Resources func(ctx context.Context, req proto.Message, res authz.Resource) ([]authz.Resource, error)
	// Check refuses resources that the method does not work on. It runs once the caller may read them.
	Check func(ctx context.Context, req proto.Message, res authz.Resource) error
}

type resourceKey struct{}

// ResourceFrom returns the resource that the access option of the present call names, as it was resolved; false for
// methods that name none.
func ResourceFrom(ctx context.Context) (authz.Resource, bool) {
	r, ok := ctx.Value(resourceKey{}).(authz.Resource)
	return r, ok
}

// policies collects the policies of all registered services, and all that is wrong with them.
func (s *Server) policies(info map[string]grpc.ServiceInfo) (map[string]*Policy, []error) {
	all := make(map[string]*Policy)
	var errs []error
	for service, si := range info {
		if slices.Contains(exempt, service) {
			continue
		}
		ps, err := Policies(service)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, m := range si.Methods {
			full := "/" + service + "/" + m.Name
			p, ok := ps[full]
			if !ok {
				errs = append(errs, fmt.Errorf("method %s is not in its proto file", full))
				continue
			}
			if p.field != nil && s.resolvers[p.Access.GetResource()] == nil {
				errs = append(errs, fmt.Errorf("method %s is about a %s, and no resolver is registered for those", full, p.Access.GetResource()))
			}
			all[full] = p
		}
	}
	for full := range s.rules {
		if p := all[full]; p == nil || p.Access.GetRule() != optionsv1.Rule_RULE_PERMISSION {
			errs = append(errs, fmt.Errorf("there is a rule for %s, which is not served or asks for no permission", full))
		}
	}
	return all, errs
}
