// Package native serves the platform's own REST API under /entrepot/v1.
//
// Every RPC that is not internal has its REST form by grpc-gateway from the annotations in proto/; a streaming RPC's
// form is an event stream (events.go), and bytes travel by handlers (upload.go). The OpenAPI description that is
// served is the one generated from the same protos, completed by the raw routes. Errors are RFC 9457 problems.
package native

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// Prefix begins the path of every route of the native API.
const Prefix = "/entrepot/v1"

// Deps are what the API stands on.
type Deps struct {
	// Dial returns the connection to a service by its short name: channels, sync, jobs, metrics, identity, storage.
	Dial func(service string) (*grpc.ClientConn, error)
	// Logins makes and ends logins by cookie.
	Logins *edge.Logins
	// Uploads takes the bytes of uploads.
	Uploads *edge.Uploads
	// Files is told of changes, so that the writer reads its own write.
	Files *edge.Files
	// Version of the binary, for the OpenAPI description.
	Version string
}

// services are the domain services with a REST form.
var services = []struct {
	name     string
	file     protoreflect.FullName
	register func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error
}{
	{"channels", "entrepot.channels.v1.ChannelService", channelsv1.RegisterChannelServiceHandler},
	{"sync", "entrepot.sync.v1.SyncService", syncv1.RegisterSyncServiceHandler},
	{"jobs", "entrepot.jobs.v1.JobService", jobsv1.RegisterJobServiceHandler},
	{"metrics", "entrepot.metrics.v1.MetricsService", metricsv1.RegisterMetricsServiceHandler},
	{"identity", "entrepot.identity.v1.IdentityService", identityv1.RegisterIdentityServiceHandler},
	{"identity", "entrepot.identity.v1.LoginService", identityv1.RegisterLoginServiceHandler},
	{"identity", "entrepot.identity.v1.GroupService", identityv1.RegisterGroupServiceHandler},
	{"storage", "entrepot.storage.v1.StorageService", storagev1.RegisterStorageServiceHandler},
}

type api struct {
	channels channelsv1.ChannelServiceClient
	jobs     jobsv1.JobServiceClient
	logins   *edge.Logins
	uploads  *edge.Uploads
	files    *edge.Files
}

// New returns the API's table of routes.
func New(ctx context.Context, deps Deps) (*edge.Dialect, error) {
	gw := runtime.NewServeMux(edge.GatewayOptions(&edge.Marshaler{}, edge.WriteProblem)...)
	conns := map[string]*grpc.ClientConn{}
	var routes []edge.Route
	for _, s := range services {
		conn, err := deps.Dial(s.name)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", s.name, err)
		}
		conns[s.name] = conn
		if err := s.register(ctx, gw, conn); err != nil {
			return nil, fmt.Errorf("register %s: %w", s.name, err)
		}
		rs, err := restRoutes(s.file, jsonOnly(gw))
		if err != nil {
			return nil, err
		}
		routes = append(routes, rs...)
	}
	routes = mergeVerbs(routes)
	a := &api{
		channels: channelsv1.NewChannelServiceClient(conns["channels"]), jobs: jobsv1.NewJobServiceClient(conns["jobs"]),
		logins: deps.Logins, uploads: deps.Uploads, files: deps.Files,
	}
	openapi, err := description(deps.Version)
	if err != nil {
		return nil, err
	}
	raw := func(f func(http.ResponseWriter, *http.Request) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				edge.WriteProblem(w, r, err)
			}
		})
	}
	routes = append(routes,
		edge.Route{Method: "GET", Pattern: Prefix + "/login", Kind: edge.Raw, Summary: "the ways to log in", Handler: raw(a.providers)},
		edge.Route{Method: "POST", Pattern: Prefix + "/login", Kind: edge.Raw, Summary: "log in by password; the answer sets the cookie", Handler: raw(a.login)},
		edge.Route{Method: "POST", Pattern: Prefix + "/logout", Kind: edge.Raw, Summary: "end this login, or with everywhere all of one's own", Handler: raw(a.logout)},
		edge.Route{Method: "GET", Pattern: Prefix + "/jobs/{id}/events", Kind: edge.Raw, Summary: "follow a job, as an event stream", Handler: raw(a.jobEvents)},
		edge.Route{Method: "PUT", Pattern: Prefix + "/channels/{channel}/uploads/{filename}", Kind: edge.Bytes, Summary: "upload a package, body as is", Handler: raw(a.upload)},
		edge.Route{Method: "POST", Pattern: Prefix + "/channels/{channel}/imports", Kind: edge.Bytes, Summary: "publish a batch of packages with their records, as multipart/form-data", Handler: raw(a.imports)},
		edge.Route{Method: "GET", Pattern: Prefix + "/openapi.json", Kind: edge.Raw, Summary: "this API's description", Handler: serveJSON(openapi)},
		edge.Route{Method: "GET", Pattern: "/openapi.json", Kind: edge.Raw, Summary: "the description of every REST route", Handler: serveJSON(openapi)},
		edge.Route{Method: "GET", Pattern: "/", Kind: edge.Raw, Summary: "where to go from here", Handler: index(deps.Version)},
	)
	return &edge.Dialect{
		Name: "native", Prefixes: []string{Prefix}, Routes: routes, Error: edge.WriteProblem, StrictKeys: true,
		NoRoute: func(w http.ResponseWriter, r *http.Request, status int) {
			if status == http.StatusMethodNotAllowed {
				edge.WriteJSON(w, status, "application/problem+json", edge.Problem{
					Type: "about:blank", Title: http.StatusText(status), Status: status, RequestID: w.Header().Get("X-Request-Id"),
					Detail: "the path exists, but not for this method; the header Allow lists those that do",
				})
				return
			}
			edge.WriteProblem(w, r, fault.New(fault.NotFound, "no such path; %s/openapi.json lists all", Prefix))
		},
	}, nil
}

// restRoutes lists the HTTP bindings of a service's methods, so that the table, not a catch-all, decides what exists.
func restRoutes(service protoreflect.FullName, h http.Handler) ([]edge.Route, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", service, err)
	}
	var routes []edge.Route
	methods := d.(protoreflect.ServiceDescriptor).Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		access, _ := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
		switch {
		case rule == nil && (access.GetInternal() || m.IsStreamingServer()):
			continue
		case rule == nil:
			return nil, fmt.Errorf("%s has no REST form and is not internal", m.FullName())
		case access.GetInternal():
			return nil, fmt.Errorf("%s is internal and has a REST form", m.FullName())
		}
		method, path := binding(rule)
		routes = append(routes, edge.Route{Method: method, Pattern: muxPattern(path), Kind: edge.Proto, Summary: string(m.Name()) + verb(path), Handler: h})
	}
	return routes, nil
}

func binding(rule *annotations.HttpRule) (method, path string) {
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		return http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, p.Delete
	}
	return "", ""
}

// muxPattern turns an annotation's path into a pattern of net/http: `{path=**}` is the rest of the path, and a verb
// (`/{id}:cancel`) is part of the last segment, which grpc-gateway takes apart.
func muxPattern(path string) string {
	path = strings.ReplaceAll(path, "{path=**}", "{path...}")
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '}') && i > 0 {
		path = path[:i]
	}
	return path
}

// verb returns the verb of an annotation's path, as it is put behind the resource; empty for most.
func verb(path string) string {
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '}') && i > 0 {
		return " (" + path[i:] + ")"
	}
	return ""
}

// mergeVerbs leaves one route for the verbs of a path: POST /jobs/{id}:cancel and :retry are one pattern.
func mergeVerbs(routes []edge.Route) []edge.Route {
	seen := map[string]int{}
	out := routes[:0]
	for _, r := range routes {
		key := r.Method + " " + r.Pattern
		if i, ok := seen[key]; ok {
			out[i].Summary += ", " + r.Summary
			continue
		}
		seen[key] = len(out)
		out = append(out, r)
	}
	return out
}

func index(version string) http.Handler {
	body := []byte("Entrepot " + version + "\n\nREST   " + Prefix + "  (" + Prefix + "/openapi.json)\nQuetz  /api\nfiles  /channels/<channel>  /get/<channel>\n")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(body)
	})
}

func serveJSON(data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = w.Write(data)
	})
}
