// Package quetz serves the REST dialect of the Quetz conda server, so that its clients work unchanged.
//
// A route that takes one JSON object and answers one bounded JSON value stands in the dialect's proto
// (proto/entrepot/rest/quetz/v1) and is implemented in service.go; the others are handlers in the raw_*.go files:
// lists that are written as they stream, answers of `201 null`, PATCH bodies in which absent differs from null,
// uploads, cookies. Both kinds call the domain services as the caller, so every right is decided there.
//
// The order of checks is Quetz's: 404 for an unknown channel, then the right to read it (401, 403), then 405 if the
// channel's kind does not take the route, then the route's own right.
package quetz

import (
	"context"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// Deps are what the dialect stands on.
type Deps struct {
	Channels channelsv1.ChannelServiceClient
	Sync     syncv1.SyncServiceClient
	Jobs     jobsv1.JobServiceClient
	Metrics  metricsv1.MetricsServiceClient
	Identity identityv1.IdentityServiceClient
	// Self is a connection to the edge's own gRPC server, which serves quetzv1.QuetzService.
	Self *grpc.ClientConn
	// Files serves what channels hold.
	Files *edge.Files
	// Uploads takes the bytes of uploads.
	Uploads *edge.Uploads
	// Logins makes and ends logins by cookie.
	Logins *edge.Logins
	// PublicURL is where the edge is reached from outside; empty: what a request came to.
	PublicURL string
	// Dev turns on /api/dummylogin, which logs anyone in as anyone.
	Dev bool
	// Ready says whether the platform can do its work.
	Ready func(context.Context) bool
	// Database counts this process's connections to the database: how many there may be, and are in use. Nil: it has none.
	Database func() (size, used int)
}

type dialect struct{ Deps }

// New returns the dialect's table of routes.
func New(ctx context.Context, deps Deps) (*edge.Dialect, error) {
	d := &dialect{deps}
	gw := runtime.NewServeMux(edge.GatewayOptions(&edge.Marshaler{NullWhenEmpty: nullWhenEmpty}, writeError)...)
	if err := quetzv1.RegisterQuetzServiceHandler(ctx, gw, deps.Self); err != nil {
		return nil, err
	}
	proto := tolerantQuery(gw)
	count := &counters{database: deps.Database}
	raw := func(f func(http.ResponseWriter, *http.Request) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				writeError(w, r, err)
			}
		})
	}
	routes := []edge.Route{
		{Method: "GET", Pattern: "/api/channels", Kind: edge.Raw, Summary: "list channels", Handler: raw(d.listChannels)},
		{Method: "POST", Pattern: "/api/channels", Kind: edge.Raw, Summary: "create a channel", Handler: raw(d.createChannel)},
		{Method: "GET", Pattern: "/api/paginated/channels", Kind: edge.Proto, Summary: "page through channels", Handler: proto},
		{Method: "GET", Pattern: "/api/channels/{channel_name}", Kind: edge.Proto, Summary: "show a channel", Handler: raw(d.getChannel)},
		{Method: "PATCH", Pattern: "/api/channels/{channel}", Kind: edge.Raw, Summary: "change a channel's settings", Handler: raw(d.patchChannel)},
		{Method: "DELETE", Pattern: "/api/channels/{channel}", Kind: edge.Raw, Summary: "delete a channel", Handler: raw(d.deleteChannel)},
		{Method: "PUT", Pattern: "/api/channels/{channel_name}/actions", Kind: edge.Proto, Summary: "start an action", Handler: raw(d.readAction(gw))},
		{Method: "GET", Pattern: "/api/channels/{channel}/members", Kind: edge.Raw, Summary: "list members", Handler: raw(d.listMembers)},
		{Method: "POST", Pattern: "/api/channels/{channel}/members", Kind: edge.Raw, Summary: "add or change a member", Handler: raw(d.setMember)},
		{Method: "DELETE", Pattern: "/api/channels/{channel}/members", Kind: edge.Raw, Summary: "remove a member", Handler: raw(d.removeMember)},

		{Method: "GET", Pattern: "/api/channels/{channel}/mirrors", Kind: edge.Raw, Summary: "list registered mirrors", Handler: raw(d.listMirrors)},
		{Method: "POST", Pattern: "/api/channels/{channel}/mirrors", Kind: edge.Raw, Summary: "register a mirror", Handler: raw(d.registerMirror)},
		{Method: "DELETE", Pattern: "/api/channels/{channel}/mirrors/{id}", Kind: edge.Raw, Summary: "forget a registered mirror", Handler: raw(d.deleteMirror)},
		{Method: "GET", Pattern: "/api/channels/search", Kind: edge.Raw, Summary: "search channels", Handler: raw(d.searchChannels)},
		{Method: "GET", Pattern: "/api/packages/search", Kind: edge.Raw, Summary: "search packages of all channels", Handler: raw(d.searchPackages)},

		{Method: "POST", Pattern: "/api/channels/{channel}/packages", Kind: edge.Raw, Summary: "make a package without files", Handler: raw(d.createPackage)},
		{Method: "POST", Pattern: "/api/channels/{channel}/packages/copy", Kind: edge.Raw, Summary: "list another channel's file here too", Handler: raw(d.copyPackage)},
		{Method: "GET", Pattern: "/api/channels/{channel}/packages/{package}/members", Kind: edge.Raw, Summary: "list a package's members", Handler: raw(d.listPackageMembers)},
		{Method: "POST", Pattern: "/api/channels/{channel}/packages/{package}/members", Kind: edge.Raw, Summary: "add a member to a package", Handler: raw(d.addPackageMember)},
		{Method: "DELETE", Pattern: "/api/channels/{channel}/packages/{package}/members", Kind: edge.Raw, Summary: "remove a member of a package", Handler: raw(d.removePackageMember)},
		{Method: "GET", Pattern: "/api/channels/{channel}/packages", Kind: edge.Raw, Summary: "list packages", Handler: raw(d.listPackages)},
		{Method: "GET", Pattern: "/api/paginated/channels/{channel_name}/packages", Kind: edge.Proto, Summary: "page through packages", Handler: proto},
		{Method: "GET", Pattern: "/api/channels/{channel_name}/packages/{package_name}", Kind: edge.Proto, Summary: "show a package", Handler: proto},
		{Method: "DELETE", Pattern: "/api/channels/{channel}/packages/{package}", Kind: edge.Raw, Summary: "delete a package", Handler: raw(d.deletePackage)},
		{Method: "GET", Pattern: "/api/channels/{channel}/packages/{package}/versions", Kind: edge.Raw, Summary: "list a package's versions", Handler: raw(d.listVersions)},
		{Method: "GET", Pattern: "/api/paginated/channels/{channel}/packages/{package}/versions", Kind: edge.Raw, Summary: "page through a package's versions", Handler: raw(d.pageVersions)},
		{Method: "GET", Pattern: "/api/channels/{channel}/packages/{package}/versions/{platform}/{filename}", Kind: edge.Raw, Summary: "show a version", Handler: raw(d.getVersion)},
		{Method: "DELETE", Pattern: "/api/channels/{channel}/packages/{package}/versions/{platform}/{filename}", Kind: edge.Raw, Summary: "delete a version", Handler: raw(d.deleteVersion)},

		{Method: "POST", Pattern: "/api/channels/{channel}/upload/{filename}", Kind: edge.Bytes, Summary: "upload one package, body as is", Handler: raw(d.upload)},
		{Method: "POST", Pattern: "/api/channels/{channel}/files", Kind: edge.Bytes, Summary: "upload packages, multipart", Handler: raw(d.uploadForm)},
		{Method: "POST", Pattern: "/api/channels/{channel}/packages/{package}/files", Kind: edge.Bytes, Summary: "upload files of one package, multipart", Handler: raw(d.uploadForm)},

		{Method: "GET", Pattern: "/api/api-keys", Kind: edge.Raw, Summary: "list one's API keys", Handler: raw(d.listKeys)},
		{Method: "POST", Pattern: "/api/api-keys", Kind: edge.Raw, Summary: "make an API key", Handler: raw(d.createKey)},
		{Method: "DELETE", Pattern: "/api/api-keys/{key}", Kind: edge.Raw, Summary: "revoke an API key", Handler: raw(d.deleteKey)},
		{Method: "GET", Pattern: "/api/me", Kind: edge.Raw, Summary: "who am I", Handler: raw(d.me)},
		{Method: "GET", Pattern: "/api/users", Kind: edge.Raw, Summary: "list users", Handler: raw(d.listUsers)},
		{Method: "GET", Pattern: "/api/paginated/users", Kind: edge.Raw, Summary: "page through users", Handler: raw(d.pageUsers)},
		{Method: "GET", Pattern: "/api/users/{username}", Kind: edge.Raw, Summary: "show a user", Handler: raw(d.getUser)},
		{Method: "DELETE", Pattern: "/api/users/{username}", Kind: edge.Raw, Summary: "delete a user", Handler: raw(d.deleteUser)},
		{Method: "GET", Pattern: "/api/users/{username}/role", Kind: edge.Raw, Summary: "show a user's server role", Handler: raw(d.getRole)},
		{Method: "PUT", Pattern: "/api/users/{username}/role", Kind: edge.Raw, Summary: "change a user's server role", Handler: raw(d.setRole)},
		{Method: "GET", Pattern: "/api/users/{username}/channels", Kind: edge.Raw, Summary: "list a user's roles on channels", Handler: raw(listRoles(d, false, asChannelRole))},
		{Method: "GET", Pattern: "/api/users/{username}/packages", Kind: edge.Raw, Summary: "list a user's roles on packages", Handler: raw(listRoles(d, true, asPackageRole))},
		{Method: "GET", Pattern: "/api/paginated/users/{username}/channels", Kind: edge.Raw, Summary: "page through a user's roles on channels", Handler: raw(pageRoles(d, false, asChannelRole))},
		{Method: "GET", Pattern: "/api/paginated/users/{username}/packages", Kind: edge.Raw, Summary: "page through a user's roles on packages", Handler: raw(pageRoles(d, true, asPackageRole))},

		{Method: "GET", Pattern: "/api/jobs", Kind: edge.Raw, Summary: "page through jobs", Handler: raw(d.listJobs)},
		{Method: "POST", Pattern: "/api/jobs", Kind: edge.Raw, Summary: "start a built-in job", Handler: raw(d.createJob)},
		{Method: "GET", Pattern: "/api/jobs/{id}", Kind: edge.Raw, Summary: "show a job", Handler: raw(d.getJob)},
		{Method: "PATCH", Pattern: "/api/jobs/{id}", Kind: edge.Raw, Summary: "stop a job or run it again", Handler: raw(d.patchJob)},
		{Method: "GET", Pattern: "/api/jobs/{id}/tasks", Kind: edge.Raw, Summary: "page through a job's tasks", Handler: raw(d.listTasks)},

		{Method: "GET", Pattern: "/get/{channel}", Kind: edge.Bytes, Summary: "a channel's page", Handler: http.HandlerFunc(d.file)},
		{Method: "GET", Pattern: "/channels/{channel}", Kind: edge.Bytes, Summary: "a channel's page", Handler: http.HandlerFunc(d.file)},
		{Method: "GET", Pattern: "/get/{channel}/{path...}", Kind: edge.Bytes, Summary: "a channel's files", Handler: http.HandlerFunc(d.file)},
		{Method: "GET", Pattern: "/channels/{channel}/{path...}", Kind: edge.Bytes, Summary: "a channel's files", Handler: http.HandlerFunc(d.file)},
		{Method: "GET", Pattern: "/health/live", Kind: edge.Raw, Summary: "is the process alive", Handler: http.HandlerFunc(live)},
		{Method: "GET", Pattern: "/health/ready", Kind: edge.Raw, Summary: "can it do its work", Handler: http.HandlerFunc(d.ready)},
		{Method: "GET", Pattern: "/auth/logout", Kind: edge.Raw, Summary: "log out", Handler: raw(d.logout)},
		{Method: "GET", Pattern: "/auth/{provider}/login", Kind: edge.Raw, Summary: "begin a login", Handler: raw(d.beginLogin)},
		{Method: "GET", Pattern: "/auth/{provider}/enabled", Kind: edge.Raw, Summary: "is there such a login provider", Handler: raw(d.loginEnabled)},
		{Method: "GET", Pattern: "/auth/{provider}/authorize", Kind: edge.Raw, Summary: "end a login", Handler: raw(d.finishLogin)},
		{Method: "POST", Pattern: "/auth/{provider}/authorize", Kind: edge.Raw, Summary: "log in by a form", Handler: raw(d.formLogin)},
		{Method: "GET", Pattern: "/auth/{provider}/revoke", Kind: edge.Raw, Summary: "where to take back what was granted", Handler: raw(d.revokeLogin)},
		{Method: "GET", Pattern: "/metrics/channels/{channel}", Kind: edge.Raw, Summary: "downloads of a channel's files", Handler: raw(d.channelMetrics)},
		{Method: "GET", Pattern: "/metrics/channels/{channel}/packages/{package}/versions/{platform}/{filename}", Kind: edge.Raw, Summary: "downloads of a version", Handler: raw(d.versionMetrics)},
		{Method: "GET", Pattern: "/metricsp", Kind: edge.Raw, Summary: "request counters for Prometheus", Handler: raw(count.metricsp)},
	}
	if deps.Dev {
		routes = append(routes, edge.Route{
			Method: "GET", Pattern: "/api/dummylogin/{username}", Kind: edge.Raw,
			Summary: "development only: log in as anyone", Handler: raw(d.dummyLogin),
		})
	}
	for _, path := range []string{"/docs", "/redoc"} {
		all := routes
		routes = append(routes, edge.Route{Method: "GET", Pattern: path, Kind: edge.Raw, Summary: "this API for people", Handler: raw(docs(all))})
	}
	for i := range routes {
		routes[i] = count.count(routes[i])
	}
	return &edge.Dialect{
		Name: "quetz", Prefixes: []string{"/api", "/get", "/channels", "/auth", "/health", "/docs", "/redoc", "/metrics", "/metricsp"}, Routes: routes,
		Error: writeError, NoRoute: noRoute,
	}, nil
}

func live(w http.ResponseWriter, _ *http.Request) { writeHealth(w, http.StatusOK, "ok") }

func (d *dialect) ready(w http.ResponseWriter, r *http.Request) {
	if d.Ready != nil && !d.Ready(r.Context()) {
		writeHealth(w, http.StatusServiceUnavailable, "unavailable")
		return
	}
	writeHealth(w, http.StatusOK, "ok")
}

func writeHealth(w http.ResponseWriter, status int, text string) {
	edge.WriteJSON(w, status, "application/json", map[string]string{"component": "http-server", "status": text})
}
