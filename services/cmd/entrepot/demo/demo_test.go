package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/edgetest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a demo that starts a platform in memory.
type bundle struct {
	edge    *edgetest.Server
	started []StartOptions
	stopped int
	done    chan error
	opts    options
	stdout  bytes.Buffer
	stderr  bytes.Buffer
}

func setup(t *testing.T) *bundle {
	b := &bundle{edge: edgetest.New(t), done: make(chan error, 1)}
	env := map[string]string{"XDG_CONFIG_HOME": t.TempDir()}
	b.opts = options{getenv: func(k string) string { return env[k] }, settle: 50 * time.Millisecond, httpAddr: "127.0.0.1:0", packages: 20}
	t.Setenv("TMPDIR", t.TempDir())
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		left, err := os.ReadDir(os.TempDir())
		if err != nil || len(left) > 0 {
			t.Errorf("temporary files are left behind: %v %v", left, err)
		}
	})
	return b
}

func (b *bundle) start(_ context.Context, o StartOptions) (*Platform, error) {
	b.started = append(b.started, o)
	if err := os.WriteFile(filepath.Join(o.DataDir, "admin-key"), []byte(edgetest.Key), 0o600); err != nil {
		return nil, err
	}
	return &Platform{
		URL: b.edge.URL, AdminKey: edgetest.Key, Done: b.done,
		Stop: func(context.Context) error { b.stopped++; return nil },
	}, nil
}

// run runs the command and returns its exit code and error.
func (b *bundle) run(ctx context.Context, args ...string) (int, error) {
	c := command(b.start, b.opts)
	c.SetArgs(args)
	c.SetOut(&b.stdout)
	c.SetErr(&b.stderr)
	err := c.ExecuteContext(ctx)
	var coded *exitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &coded):
		return coded.code, err
	}
	return -1, err
}

func (b *bundle) lines() []string {
	return strings.FieldsFunc(b.stdout.String(), func(r rune) bool { return r == '\n' })
}

func TestARightPlatformPasses(t *testing.T) {
	b := setup(t)
	b.opts.packages = 0
	code, err := b.run(t.Context(), "--exit")
	if code != 0 || b.stdout.Len() != 0 {
		t.Fatalf("exit %d, %v\nstdout: %s\nstderr: %s", code, err, b.stdout.String(), b.stderr.String())
	}
	for _, want := range []string{"60 packages", "8 packages", "60 added", "Everything held", "packages/s"} {
		if !strings.Contains(b.stderr.String(), want) {
			t.Errorf("%q is not said in:\n%s", want, b.stderr.String())
		}
	}
	if strings.Contains(b.stderr.String(), edgetest.Key) {
		t.Error("the key is printed although nobody stays to use it")
	}
	if len(b.started) != 1 || b.stopped != 1 || !b.started[0].AllowLoopback || !b.started[0].Quiet {
		t.Errorf("started %+v, stopped %d times", b.started, b.stopped)
	}
	names := b.edge.Channels()
	slices.Sort(names)
	if d := cmp.Diff([]string{"demo-hosted", "demo-mirror"}, names); d != "" {
		t.Error(d)
	}
}

// The names must come from what the platform does, so they are compared with a second copy of the same upstream.
func TestSpoiltFilesAndNoOthersAreNamed(t *testing.T) {
	for _, n := range []int{1, 3, 7} {
		up, err := sample.Serve(t.TempDir(), sample.Options{Packages: 20})
		if err != nil {
			t.Fatal(err)
		}
		want, err := up.Corrupt(n)
		if err != nil {
			t.Fatal(err)
		}
		up.Close()
		b := setup(t)
		code, err := b.run(t.Context(), "--exit", "--corrupt", fmt.Sprint(n))
		if code != exitDiffers || err.Error() != "" {
			t.Fatalf("exit %d, %v\n%s", code, err, b.stderr.String())
		}
		if d := cmp.Diff(want, b.lines()); d != "" {
			t.Errorf("spoilt (-) and named (+):\n%s\n%s", d, b.stderr.String())
		}
	}
}

func TestAPlatformThatDoesWrongIsCaught(t *testing.T) {
	const victim = "noarch/tzdata-2025b-h1_0.conda"
	for name, c := range map[string]struct {
		corrupt int
		tamper  func(channel, path string, data []byte) []byte
		named   []string
		said    string
	}{
		"it serves other bytes of the same length": {
			tamper: func(channel, path string, data []byte) []byte {
				if channel == "demo-mirror" && path == victim {
					data = slices.Clone(data)
					data[len(data)/2] ^= 1
				}
				return data
			},
			named: []string{victim}, said: "serves other bytes: SHA-256",
		},
		"it serves half a file": {
			tamper: func(channel, path string, data []byte) []byte {
				if path == victim {
					data = data[:len(data)/2]
				}
				return data
			},
			named: []string{victim}, said: "bytes instead of",
		},
		"it lists what it does not serve": {
			tamper: func(_, path string, data []byte) []byte {
				if path == victim {
					return nil
				}
				return data
			},
			named: []string{victim}, said: "is not served",
		},
		"one of three indexes says other digests": {
			tamper: func(channel, path string, data []byte) []byte {
				if channel == "demo-mirror" && path == "noarch/repodata.json" {
					i := bytes.Index(data, []byte(`"tzdata-2025b-h1_0.conda"`))
					j := i + bytes.Index(data[i:], []byte(`"sha256":"`)) + len(`"sha256":"`)
					data = slices.Clone(data)
					copy(data[j:], "0000000000")
				}
				return data
			},
			named: []string{victim}, said: "noarch/repodata.json of demo-mirror says SHA-256",
		},
		"an index lists a file that is nobody's": {
			tamper: func(channel, path string, data []byte) []byte {
				if channel == "demo-mirror" && path == "noarch/repodata.json" {
					return bytes.Replace(data, []byte(`"packages.conda":{`), []byte(`"packages.conda":{"alien-1-0.conda":{"name":"alien","version":"1","build":"0","build_number":0,"depends":[]},`), 1)
				}
				return data
			},
			named: []string{"noarch/alien-1-0.conda"}, said: "where it does not belong",
		},
		"the shards are gone": {
			tamper: func(_, path string, data []byte) []byte {
				if path == "linux-64/repodata_shards.msgpack.zst" {
					return nil
				}
				return data
			},
			said: "linux-64/repodata_shards.msgpack.zst cannot be read",
		},
		"a spoilt file is served": {
			corrupt: 1,
			tamper: func(_, path string, data []byte) []byte {
				if data == nil && !strings.Contains(path, "repodata") {
					return []byte("spoilt")
				}
				return data
			},
			named: []string{"?"}, said: "although the sync refused it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.edge.Tamper = c.tamper
			code, _ := b.run(t.Context(), "--exit", "--corrupt", fmt.Sprint(c.corrupt))
			got := b.lines()
			if len(c.named) == 1 && c.named[0] == "?" && len(got) == 1 {
				got = c.named
			}
			if code != exitDiffers || !slices.Equal(got, c.named) || !strings.Contains(b.stderr.String(), c.said) {
				t.Errorf("exit %d, named %v\n%s", code, b.lines(), b.stderr.String())
			}
		})
	}
}

func TestADeadSyncIsAProblem(t *testing.T) {
	b := setup(t)
	b.edge.JobError = "the upstream is on fire"
	code, _ := b.run(t.Context(), "--exit")
	if code != exitDiffers || b.stdout.Len() > 0 || !strings.Contains(b.stderr.String(), "ended dead: the upstream is on fire") {
		t.Errorf("exit %d\n%s\n%s", code, b.stdout.String(), b.stderr.String())
	}
}

func TestWhatKeepsItFromStartingIsTwo(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for said, args := range map[string][]string{
		"is not empty":           {"--exit", "--data-dir", full},
		"not a directory":        {"--exit", "--data-dir", filepath.Join(full, "x")},
		"must not be negative":   {"--exit", "--corrupt", "-1"},
		"cannot spoil 21 of 20":  {"--exit", "--corrupt", "21"},
		"does not go with --up":  {"--exit", "--corrupt", "1", "--upstream", "http://x"},
		"does not go with --ser": {"--exit", "--server", "http://x", "--data-dir", "d"},
		"unknown flag":           {"--nonsense"},
		"lists no packages":      {"--exit", "--upstream", "http://UPSTREAM"},
	} {
		b := setup(t)
		empty := &http.Server{Handler: http.NotFoundHandler()}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go empty.Serve(l)
		for i := range args {
			args[i] = strings.Replace(args[i], "UPSTREAM", l.Addr().String(), 1)
		}
		if code, err := b.run(t.Context(), args...); code != exitNotStarted || !strings.Contains(err.Error(), said) {
			t.Errorf("%v: exit %d, %v", args, code, err)
		}
		empty.Close()
	}
	b := setup(t)
	c := command(func(context.Context, StartOptions) (*Platform, error) { return nil, errors.New("no PostgreSQL here") }, b.opts)
	c.SetArgs([]string{"--exit"})
	c.SetErr(&b.stderr)
	var coded *exitError
	if err := c.ExecuteContext(t.Context()); !errors.As(err, &coded) || coded.code != exitNotStarted || !strings.Contains(err.Error(), "no PostgreSQL here") {
		t.Error(err)
	}
}

func TestABusyPortMeansAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := setup(t)
	b.opts.httpAddr = l.Addr().String()
	if code, err := b.run(t.Context(), "--exit"); code != 0 {
		t.Fatal(err)
	}
	if b.started[0].HTTPAddr != "127.0.0.1:0" || !strings.Contains(b.stderr.String(), l.Addr().String()+" is taken") {
		t.Errorf("%+v\n%s", b.started, b.stderr.String())
	}
}

func TestAPlatformThatIsUpIsLeftAsItWas(t *testing.T) {
	b := setup(t)
	env := map[string]string{"ENTREPOT_API_KEY": edgetest.Key, "XDG_CONFIG_HOME": t.TempDir()}
	b.opts.getenv = func(k string) string { return env[k] }
	for _, args := range [][]string{{}, {"--corrupt", "2"}} {
		b.stdout.Reset()
		code, err := b.run(t.Context(), append([]string{"--exit", "--server", b.edge.URL}, args...)...)
		if want := len(args) / 2; code != want || len(b.lines()) != 2*want {
			t.Errorf("%v: exit %d, %v, named %v\n%s", args, code, err, b.lines(), b.stderr.String())
		}
		if len(b.edge.Channels()) != 0 || len(b.started) != 0 {
			t.Errorf("left behind %v; started %d", b.edge.Channels(), len(b.started))
		}
	}
	env["ENTREPOT_API_KEY"] = "wrong"
	if code, err := b.run(t.Context(), "--exit", "--server", b.edge.URL); code != exitNotStarted {
		t.Errorf("a wrong key: exit %d, %v", code, err)
	}
}

func TestAForeignUpstreamIsItsOwnYardstick(t *testing.T) {
	up, err := sample.Serve(t.TempDir(), sample.Options{Packages: 12})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	b := setup(t)
	if code, err := b.run(t.Context(), "--exit", "--upstream", up.URL+"/"); code != 0 || !strings.Contains(b.stderr.String(), "12 packages by its own index") {
		t.Errorf("exit %d, %v\n%s", code, err, b.stderr.String())
	}
	spoilt, err := up.Corrupt(2)
	if err != nil {
		t.Fatal(err)
	}
	b = setup(t)
	if code, _ := b.run(t.Context(), "--exit", "--upstream", up.URL); code != exitDiffers || !slices.Equal(b.lines(), spoilt) {
		t.Errorf("exit %d, named %v, want %v", code, b.lines(), spoilt)
	}
}

// waiter cancels when a text has been written.
type waiter struct {
	bytes.Buffer
	text string
	then func()
}

func (w *waiter) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.text) && w.then != nil {
		w.then()
		w.then = nil
	}
	return n, err
}

func TestItStaysUpUntilItIsInterruptedOrThePlatformEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := setup(t)
	for i, c := range []struct {
		then func()
		code int
		said string
	}{
		{cancel, 0, ""},
		{func() { b.done <- errors.New("the database is gone") }, exitDiffers, "the database is gone"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		w := &waiter{text: "Ctrl-C ends it", then: c.then}
		cmd := command(b.start, b.opts)
		cmd.SetErr(io.MultiWriter(w, &b.stderr))
		cmd.SetOut(&b.stdout)
		cmd.SetArgs([]string{"--data-dir", dir})
		if i > 0 {
			ctx = t.Context()
			b.edge = edgetest.New(t)
		}
		err := cmd.ExecuteContext(ctx)
		var coded *exitError
		code := 0
		if errors.As(err, &coded) {
			code = coded.code
		}
		if code != c.code || c.said != "" && !strings.Contains(err.Error(), c.said) {
			t.Errorf("exit %d, %v\n%s", code, err, w.String())
		}
		for _, want := range []string{"conda create", "pixi", b.edge.URL + "/channels/demo-mirror", "ENTREPOT_API_KEY=$(cat " + dir + "/admin-key)", "--data-dir " + dir} {
			if !strings.Contains(w.String(), want) {
				t.Errorf("%q is not said in:\n%s", want, w.String())
			}
		}
	}
	if strings.Contains(b.stderr.String(), edgetest.Key) {
		t.Error("the key itself is printed")
	}
	if b.stopped != 2 {
		t.Errorf("stopped %d times", b.stopped)
	}
}

func TestAnInterruptionEndsItEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := setup(t)
	b.edge.Hold = make(chan struct{})
	w := &waiter{text: "hosted ", then: cancel}
	cmd := command(b.start, b.opts)
	cmd.SetErr(w)
	cmd.SetArgs(nil)
	var coded *exitError
	if err := cmd.ExecuteContext(ctx); !errors.As(err, &coded) || coded.code != exitInterrupted || b.stopped != 1 {
		t.Errorf("%v, stopped %d\n%s", err, b.stopped, w.String())
	}
}
