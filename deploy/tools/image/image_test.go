package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program builds a static binary that does nothing.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src, exe := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", exe, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return exe
}

func TestTheSameBinaryGivesTheSameBytes(t *testing.T) {
	o := options{binary: program(t), arch: "amd64", version: "v1.2.3"}
	one, two := t.TempDir(), t.TempDir()
	a, err := write(o, "entrepot:test", one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := write(o, "entrepot:test", two)
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("digests %v and %v", a, b)
	}
	if out, err := exec.Command("diff", "-r", one, two).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// Writing again replaces what is there.
	if _, err := write(o, "entrepot:test", one); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("diff", "-r", one, two).CombinedOutput(); err != nil {
		t.Errorf("the second time: %v\n%s", err, out)
	}
}

func TestBothFormsAreWholeImages(t *testing.T) {
	dir := t.TempDir()
	digest, err := write(options{binary: program(t), arch: "arm64", version: "v1.2.3"}, "entrepot:test", dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.ImageFromPath(filepath.Join(dir, "entrepot-image.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(loaded); err != nil {
		t.Error(err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(dir, "entrepot-oci"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	img, err := index.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(cfg.OS, "/", cfg.Architecture, " ", cfg.Created.Unix()), "linux/arm64 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTheFilesBelongToWhoMayWriteThem(t *testing.T) {
	layer, err := rootfs(program(t))
	if err != nil {
		t.Fatal(err)
	}
	r, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = fmt.Sprintf("%o %d:%d %d", h.Mode, h.Uid, h.Gid, h.ModTime.Unix())
	}
	want := map[string]string{
		"entrepot": "755 0:0 0", "etc/": "755 0:0 0", "etc/group": "644 0:0 0", "etc/passwd": "644 0:0 0",
		"etc/ssl/": "755 0:0 0", "etc/ssl/certs/": "755 0:0 0", "etc/ssl/certs/ca-certificates.crt": "644 0:0 0",
		"keys/": "700 65532:65532 0", "tmp/": "1777 0:0 0", "var/": "755 0:0 0", "var/lib/": "755 0:0 0",
		"var/lib/entrepot/": "711 65532:65532 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(string(authorities()), "BEGIN CERTIFICATE"); n < 80 {
		t.Errorf("only %d certificate authorities", n)
	}
}

func TestABinaryThatNeedsALoaderIsRefused(t *testing.T) {
	// A source file is no binary at all.
	if _, err := rootfs("main.go"); err == nil || !strings.Contains(err.Error(), "not a Linux binary") {
		t.Errorf("a source file: %v", err)
	}
	// The shell of a distribution is linked dynamically.
	if _, err := rootfs("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("/bin/sh: %v", err)
	}
}

// The Dockerfile is for people; what it says must not drift from what is built here.
func TestTheDockerfileSaysTheSame(t *testing.T) {
	data, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	img, err := build(options{binary: program(t), arch: "amd64", version: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range cfg.Config.Env {
		if !regexp.MustCompile(`(?m)(^ENV |^ {4})` + regexp.QuoteMeta(env) + `( \\)?$`).MatchString(text) {
			t.Errorf("the Dockerfile does not set %s", env)
		}
	}
	h := cfg.Config.Healthcheck
	for _, line := range []string{
		"USER " + cfg.Config.User,
		fmt.Sprintf(`ENTRYPOINT [%q]`, cfg.Config.Entrypoint[0]),
		fmt.Sprintf(`CMD [%q]`, cfg.Config.Cmd[0]),
		fmt.Sprintf(`HEALTHCHECK --interval=%s --timeout=%s --start-period=%s --retries=%d CMD [%q, %q]`, h.Interval, h.Timeout, h.StartPeriod, h.Retries, h.Test[1], h.Test[2]),
		"EXPOSE 8000 9090 9091 9092 9100",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the Dockerfile lacks %q", line)
		}
	}
	if len(cfg.Config.ExposedPorts) != 5 {
		t.Errorf("%d ports", len(cfg.Config.ExposedPorts))
	}
}
