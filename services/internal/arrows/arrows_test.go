package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "github.com/entrepot-dev/entrepot/"

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// graph is every package that the workspace needs, by import path.
type graph map[string]*pkg

func load(t *testing.T) graph {
	t.Helper()
	repo, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports",
		"./proto/...", "./pkg/...", "./services/...", "./gateway/...")
	cmd.Dir = repo
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		g[p.ImportPath] = p
	}
	return g
}

// own lists our packages below a path, in order.
func (g graph) own(below string) (out []*pkg) {
	for path, p := range g {
		if within(path, below) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return out
}

func within(path, below string) bool {
	return path == root+below || strings.HasPrefix(path, root+below+"/")
}

// chain returns how a package comes to need one that bad says yes to: each imports the next. Nil if it does not.
func (g graph) chain(from string, bad func(string) bool) []string {
	type step struct {
		path string
		back *step
	}
	seen := map[string]bool{from: true}
	for queue := []*step{{path: from}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at.path != from && bad(at.path) {
			var out []string
			for s := at; s != nil; s = s.back {
				out = append([]string{strings.TrimPrefix(s.path, root)}, out...)
			}
			return out
		}
		if p := g[at.path]; p != nil {
			for _, next := range p.Imports {
				if !seen[next] {
					seen[next] = true
					queue = append(queue, &step{next, at})
				}
			}
		}
	}
	return nil
}

// forbid fails for every package below a path that needs, by whatever way, one that bad says yes to.
func (g graph) forbid(t *testing.T, below, why string, bad func(string) bool) {
	t.Helper()
	packages := g.own(below)
	if len(packages) == 0 {
		t.Errorf("there is no package below %s: is the rule still right?", below)
	}
	for _, p := range packages {
		if c := g.chain(p.ImportPath, bad); c != nil {
			t.Errorf("%s:\n  %s", why, strings.Join(c, "\n  → "))
		}
	}
}

func modules(names ...string) func(string) bool {
	return func(path string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return within(path, n) })
	}
}

// TestArrows: proto ← pkg ← services, gateway.
func TestArrows(t *testing.T) {
	g := load(t)
	g.forbid(t, "proto", "proto stands alone", modules("pkg", "services", "gateway"))
	g.forbid(t, "pkg", "pkg needs proto only", modules("services", "gateway"))
	g.forbid(t, "gateway", "the gateway reaches services by gRPC only", modules("services"))
	for _, p := range g.own("services") {
		if within(p.ImportPath, "services/cmd") {
			continue
		}
		if c := g.chain(p.ImportPath, modules("gateway")); c != nil {
			t.Errorf("only services/cmd knows the gateway:\n  %s", strings.Join(c, "\n  → "))
		}
	}
	// A service asks another by gRPC: that is what lets each run in a process of its own.
	for _, p := range g.own("services") {
		name, _, _ := strings.Cut(strings.TrimPrefix(p.ImportPath, root+"services/"), "/")
		if name == "cmd" || name == "internal" {
			continue
		}
		c := g.chain(p.ImportPath, func(path string) bool {
			return within(path, "services") && !within(path, "services/internal") && !within(path, "services/"+name)
		})
		if c != nil {
			t.Errorf("services do not import each other:\n  %s", strings.Join(c, "\n  → "))
		}
	}
}

// TestPureDomain: the domain packages may be imported by anyone; they bring no SQL, no bus and no gRPC.
func TestPureDomain(t *testing.T) {
	g := load(t)
	heavy := func(path string) bool {
		for _, p := range []string{
			"database/sql", "github.com/jackc/pgx/", "github.com/nats-io/", "google.golang.org/grpc", "github.com/minio/", "net/http",
			root + "proto/", root + "pkg/pg", root + "pkg/bus", root + "pkg/jobs", root + "pkg/rpc", root + "pkg/blob", root + "pkg/fetch", root + "pkg/config",
		} {
			if path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/") {
				return true
			}
		}
		return false
	}
	g.forbid(t, "pkg/conda", "pkg/conda is pure", heavy)
	g.forbid(t, "pkg/conda", "pkg/conda needs nothing of the platform", func(path string) bool {
		return strings.HasPrefix(path, root) && !within(path, "pkg/conda")
	})
	for _, later := range []string{"pkg/rpm", "pkg/mirror", "pkg/filerepo"} { // rules for when they come
		if len(g.own(later)) > 0 {
			g.forbid(t, later, later+" is pure", heavy)
		}
	}
}

// TestTestPackages: what is for tests does not get into programs. A test library once reached production binaries
// elsewhere through one import.
func TestTestPackages(t *testing.T) {
	g := load(t)
	forTests := func(path string) bool {
		if path == "testing" || strings.HasPrefix(path, "testing/") || strings.HasPrefix(path, "go.uber.org/goleak") || strings.HasPrefix(path, "pgregory.net/rapid") {
			return true
		}
		if !strings.HasPrefix(path, root) {
			return false
		}
		return isTestPackage(path)
	}
	found := 0
	for _, p := range g.own("services") {
		if isTestPackage(p.ImportPath) {
			found++
			continue
		}
		if c := g.chain(p.ImportPath, forTests); c != nil {
			t.Errorf("a program must not need what is for tests:\n  %s", strings.Join(c, "\n  → "))
		}
	}
	for _, module := range []string{"pkg", "gateway", "proto"} {
		for _, p := range g.own(module) {
			if isTestPackage(p.ImportPath) {
				found++
				continue
			}
			if c := g.chain(p.ImportPath, forTests); c != nil {
				t.Errorf("production code must not need what is for tests:\n  %s", strings.Join(c, "\n  → "))
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d test packages were found: is isTestPackage still right?", found)
	}
}

// isTestPackage goes by the names that style.md gives such packages: …test, and whatever is below one.
func isTestPackage(path string) bool {
	for _, element := range strings.Split(strings.TrimPrefix(path, root), "/") {
		if strings.HasSuffix(element, "test") {
			return true
		}
	}
	return false
}

// TestInProcessShortcuts: Register…HandlerServer would bypass the interceptors, and with them every check.
func TestInProcessShortcuts(t *testing.T) {
	g := load(t)
	shortcut := regexp.MustCompile(`Register[A-Za-z]+HandlerServer\(`)
	files := 0
	for _, module := range []string{"services", "gateway", "pkg"} {
		for _, p := range g.own(module) {
			for _, name := range p.GoFiles {
				data, err := os.ReadFile(filepath.Join(p.Dir, name))
				if err != nil {
					t.Fatal(err)
				}
				files++
				if shortcut.Match(data) {
					t.Errorf("%s/%s registers a service past its interceptors", p.ImportPath, name)
				}
			}
		}
	}
	if files < 100 {
		t.Errorf("only %d files were read", files)
	}
}
