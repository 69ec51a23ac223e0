package pkgcache

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// write makes a package file and returns the package.
func write(t testing.TB, dir, name, content string, files int) Package {
	t.Helper()
	var in []archive.Input
	for n := range files {
		in = append(in, archive.Input{Path: fmt.Sprintf("share/%s/%d", name, n), Data: []byte(content)})
	}
	in = append(in, archive.Input{Path: "bin/" + name, Data: []byte(content), Mode: 0o775})
	var buf bytes.Buffer
	d, err := archive.Create(t.Context(), &buf, dist.Conda, archive.Meta{Index: archive.Index{Name: name, Version: "1", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric}}, in, archive.CompressionLevel(1))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, content+"-"+d.Filename())
	if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	sum, m := sha256.Sum256(buf.Bytes()), md5.Sum(buf.Bytes())
	return Package{FileName: d.Filename(), URL: file, SHA256: hex.EncodeToString(sum[:]), MD5: hex.EncodeToString(m[:]), Size: int64(buf.Len()), Record: []byte(`{"name": "` + name + `", "depends": ["kept"]}`)}
}

func open(t testing.TB, dir string) *Cache {
	t.Helper()
	c, err := Open(dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// counting counts what is fetched.
type counting struct {
	Local
	n atomic.Int64
}

func (c *counting) Fetch(ctx context.Context, url string, size int64, sink Sink) error {
	c.n.Add(1)
	return c.Local.Fetch(ctx, url, size, sink)
}

func TestAPackageIsFetchedOnce(t *testing.T) {
	files := t.TempDir()
	list := []Package{write(t, files, "a", "one", 3), write(t, files, "b", "two", 3)}
	dir := t.TempDir()
	var events []string
	var mu sync.Mutex
	c, err := Open(dir, Options{Progress: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, fmt.Sprintf("%s %d", e.Package.FileName, e.What))
	}})
	if err != nil {
		t.Fatal(err)
	}
	src := &counting{}
	got, err := c.Ensure(t.Context(), src, list)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Dir != filepath.Join(dir, "a-1-0") || got[1].Fetched != list[1].Size {
		t.Errorf("%+v", got)
	}
	slices.Sort(events)
	if d := cmp.Diff([]string{"a-1-0.conda 1", "a-1-0.conda 2", "a-1-0.conda 3", "b-1-0.conda 1", "b-1-0.conda 2", "b-1-0.conda 3"}, events); d != "" {
		t.Error(d)
	}
	data, err := os.ReadFile(filepath.Join(dir, "a-1-0/info/repodata_record.json"))
	if err != nil {
		t.Fatal(err)
	}
	fields, err := object(data)
	if err != nil || string(fields["sha256"]) != `"`+list[0].SHA256+`"` || !strings.Contains(string(fields["depends"]), "kept") || string(fields["fn"]) != `"a-1-0.conda"` {
		t.Errorf("%v %s", err, data)
	}
	if st, err := os.Stat(filepath.Join(dir, "a-1-0/bin/a")); err != nil || st.Mode() != 0o775 {
		t.Errorf("%v %v", err, st.Mode())
	}
	if got, err = c.Ensure(t.Context(), src, list); err != nil || got[0].Fetched != 0 || src.n.Load() != 2 {
		t.Errorf("%v %+v, %d fetches", err, got, src.n.Load())
	}
	if left, err := os.ReadDir(filepath.Join(dir, workDir)); err != nil || len(left) != 2 { // the locks
		t.Errorf("%v %v", err, left)
	}
}

func TestNothingWrongGetsIn(t *testing.T) {
	files := t.TempDir()
	good := write(t, files, "a", "one", 1)
	data, err := os.ReadFile(good.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *Package){
		"another SHA-256": func(p *Package) { p.SHA256 = strings.Repeat("0", 64) },
		"another MD5":     func(p *Package) { p.SHA256, p.MD5 = "", strings.Repeat("0", 32) },
		"too long":        func(p *Package) { p.Size-- },
		"too short":       func(p *Package) { p.Size++ },
		"another name":    func(p *Package) { p.FileName = "b-1-0.conda" },
		"a path":          func(p *Package) { p.FileName = "../a-1-0.conda" },
		"not there":       func(p *Package) { p.URL += ".gone" },
		"not here":        func(p *Package) { p.URL = "https://host.invalid/a-1-0.conda" },
		"no record":       func(p *Package) { p.Record = []byte("[]") },
		"cut": func(p *Package) {
			p.URL, p.SHA256, p.MD5, p.Size = filepath.Join(files, "cut"), "", "", 0
			if err := os.WriteFile(p.URL, data[:len(data)-10], 0o644); err != nil {
				t.Fatal(err)
			}
		},
	} {
		p := good
		change(&p)
		dir := t.TempDir()
		c := open(t, dir)
		_, err := c.Ensure(t.Context(), Local{}, []Package{p})
		var own *Error
		if !errors.As(err, &own) || own.Package != p.FileName {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "[a-z]*")); err != nil || len(left) > 0 {
			t.Errorf("%s: %v %v", name, left, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, workDir)); err != nil || len(left) > 1 {
			t.Errorf("%s: %v %v", name, left, err)
		}
	}
}

func TestPackagesOfOneNameLieSideBySide(t *testing.T) {
	files := t.TempDir()
	one, two := write(t, files, "a", "one", 1), write(t, files, "a", "two", 1)
	c := open(t, t.TempDir())
	for range 2 {
		for _, p := range []Package{one, two} {
			got, err := c.Ensure(t.Context(), Local{}, []Package{p})
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(got[0].Dir, "bin/a"))
			if err != nil || !strings.HasPrefix(filepath.Base(p.URL), string(data)) {
				t.Errorf("%s holds %q, %v", got[0].Dir, data, err)
			}
		}
	}
	byMD5 := one
	byMD5.SHA256 = ""
	if got, err := c.Ensure(t.Context(), Local{}, []Package{byMD5}); err != nil || got[0].Dir == "" {
		t.Errorf("%v %v", got, err)
	}
}

func TestWhatIsBrokenIsReplaced(t *testing.T) {
	files := t.TempDir()
	p := write(t, files, "a", "one", 2)
	c := open(t, t.TempDir())
	got, err := c.Ensure(t.Context(), Local{}, []Package{p})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(got[0].Dir, "share/a/1")
	if err := os.WriteFile(name, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(&p); err == nil {
		t.Error("a changed file was not found")
	}
	if err := c.CheckOrRemove(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Lookup(&p); ok {
		t.Error("it is still there")
	}
	// A directory without a record is nobody's.
	if err := os.MkdirAll(filepath.Join(got[0].Dir, "junk"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ensure(t.Context(), Local{}, []Package{p}); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(&p); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(got[0].Dir, "junk")); err == nil {
		t.Error("junk is in the package")
	}
}

func TestACancelledEnsureLeavesNothingHalf(t *testing.T) {
	files := t.TempDir()
	p := write(t, files, "a", "one", 1)
	dir := t.TempDir()
	c := open(t, dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	src := sourceFunc(func(ctx context.Context, url string, size int64, sink Sink) error {
		cancel(enough)
		return Local{}.Fetch(ctx, url, size, sink)
	})
	if _, err := c.Ensure(ctx, src, []Package{p}); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	if _, ok := c.Lookup(&p); ok {
		t.Error("it is there")
	}
	// Whoever waits for another's lock can be called off, too.
	unlock, err := lockFile(t.Context(), filepath.Join(dir, workDir, "a-1-0.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, stop := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer stop()
	if _, err := c.Ensure(ctx, Local{}, []Package{p}); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

type sourceFunc func(ctx context.Context, url string, size int64, sink Sink) error

func (f sourceFunc) Fetch(ctx context.Context, url string, size int64, sink Sink) error {
	return f(ctx, url, size, sink)
}

const childEnv = "ENTREPOT_PKGCACHE_CHILD"

// child fills a cache and empties it again until it is killed.
func child() {
	parts := strings.Split(os.Getenv(childEnv), "\n")
	c, err := Open(parts[0], Options{NoSync: true})
	if err != nil {
		panic(err)
	}
	var list []Package
	for _, line := range parts[1:] {
		f := strings.Split(line, "\t")
		list = append(list, Package{FileName: f[0], URL: f[1], SHA256: f[2]})
	}
	fmt.Println("ready")
	for {
		if _, err := c.Ensure(context.Background(), Local{}, list); err != nil {
			fmt.Println("failed:", err)
			os.Exit(3)
		}
		for i := range list {
			if err := c.Remove(context.Background(), &list[i]); err != nil {
				fmt.Println("failed:", err)
				os.Exit(3)
			}
		}
	}
}

func TestProcessesShareACacheAndMayBeKilled(t *testing.T) {
	files, dir := t.TempDir(), t.TempDir()
	var list []Package
	arg := []string{dir}
	for n := range 4 {
		p := write(t, files, fmt.Sprintf("p%d", n), "content", 60)
		list = append(list, p)
		arg = append(arg, p.FileName+"\t"+p.URL+"\t"+p.SHA256)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(arg, "\n"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 64)
		if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "ready") {
			t.Fatalf("the child says %q", line[:n])
		}
		return cmd
	}
	for range 10 {
		cmd := start()
		time.Sleep(time.Duration(rng.IntN(30_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 3 {
			t.Fatalf("the child ended by itself: %v", err)
		}
		c := open(t, dir)
		// Whatever is there is whole, and what is missing can be had, while others want the same.
		for i := range list {
			if _, ok := c.Lookup(&list[i]); ok {
				if err := c.Check(&list[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := open(t, dir).Ensure(t.Context(), Local{}, list); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range list {
			if err := c.Check(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
		if rng.IntN(2) == 0 {
			for i := range list {
				if err := c.Remove(context.Background(), &list[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i := range list { // who comes next tidies up
		if err := open(t, dir).Remove(t.Context(), &list[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, dir).Ensure(t.Context(), Local{}, list); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, workDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range left {
		if !strings.HasSuffix(name, ".lock") {
			t.Errorf("%s was left by a process that died", name)
		}
	}
}
