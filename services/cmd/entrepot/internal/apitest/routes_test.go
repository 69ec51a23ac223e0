package apitest

import (
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/gateway/edge"
)

// dialects returns the tables of routes of an edge that is never asked anything: its services are nowhere.
func dialects(t *testing.T, dev bool) []*edge.Dialect {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	g, err := gateway.New(t.Context(), gateway.Deps{Dial: func(string) (*grpc.ClientConn, error) { return conn, nil }, Dev: dev, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return g.Routes()
}

// routesOf returns a dialect's routes as `METHOD /pattern`.
func routesOf(t *testing.T, name string, dev bool) []edge.Route {
	t.Helper()
	for _, d := range dialects(t, dev) {
		if d.Name == name {
			return d.Routes
		}
	}
	t.Fatalf("there is no dialect %s", name)
	return nil
}

var update = flag.Bool("update", false, "write docs/routes.md anew")

// TestRoutesPage: docs/routes.md is the table of routes that the edge really has.
func TestRoutesPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Every REST route\n\n" +
		"This page is made from the tables that the edge routes by; `go test ./services/cmd/entrepot/internal/apitest -run RoutesPage -update` writes it.\n" +
		"*proto* routes come from a proto through grpc-gateway, *raw* ones are handlers, *bytes* serve or take files (design: [architecture.md](architecture.md)).\n" +
		"GET answers HEAD too. A trailing slash never matters but for *bytes*. Dialects share the root by this list; two that overlap do not start.\n\n" +
		"A key goes into `X-API-Key`, `Authorization: Bearer`, `Authorization: Basic` as the password, `/t/<key>` before any path, or `/get/t/<key>/…` and `/channels/t/<key>/…`.\n")
	for _, d := range dialects(t, true) {
		fmt.Fprintf(&b, "\n## %s\n\nPrefixes: `%s`\n\n| method | path | kind | |\n|---|---|---|---|\n", d.Name, strings.Join(d.Prefixes, "`, `"))
		routes := slices.Clone(d.Routes)
		slices.SortStableFunc(routes, func(a, b edge.Route) int {
			return cmp.Or(strings.Compare(a.Pattern, b.Pattern), strings.Compare(a.Method, b.Method))
		})
		for _, r := range routes {
			if r.Summary == "" {
				t.Errorf("%s %s says nothing about itself", r.Method, r.Pattern)
			}
			fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", r.Method, r.Pattern, r.Kind, r.Summary)
		}
	}
	b.WriteString("\nOn the operations port there are `/healthz/live`, `/healthz/ready`, `/metrics` and `/debug/pprof/`; see [operations.md](operations.md).\n")
	path := filepath.Join(repository(t), "docs", "routes.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(readFile(t, path)); got != b.String() {
		t.Errorf("docs/routes.md is not what the edge has: run with -update")
	}
}

// TestOverlap: two dialects that want the same path do not start, and the error names both.
func TestOverlap(t *testing.T) {
	h := http.NotFoundHandler()
	one := &edge.Dialect{Name: "one", Routes: []edge.Route{{Method: "GET", Pattern: "/a/{x}", Handler: h}}}
	for name, pattern := range map[string]string{"equal": "/a/{x}", "another variable": "/a/{y}"} {
		_, err := edge.New(nil, one, &edge.Dialect{Name: "two", Routes: []edge.Route{{Method: "GET", Pattern: pattern, Handler: h}}})
		if err == nil || !strings.Contains(err.Error(), "/a/{x}") || !strings.Contains(err.Error(), pattern) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := edge.New(nil, &edge.Dialect{Name: "slash", Routes: []edge.Route{{Method: "GET", Pattern: "/a/", Handler: h}}}); err == nil {
		t.Error("a pattern with a trailing slash is taken")
	}
}

// TestDocs: paths of this repository that documents name exist, and so do the pages they link to.
func TestDocs(t *testing.T) {
	root := repository(t)
	quoted := regexp.MustCompile("`((?:docs|pkg|services|gateway|proto|scripts|deploy|examples|e2e)/[A-Za-z0-9_./-]*)`")
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	pages, checked := 0, 0
	check := func(page, path string) {
		checked++
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s names %s, which does not exist", strings.TrimPrefix(page, root+"/"), strings.TrimPrefix(path, root+"/"))
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "node_modules" || d.Name() == "third_party") && path != root {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		pages++
		text := string(readFile(t, path))
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "NNNN") { // a pattern, not a name
				continue
			}
			check(path, filepath.Join(root, m[1]))
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			check(path, filepath.Join(filepath.Dir(path), m[1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 5 || checked < 10 {
		t.Errorf("only %d pages and %d paths were looked at", pages, checked)
	}
}
