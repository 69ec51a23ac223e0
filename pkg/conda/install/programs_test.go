package install

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

func TestScriptsRunWithWhatCondaPromises(t *testing.T) {
	w := newWorld(t)
	t.Setenv("SECRET_TOKEN", "hidden")
	dep := made{name: "dep", version: "1", files: []archive.Input{
		file("bin/.dep-post-link.sh", "echo dep >> $PREFIX/var/order\n"), file("bin/.dep-pre-link.sh", "test ! -e $SOURCE_DIR/bin/.dep-pre-link.sh && echo pre > $PREFIX/etc/pre\n"),
	}}.write(t, w.channel)
	p := made{name: "p", version: "2", depends: []string{"dep"}, files: []archive.Input{
		file("bin/.p-post-link.sh", "echo p >> $PREFIX/var/order\necho \"$PKG_NAME $PKG_VERSION $PKG_BUILDNUM $ROOT_PREFIX ${PATH%%:*} ${SECRET_TOKEN:-none}\" > $PREFIX/share/env\necho 'do this by hand' >> $PREFIX/.messages.txt\n"),
		file("bin/.p-pre-unlink.sh", "echo gone > $PREFIX/var/gone\nexit 1\n"),
	}}.write(t, w.channel)
	on := func(o *Options) { o.Scripts, o.Sandbox.Try = true, true }
	res, err := w.install([]Package{p, dep}, on)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"var/order": "dep\np\n", "etc/pre": "pre\n", "share/env": "p 2 0 " + w.prefix + " " + w.prefix + "/bin none\n",
	} {
		if got := read(t, filepath.Join(w.prefix, name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if d := cmp.Diff([]Warning{{"p-2-0", "do this by hand"}}, res.Messages); d != "" {
		t.Error(d)
	}
	if _, err := os.Lstat(filepath.Join(w.prefix, messagesFile)); err == nil {
		t.Error("the messages are still there")
	}
	w.warned = nil
	if _, err := w.install([]Package{dep}, on); err != nil {
		t.Fatalf("a failing pre-unlink script must only warn: %v", err)
	}
	if got := read(t, filepath.Join(w.prefix, "var/gone")); got != "gone\n" || len(w.warned) != 1 {
		t.Errorf("%q %q", got, w.warned)
	}
}

func TestAFailingPostLinkScriptFailsTheInstallation(t *testing.T) {
	w := newWorld(t)
	w.mustInstall()
	was := snapshot(t, w.prefix)
	p := made{name: "p", version: "1", files: []archive.Input{file("bin/.p-post-link.sh", "echo because >&2\nexit 3\n")}}.write(t, w.channel)
	var failed *ProgramError
	_, err := w.install([]Package{p}, func(o *Options) { o.Scripts, o.Sandbox.Try = true, true })
	if !errors.As(err, &failed) || !strings.Contains(failed.Output, "because") {
		t.Fatal(err)
	}
	if d := cmp.Diff(was, snapshot(t, w.prefix)); d != "" {
		t.Error(d)
	}
	slow := made{name: "slow", version: "1", files: []archive.Input{file("bin/.slow-post-link.sh", "sleep 60 & sleep 60\n")}}.write(t, w.channel)
	_, err = w.install([]Package{slow}, func(o *Options) { o.Scripts, o.Sandbox.Try, o.Sandbox.Timeout = true, true, 200*time.Millisecond })
	if !errors.Is(err, errTime) {
		t.Errorf("%v", err)
	}
}

func TestTheSandboxHidesFilesAndNetwork(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is a sandbox on Linux only")
	}
	probe := &program{args: []string{"/bin/true"}, dir: "/", pkg: "probe"}
	s := Sandbox{}
	if _, err := s.run(t.Context(), probe, func(string, string) {}); err != nil {
		t.Skipf("this machine grants no sandbox: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := made{name: "p", version: "1", files: []archive.Input{file("share/file", "original"), file("bin/.p-post-link.sh", strings.Join([]string{
		"cat " + secret + " > $PREFIX/var/stolen 2>/dev/null && exit 10",
		"echo x > " + secret + " 2>/dev/null && exit 11",
		"(exec 3<>/dev/tcp/127.0.0.1/" + port + ") 2>/dev/null && exit 12",
		"kill -0 " + strconv.Itoa(os.Getpid()) + " 2>/dev/null && exit 13",
		"ls " + filepath.Dir(secret) + " >/dev/null 2>&1 && exit 14",
		"echo scratch > $TMPDIR/x || exit 15",
		"echo changed > $PREFIX/share/file || exit 16",
		"exit 0",
	}, "\n"))}}.write(t, w.channel)
	if _, err := w.install([]Package{p}, func(o *Options) { o.Scripts, o.Sandbox = true, s }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(w.cache.Dir(), "p-1-0/share/file")); got != "original" {
		t.Errorf("the script wrote into the cache: %q", got)
	}
}

func TestByteCodeIsCompiledByTheEnvironmentsPython(t *testing.T) {
	real, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to stand for the environment's")
	}
	if real, err = filepath.EvalSymlinks(real); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(real, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
	if err != nil {
		t.Fatal(err)
	}
	v := strings.TrimSpace(string(out))
	if !strings.HasPrefix(real, "/usr/") {
		if alt := "/usr/bin/python3"; exec.Command(alt, "-c", "").Run() == nil {
			real = alt
			out, err := exec.Command(real, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
			if err != nil {
				t.Fatal(err)
			}
			v = strings.TrimSpace(string(out))
		}
	}
	w := newWorld(t)
	python := made{name: "python", version: v + ".0", files: []archive.Input{file("bin/python"+v, "#!/bin/sh\nexec "+real+" \"$*\"\n")}}
	python.files[0].Data = []byte("#!/bin/sh\nexec " + real + " \"$@\"\n")
	python.files[0].Placeholder = ""
	tool := made{name: "tool", version: "1", noarch: archive.NoarchPython, depends: []string{"python"}, files: []archive.Input{
		file("site-packages/tool/good.py", "x = 1\n"), file("site-packages/tool/bad.py", "def nonsense(\n"),
	}}
	set := []Package{python.write(t, w.channel), tool.write(t, w.channel)}
	sandbox := Sandbox{Off: !strings.HasPrefix(real, "/usr/"), Try: true}
	compile := func(mode PycMode) string {
		t.Helper()
		w.mustInstall()
		if _, err := w.install(set, func(o *Options) { o.Pyc, o.Sandbox = mode, sandbox }); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(w.prefix, "lib/python"+v+"/site-packages/tool/__pycache__")
		tag := ".cpython-" + strings.ReplaceAll(v, ".", "") + ".pyc"
		if _, err := os.Lstat(filepath.Join(dir, "bad"+tag)); err == nil {
			t.Error("nonsense was compiled")
		}
		return read(t, filepath.Join(dir, "good"+tag))
	}
	first := compile(PycUnchecked)
	if second := compile(PycUnchecked); first != second {
		t.Error("two runs made different bytes")
	}
	if flags := first[4]; flags != 1 { // PEP 552: hash-based, not checked
		t.Errorf("the flags are %d (%q)", flags, w.warned)
	}
	records, err := Read(w.prefix)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, p := range records[1].Paths {
		if p.Type == PycFile {
			listed = append(listed, filepath.Base(p.Path))
		}
	}
	if len(listed) != 1 {
		t.Errorf("the record lists %q", listed)
	}
	if stamped := compile(PycTimestamp); stamped[4] != 0 {
		t.Error("this is not byte code with a time stamp")
	}
	w.mustInstall(set[0])
	if _, err := os.Lstat(filepath.Join(w.prefix, "lib")); !os.IsNotExist(err) {
		t.Errorf("something of the package is left: %v", snapshot(t, w.prefix))
	}
}
