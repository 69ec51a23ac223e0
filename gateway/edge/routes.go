package edge

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// RouteKind says how a route is made; design D12.
type RouteKind string

// The kinds of route.
const (
	// Proto routes come from a dialect's proto through grpc-gateway.
	Proto RouteKind = "proto"
	// Raw routes are handlers, because a proto cannot say what they take or answer.
	Raw RouteKind = "raw"
	// Bytes routes serve or take files; their paths are never rewritten.
	Bytes RouteKind = "bytes"
)

// Route is one line of a dialect's table. The router, the documentation and the tests read the same table.
type Route struct {
	// Method is GET, POST, …; GET answers HEAD too.
	Method string
	// Pattern is a path in net/http's form, without a trailing slash: /api/channels/{channel}.
	Pattern string
	// Kind says how it is made.
	Kind RouteKind
	// Summary says what it does, in a few words.
	Summary string
	// Handler answers it.
	Handler http.Handler
}

// Dialect is a family of routes that share the shape of their errors.
type Dialect struct {
	// Name of the dialect, such as quetz.
	Name string
	// Prefixes are the path prefixes that are its own, for answers to paths that no route takes.
	Prefixes []string
	// Routes is its table.
	Routes []Route
	// Error answers with an error in the dialect's shape.
	Error func(w http.ResponseWriter, r *http.Request, err error)
	// NoRoute answers a path that no route takes: status is 404, or 405 with Allow set.
	NoRoute func(w http.ResponseWriter, r *http.Request, status int)
	// StrictKeys answers 401 when the key that was sent is worthless, even where anyone may read. The Quetz dialect treats it as no login.
	StrictKeys bool
}

// router finds a request's dialect and route.
type router struct {
	mux      *http.ServeMux
	dialects []*Dialect
	owner    map[string]*Dialect // by pattern
	limiter  *Limiter            // nil: nobody is held back
}

// newRouter refuses tables that overlap, naming both routes.
func newRouter(dialects []*Dialect) (rt *router, err error) {
	rt = &router{mux: http.NewServeMux(), dialects: dialects, owner: map[string]*Dialect{}}
	defer func() {
		if p := recover(); p != nil { // how ServeMux says that two patterns conflict
			rt, err = nil, fmt.Errorf("routes overlap: %v", p)
		}
	}()
	taken := map[string]bool{}
	for _, d := range dialects {
		for _, route := range d.Routes {
			taken[route.Method+" "+route.Pattern] = true
		}
	}
	for _, d := range dialects {
		for _, route := range d.Routes {
			pattern := route.Method + " " + route.Pattern
			if strings.HasSuffix(route.Pattern, "/") && route.Pattern != "/" {
				return nil, fmt.Errorf("route %s of %s ends in a slash", pattern, d.Name)
			}
			if route.Pattern == "/" {
				pattern = route.Method + " /{$}"
			}
			handler := rt.limit(d, route, route.Handler)
			if route.Kind != Bytes {
				handler = boundBody(d, handler)
			}
			rt.mux.Handle(pattern, handler)
			rt.owner[pattern] = d
			if i := strings.LastIndex(pattern, "/{"); i > 0 && strings.HasSuffix(pattern, "...}") && !taken[pattern[:i]] {
				rt.mux.HandleFunc(pattern[:i], rt.miss) // or ServeMux would redirect to the path with a slash
			}
		}
	}
	rt.mux.HandleFunc("/", rt.miss)
	return rt, nil
}

// maxJSON bounds the body of every route that takes no bytes: it is held in memory before rights are known.
const maxJSON = 8 << 20

func boundBody(d *Dialect, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			limit := int64(maxJSON)
			if authn.FromContext(r.Context()).Anonymous() {
				limit = politeBody // nobody who is not known has that much to say
				if r.ContentLength > limit {
					d.Error(w, r, fault.New(fault.Unauthenticated, "Not logged in"))
					return
				}
			}
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		}
		next.ServeHTTP(w, r)
	})
}

// dialectOf returns the dialect whose prefix the path has, else the first.
func (rt *router) dialectOf(path string) *Dialect {
	for _, d := range rt.dialects {
		for _, p := range d.Prefixes {
			if path == p || strings.HasPrefix(path, p+"/") {
				return d
			}
		}
	}
	return rt.dialects[0]
}

// route answers r. The path has been cleaned of a trailing slash.
func (rt *router) route(w http.ResponseWriter, r *http.Request) { rt.mux.ServeHTTP(w, r) }

// miss answers what no route is for. It stands at the pattern that everything else comes before, so that a request is
// matched once.
func (rt *router) miss(w http.ResponseWriter, r *http.Request) {
	r.Pattern = "" // no route
	d := rt.dialectOf(r.URL.Path)
	rt.limit(d, Route{Kind: Raw}, http.HandlerFunc(rt.missed)).ServeHTTP(w, r)
}

func (rt *router) missed(w http.ResponseWriter, r *http.Request) {
	d := rt.dialectOf(r.URL.Path)
	if allow := rt.allowed(r); allow != "" {
		w.Header().Set("Allow", allow)
		d.NoRoute(w, r, http.StatusMethodNotAllowed)
		return
	}
	d.NoRoute(w, r, http.StatusNotFound)
}

// allowed lists the methods that the path has routes for.
func (rt *router) allowed(r *http.Request) string {
	var methods []string
	probe := r.Clone(r.Context())
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe.Method = m
		if _, pattern := rt.mux.Handler(probe); rt.owner[pattern] != nil {
			methods = append(methods, m)
		}
	}
	return strings.Join(methods, ", ")
}
