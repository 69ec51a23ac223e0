package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// needSandbox skips a test where this machine grants no full sandbox; what is done then is tested as well.
func needSandbox(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("there is a sandbox on Linux only")
	}
	s := Sandbox{}
	if _, err := s.run(t.Context(), &program{args: []string{"/bin/true"}, dir: "/", pkg: "probe"}, func(string, string) {}); err != nil {
		t.Skipf("this machine grants no full sandbox: %v", err)
	}
}

// script is a package with nothing but a post-link script.
func script(name, text string) made {
	return made{name: name, version: "1", files: []archive.Input{file("bin/."+name+"-post-link.sh", text)}}
}

func TestAScriptCannotTouchTheRecords(t *testing.T) {
	needSandbox(t)
	w := newWorld(t)
	w.mustInstall(made{name: "first", version: "1", files: []archive.Input{file("share/first", "1")}}.write(t, w.channel))
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	history := read(t, filepath.Join(w.prefix, "conda-meta/history"))
	meta := "$PREFIX/conda-meta"
	evil := script("evil", strings.Join([]string{
		"echo forged > " + meta + "/history && exit 10",
		"ln -s " + victim + " " + meta + "/.transaction/meta/history && exit 11",
		"touch " + meta + "/.transaction/commit && exit 12",
		"mv " + meta + " $PREFIX/share/was && exit 13",
		"ln " + meta + "/history $PREFIX/share/h && exit 14",
		"rm " + meta + "/first-1-0.json && exit 15",
		"rm -rf " + meta + "/.transaction/old; test -d " + meta + "/.transaction/old && echo top > $PREFIX/new-at-the-top && exit 16",
		"exit 0",
	}, "\n")).write(t, w.channel)
	first := made{name: "first", version: "2", files: []archive.Input{file("share/first", "2")}}.write(t, w.channel)
	if _, err := w.install([]Package{first, evil}, func(o *Options) { o.Scripts = true }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, victim); got != "mine\n" {
		t.Errorf("the script had %q written to a file outside", got)
	}
	if got := read(t, filepath.Join(w.prefix, "conda-meta/history")); !strings.HasPrefix(got, history) || strings.Contains(got, "forged") {
		t.Errorf("the history is %q", got)
	}
	for _, d := range usualDirs {
		if d != "bin" && d != "share" {
			if _, err := os.Lstat(filepath.Join(w.prefix, d)); err == nil {
				t.Errorf("%s was made for the script, and is left although it is empty", d)
			}
		}
	}
}

// Without Landlock a script may write anywhere, and still must not make this process do it.
func TestATransactionFollowsNoLinksThatAScriptMade(t *testing.T) {
	for name, text := range map[string]string{
		"history":     "ln -s %s $PREFIX/conda-meta/.transaction/meta/history",
		"a record":    "ln -s %s $PREFIX/conda-meta/.transaction/meta/evil-1-0.json",
		"the commit":  "ln -s %s $PREFIX/conda-meta/.transaction/commit",
		"the records": "mv $PREFIX/conda-meta/.transaction/meta $PREFIX/x && ln -s $(dirname %s) $PREFIX/conda-meta/.transaction/meta",
		"cache tag":   "ln -s %s $PREFIX/CACHEDIR.TAG",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			if err := os.WriteFile(victim, []byte("mine\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			evil := script("evil", fmt.Sprintf(text, victim)+"\n").write(t, w.channel)
			_, _ = w.install([]Package{evil}, func(o *Options) { o.Scripts, o.Sandbox.Off = true, true })
			if d := cmp.Diff(map[string]string{"victim": "-rw-r--r-- mine\n"}, snapshot(t, outside)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestAScriptCannotWriteIntoTheCacheThroughFilesThatWereThere(t *testing.T) {
	w := newWorld(t)
	kept := made{name: "kept", version: "1", files: []archive.Input{file("share/kept", "original\n")}}.write(t, w.channel)
	goes := made{name: "goes", version: "1", files: []archive.Input{file("share/goes", "original\n"), file("bin/.goes-pre-unlink.sh", "chmod u+w $PREFIX/share/*; echo evil >> $PREFIX/share/goes\n")}}.write(t, w.channel)
	w.mustInstall(kept, goes)
	evil := script("evil", "chmod 666 $PREFIX/share/kept && echo evil >> $PREFIX/share/kept\n").write(t, w.channel)
	if _, err := w.install([]Package{kept, evil}, func(o *Options) { o.Scripts, o.Sandbox.Try = true, true }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(w.prefix, "share/kept")); got != "original\nevil\n" {
		t.Errorf("the script did not run: %q", got)
	}
	for _, f := range []string{"kept-1-0/share/kept", "goes-1-0/share/goes"} {
		if got := read(t, filepath.Join(w.cache.Dir(), f)); got != "original\n" {
			t.Errorf("%s in the cache is %q", f, got)
		}
	}
}

func TestALinkedCondaMetaIsRefused(t *testing.T) {
	w := newWorld(t)
	elsewhere := t.TempDir()
	if err := errors.Join(os.Mkdir(w.prefix, 0o755), os.Symlink(elsewhere, filepath.Join(w.prefix, "conda-meta"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p := made{name: "p", version: "1", files: []archive.Input{file("share/x", "p")}}.write(t, w.channel)
	for what, f := range map[string]func() error{
		"install": func() error { _, err := Install(ctx, w.prefix, []Package{p}, w.options()); return err },
		"recover": func() error { _, err := Recover(ctx, w.prefix, nil); return err },
	} {
		if err := f(); !errors.As(err, new(*MetaLinkError)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if d := cmp.Diff(map[string]string{}, snapshot(t, elsewhere)); d != "" {
		t.Error(d)
	}
}

func TestACancelledInstallationDoesNotWaitForTheLock(t *testing.T) {
	w := newWorld(t)
	w.mustInstall()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := Recover(ctx, w.prefix, nil); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func TestARefusedInstallationLeavesNoEmptyDirectory(t *testing.T) {
	w := newWorld(t)
	w.write("mine")("share/x")
	was := snapshot(t, w.prefix)
	p := made{name: "p", version: "1", files: []archive.Input{file("share/x", "p")}}.write(t, w.channel)
	if _, err := w.install([]Package{p}); !errors.As(err, new(*ForeignError)) {
		t.Fatal(err)
	}
	if d := cmp.Diff(was, snapshot(t, w.prefix)); d != "" {
		t.Error(d)
	}
	// Nor does one that crashed and is recovered.
	if _, err := w.install([]Package{p}, func(o *Options) {
		o.Foreign, o.hook = Warn, func(s string) error {
			if s == "staged" {
				return errCrash
			}
			return nil
		}
	}); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if how, err := Recover(t.Context(), w.prefix, nil); err != nil || how != RolledBack {
		t.Fatal(how, err)
	}
	if d := cmp.Diff(was, snapshot(t, w.prefix)); d != "" {
		t.Error(d)
	}
}

func TestRecoveryKeepsWhatAPersonMadeSince(t *testing.T) {
	crash := func(at string) func(*Options) {
		return func(o *Options) {
			o.hook = func(s string) error {
				if s == at {
					return errCrash
				}
				return nil
			}
		}
	}
	p := func(v string) made {
		return made{name: "p", version: v, files: []archive.Input{file("share/both", "package "+v), file("share/new-"+v, v), file("share/text-"+v, "@"), symlink("share/link-"+v, "both")}}
	}
	for _, at := range []string{"journal", "set aside share/both", "staged"} {
		t.Run("at "+at, func(t *testing.T) {
			w := newWorld(t)
			w.mustInstall(p("1").write(t, w.channel))
			was := snapshot(t, w.prefix)
			if _, err := w.install([]Package{p("2").write(t, w.channel)}, crash(at)); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			// A person does the installation by hand.
			for _, f := range []string{"share/both", "share/new-2"} {
				_ = os.Remove(filepath.Join(w.prefix, f))
				w.write("precious")(f)
			}
			var warned []string
			how, err := Recover(t.Context(), w.prefix, func(x Warning) { warned = append(warned, x.Msg) })
			if err != nil || how != RolledBack {
				t.Fatal(how, err)
			}
			got := snapshot(t, w.prefix)
			want := map[string]string{}
			for k, v := range was {
				want[k] = v
			}
			want["share/new-2"] = "-rw-r--r-- precious"
			if at == "journal" { // the package's own file was still there when it was edited
				want["share/both"] = "-rw-r--r-- precious"
			} else {
				want["__foreign__"], want["__foreign__/share"], want["__foreign__/share/both"] = "directory", "directory", "-rw-r--r-- precious"
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if n := map[bool]int{true: 1, false: 2}[at == "journal"]; len(warned) != n {
				t.Errorf("%d warnings: %q", len(warned), warned)
			}
		})
	}
}

func TestAPackageCannotHaveFilesWhereOthersAreSetAside(t *testing.T) {
	for _, dir := range []string{"__clobbers__", "__Clobbers__", "__foreign__"} {
		w := newWorld(t)
		p := made{name: "p", version: "1", files: []archive.Input{file(dir+"/z/share/z", "p")}}.write(t, w.channel)
		if _, err := w.install([]Package{p}); !errors.As(err, new(*link.Error)) {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := os.Lstat(w.prefix); !errors.Is(err, fs.ErrNotExist) {
			t.Error("the prefix is there")
		}
	}
}

func TestLinksOfSeveralPackagesDoNotLeadOutTogether(t *testing.T) {
	up := made{name: "a", version: "1", files: []archive.Input{symlink("deep/up", "..")}}
	out := made{name: "b", version: "1", files: []archive.Input{symlink("deep/z", "up/../x")}}
	w := newWorld(t)
	a, b := up.write(t, w.channel), out.write(t, w.channel)
	var no *EscapeError
	if _, err := w.install([]Package{a, b}); !errors.As(err, &no) || no.Path != "deep/z" {
		t.Errorf("both at once: %v", err)
	}
	for _, first := range []Package{a, b} { // each alone is harmless
		if err := os.RemoveAll(w.prefix); err != nil {
			t.Fatal(err)
		}
		w.mustInstall(first)
		if _, err := w.install([]Package{a, b}); !errors.As(err, &no) || no.Path != "deep/z" {
			t.Errorf("%s first: %v", first.Name, err)
		}
	}
	if _, err := w.install([]Package{a, b}, func(o *Options) { o.Escapes = Warn }); err != nil {
		t.Error(err)
	}
	w.mustInstall(a, b, made{name: "c", version: "1", files: []archive.Input{file("x", "")}}.write(t, w.channel)) // what was accepted stays so
}

func TestALinkOutOfTheEnvironmentIsNamed(t *testing.T) {
	w := newWorld(t)
	w.mustInstall()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(w.prefix, "share")); err != nil {
		t.Fatal(err)
	}
	p := made{name: "p", version: "1", files: []archive.Input{file("share/deep/x", "p")}}.write(t, w.channel)
	_, err := w.install([]Package{p})
	var no *OutsideError
	if !errors.As(err, &no) {
		t.Fatal(err)
	}
	if d := cmp.Diff(&OutsideError{w.prefix, "share", outside}, no); d != "" {
		t.Error(d)
	}
}
