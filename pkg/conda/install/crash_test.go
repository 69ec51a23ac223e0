package install

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
)

// copyPrefix copies a prefix; hard links into the cache become files, which makes no difference here.
func copyPrefix(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestACrashAtAnyStepIsRolledBackOrCompleted(t *testing.T) {
	w := newWorld(t)
	before, after := states(t, w.channel)
	w.mustInstall(before...)
	w.write("mine")("share/lib/my-own")
	was := snapshot(t, w.prefix)
	original := w.prefix + ".was"
	copyPrefix(t, w.prefix, original)

	var steps []string
	if _, err := w.install(after, func(o *Options) { o.hook = func(s string) error { steps = append(steps, s); return nil } }); err != nil {
		t.Fatal(err)
	}
	is := snapshot(t, w.prefix)
	if len(steps) < 40 {
		t.Fatalf("only %d steps: %v", len(steps), steps)
	}
	decided := false
	for n, name := range steps {
		if name == "committed" {
			decided = true
		}
		if err := os.RemoveAll(w.prefix); err != nil {
			t.Fatal(err)
		}
		copyPrefix(t, original, w.prefix)
		at := 0
		_, err := w.install(after, func(o *Options) {
			o.hook = func(string) error {
				if at++; at == n+1 {
					return errCrash
				}
				return nil
			}
		})
		if !errors.Is(err, errCrash) {
			t.Fatalf("step %d, %s: %v", n, name, err)
		}
		want, done := was, RolledBack
		if decided {
			want, done = is, Completed
			if name == "tidy" {
				done = NothingToRecover
			}
		}
		// Recovering may crash as well, at any of its steps, and again.
		for k := 0; ; k++ {
			got, rerr := recoverCrashing(t, w.prefix, k)
			if rerr == nil {
				if k == 0 && got != done {
					t.Errorf("step %d, %s: recovering says %q, want %q", n, name, got, done)
				}
				break
			}
			if !errors.Is(rerr, errCrash) {
				t.Fatalf("step %d, %s: recover: %v", n, name, rerr)
			}
		}
		if d := cmp.Diff(want, snapshot(t, w.prefix)); d != "" {
			t.Fatalf("step %d, %s: the prefix is neither as it was nor as it was to be (-want +got):\n%s", n, name, d)
		}
	}
}

// recoverCrashing recovers, and crashes at the k-th step from the end of what it did the last time: at the first, then at
// the second, and so on, until it comes through.
func recoverCrashing(t *testing.T, prefix string, k int) (Recovery, error) {
	t.Helper()
	at := 0
	o := &Options{NoSync: true, hook: func(string) error {
		if at++; at == k+1 && k < 3 || at == 5*k {
			return errCrash
		}
		return nil
	}}
	if k > 12 {
		o.hook = nil
	}
	x, err := open(t.Context(), prefix, o)
	if err != nil {
		return "", err
	}
	defer x.close()
	return x.recover()
}

func TestACrashInAFreshPrefixLeavesNothing(t *testing.T) {
	w := newWorld(t)
	before, _ := states(t, w.channel)
	n := 0
	if _, err := w.install(before, func(o *Options) {
		o.hook = func(s string) error {
			if n++; s == "staged" {
				return errCrash
			}
			return nil
		}
	}); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if !Interrupted(w.prefix) {
		t.Error("nobody would notice")
	}
	if _, err := Verify(t.Context(), w.prefix); err == nil {
		t.Error("verify took a torso for an environment")
	}
	got, err := Recover(t.Context(), w.prefix, nil)
	if err != nil || got != RolledBack {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := os.Lstat(w.prefix); !os.IsNotExist(err) {
		t.Errorf("the prefix is still there: %v", snapshot(t, w.prefix))
	}
}

func TestAFailureRestoresThePrefix(t *testing.T) {
	w := newWorld(t)
	before, after := states(t, w.channel)
	w.mustInstall(before...)
	was := snapshot(t, w.prefix)
	broken := errors.New("no space left")
	for _, at := range []string{"journal", "mkdir opt/thing", "make lib/lib.so", "staged"} {
		_, err := w.install(after, func(o *Options) {
			o.hook = func(s string) error {
				if s == at {
					return broken
				}
				return nil
			}
		})
		if !errors.Is(err, broken) {
			t.Fatalf("%s: %v", at, err)
		}
		if d := cmp.Diff(was, snapshot(t, w.prefix)); d != "" {
			t.Fatalf("%s: (-was +is)\n%s", at, d)
		}
	}
}

// The child process of the next test: it installs one state after the other until it is killed.
const childEnv = "ENTREPOT_INSTALL_CHILD"

func child() {
	parts := strings.Split(os.Getenv(childEnv), "\n")
	prefix, cache, lists := parts[0], parts[1], parts[2:]
	c, err := pkgcache.Open(cache, pkgcache.Options{NoSync: true})
	if err != nil {
		panic(err)
	}
	var sets [2][]Package
	for _, line := range lists {
		f := strings.Split(line, "\t")
		raw, err := os.ReadFile(f[3])
		if err != nil {
			panic(err)
		}
		r, err := ParseRecord(raw)
		if err != nil {
			panic(err)
		}
		p := r.Package()
		sets[f[0][0]-'0'] = append(sets[f[0][0]-'0'], p)
	}
	fmt.Println("ready")
	for n := 0; ; n++ {
		if _, err := Install(contextBackground(), prefix, sets[n%2], Options{Cache: c, Platform: platform, NoSync: true}); err != nil {
			fmt.Println("failed:", err)
			os.Exit(3)
		}
	}
}

func TestAKilledProcessLeavesAPrefixThatIsRightOrBecomesSo(t *testing.T) {
	w := newWorld(t)
	before, after := states(t, w.channel)
	// The two sets travel to the child as records.
	arg := []string{w.prefix, w.cache.Dir()}
	for n, set := range [][]Package{before, after} {
		if err := os.RemoveAll(w.prefix); err != nil {
			t.Fatal(err)
		}
		w.mustInstall(set...)
		records, err := Read(w.prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			name := filepath.Join(t.TempDir(), r.MetaName())
			data, err := r.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
			arg = append(arg, fmt.Sprintf("%d\t\t\t%s", n, name))
		}
	}
	good := map[string]map[string]string{}
	for _, set := range [][]Package{before, after} {
		w.mustInstall(set...)
		good[set[0].Version] = contents(snapshot(t, w.prefix))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	recovered := 0
	for range 25 {
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
		time.Sleep(time.Duration(rng.IntN(40_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 3 {
			t.Fatalf("the child ended by itself: %v", err)
		}
		how, err := Recover(t.Context(), w.prefix, nil)
		if err != nil {
			t.Fatal(err)
		}
		if how != NothingToRecover {
			recovered++
		}
		records, err := Read(w.prefix)
		if err != nil {
			t.Fatal(err)
		}
		version := ""
		for _, r := range records {
			if r.Name == "python" {
				version = r.Version
			}
		}
		if d := cmp.Diff(good[version], contents(snapshot(t, w.prefix))); version == "" || d != "" {
			t.Fatalf("python %q, %s: (-want +got)\n%s", version, how, d)
		}
		if problems, err := Verify(t.Context(), w.prefix); err != nil || len(problems) > 0 {
			t.Fatalf("%v %v", problems, err)
		}
	}
	t.Logf("%d of 25 kills came in the midst of a transaction", recovered)
	if recovered == 0 {
		t.Error("no kill came in the midst of a transaction, so nothing was shown")
	}
}

// contents leaves out what is another at each installation: the history, and records, which Verify compares.
func contents(m map[string]string) map[string]string {
	for name := range m {
		if strings.HasPrefix(name, metaDir+"/") {
			delete(m, name)
		}
	}
	return m
}
