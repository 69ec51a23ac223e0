package client

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/edgetest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a command line before a platform in memory.
type bundle struct {
	t    *testing.T
	edge *edgetest.Server
	env  map[string]string
	in   string
}

func setup(t *testing.T) *bundle {
	b := &bundle{t: t, edge: edgetest.New(t)}
	b.env = map[string]string{"ENTREPOT_SERVER": b.edge.URL, "ENTREPOT_API_KEY": edgetest.Key, "XDG_CONFIG_HOME": t.TempDir()}
	return b
}

// outcome is what a command left behind.
type outcome struct {
	code           int
	stdout, stderr string
	err            error
}

func (b *bundle) run(args ...string) outcome { return b.runContext(b.t.Context(), args...) }

func (b *bundle) runContext(ctx context.Context, args ...string) outcome {
	a := &app{
		version: "test", getenv: func(k string) string { return b.env[k] },
		now:     func() time.Time { return edgetest.Time },
		backoff: func(int) time.Duration { return time.Millisecond },
	}
	root := &cobra.Command{Use: "entrepot", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(a.commands()...)
	var stdout, stderr bytes.Buffer
	root.SetIn(strings.NewReader(b.in))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return outcome{codeOf(err), strings.ReplaceAll(stdout.String(), b.edge.URL, "http://SERVER"), strings.ReplaceAll(stderr.String(), b.edge.URL, "http://SERVER"), err}
}

// codeOf follows the table that docs/cli.md has and the program's main function keeps.
func codeOf(err error) int {
	var own interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return own.ExitCode()
	}
	return map[fault.Kind]int{fault.Invalid: 2, fault.Unauthenticated: 3, fault.Denied: 3, fault.NotFound: 4, fault.Unavailable: 5}[fault.KindOf(err)] + map[bool]int{true: 1}[!known(err)]
}

func known(err error) bool {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Unavailable:
		return true
	}
	return false
}

// ok runs a command that must succeed and returns its standard output.
func (b *bundle) ok(args ...string) string {
	b.t.Helper()
	o := b.run(args...)
	if o.err != nil {
		b.t.Fatalf("%v: %v\n%s", args, o.err, o.stderr)
	}
	return o.stdout
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// upstream serves a small channel under a name that does not change from run to run.
func upstream(t *testing.T) *sample.Upstream {
	u, err := sample.Serve(t.TempDir(), sample.Options{Packages: 12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

func TestEveryListAndShowHasThreeForms(t *testing.T) {
	b := setup(t)
	u := upstream(t)
	b.ok("channel", "create", "tools", "--private", "--description", "for the yard")
	b.ok("channel", "create", "forge", "--mirror", u.URL, "--removal", "prune", "--include", "tz,lib", "--exclude", "x-", "--subdir", "noarch", "--follow")
	b.ok("token", "create", "--description", "ci", "--expires", "90d", "--role", "member@channel/tools")
	for name, args := range map[string][]string{
		"channel_list": {"channel", "list"}, "channel_show": {"channel", "show", "forge"},
		"package_list": {"package", "list", "forge", "--query", "lib"},
		"job_list":     {"job", "list", "--state", "succeeded", "--channel", "forge"}, "job_show": {"job", "show", "1"},
		"token_list": {"token", "list"},
	} {
		for _, form := range formats {
			out := b.ok(append(args, "--output", form)...)
			golden(t, name+"."+form, strings.ReplaceAll(out, u.URL, "http://UPSTREAM"))
		}
	}
	if o := b.run("channel", "list", "-o", "xml"); o.code != 2 || !strings.Contains(o.err.Error(), "--output must be table, json, yaml") {
		t.Errorf("%+v", o)
	}
}

func TestTheHelpOfEveryCommandSaysWhatItDoes(t *testing.T) {
	a := &app{getenv: os.Getenv, now: time.Now}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.RunE == nil {
			t.Errorf("%s has no short help or does nothing", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range a.commands() {
		walk(c)
	}
}

func TestAMirrorIsMadeAndSyncedAndFollowed(t *testing.T) {
	b := setup(t)
	u := upstream(t)
	o := b.run("channel", "create", "forge", "--mirror", u.URL, "--follow")
	if o.code != 0 || !strings.Contains(o.stdout, "http://SERVER/channels/forge\nrevision 2: 12 added, 0 unchanged, 0 removed, 0 failed; ") {
		t.Errorf("%+v", o)
	}
	if !strings.Contains(o.stderr, "created mirror channel forge; anyone may read it") || strings.Contains(o.stderr, "\r") {
		t.Errorf("%q", o.stderr)
	}
	o = b.run("channel", "sync", "forge", "--output", "json")
	if o.code != 0 || !strings.Contains(o.stdout, `"state": "JOB_STATE_QUEUED"`) {
		t.Errorf("%+v", o)
	}
	b.ok("job", "follow", "2")
	b.ok("channel", "create", "later", "--mirror", u.URL, "--no-sync")
	if out := b.ok("job", "list"); strings.Contains(out, "channel/later") {
		t.Errorf("--no-sync started a sync:\n%s", out)
	}
}

func TestAStreamThatIsCutIsResumed(t *testing.T) {
	b := setup(t)
	b.edge.CutStream = 2
	if o := b.run("channel", "create", "forge", "--mirror", upstream(t).URL, "--follow"); o.code != 0 || !strings.Contains(o.stdout, "12 added") {
		t.Errorf("%+v", o)
	}
	// 12 files, two changes of state before and one after them, two events a stream: each one resumes where the last ended.
	want := []string{"1-2", "1-4", "1-6", "1-8", "1-10", "1-12", "1-14"}
	if d := cmp.Diff(want, b.edge.Resumed()); d != "" {
		t.Error(d)
	}
}

func TestFilesThatFailAreNamedAndMakeTheExitCodeOne(t *testing.T) {
	b := setup(t)
	u := upstream(t)
	spoilt, err := u.Corrupt(2)
	if err != nil {
		t.Fatal(err)
	}
	o := b.run("channel", "create", "forge", "--mirror", u.URL, "--follow")
	if o.code != 1 || o.err.Error() != "job 1 (sync.channel of channel/forge) ended, but 2 files could not be had" {
		t.Errorf("%+v", o)
	}
	for _, path := range spoilt {
		if !strings.Contains(o.stderr, "failed: "+path+": ") {
			t.Errorf("%s is not named in %s", path, o.stderr)
		}
	}
	b.edge.JobError = "the upstream is on fire"
	if o := b.run("channel", "sync", "forge", "--follow"); o.code != 1 || !strings.Contains(o.err.Error(), "failed: the upstream is on fire") {
		t.Errorf("%+v", o)
	}
}

func TestCtrlCLeavesTheJobRunning(t *testing.T) {
	b := setup(t)
	b.edge.Hold = make(chan struct{})
	b.ok("channel", "create", "forge", "--mirror", upstream(t).URL)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	o := b.runContext(ctx, "job", "follow", "1")
	if o.code != exitInterrupted || !strings.Contains(o.stderr, "the job goes on; follow it again with:  entrepot job follow 1") {
		t.Errorf("%+v", o)
	}
	if out := b.ok("job", "show", "1"); !strings.Contains(out, "queued") {
		t.Errorf("the job is not as it was:\n%s", out)
	}
	if o := b.run("job", "cancel", "1"); o.code != 0 || !strings.Contains(o.stderr, "job 1 is cancelled") {
		t.Errorf("%+v", o)
	}
	if o := b.run("job", "follow", "1"); o.code != 1 || !strings.Contains(o.err.Error(), "was cancelled") {
		t.Errorf("%+v", o)
	}
	close(b.edge.Hold)
}

func TestPackagesAreUploadedOnceAndByForceAgain(t *testing.T) {
	b := setup(t)
	u := upstream(t)
	b.ok("channel", "create", "tools")
	var paths []string
	for _, f := range u.Channel.Files[:3] {
		paths = append(paths, filepath.Join(u.Channel.Dir, f.Path))
	}
	o := b.run(append([]string{"package", "upload", "tools"}, paths...)...)
	if o.code != 0 || strings.Count(o.stdout, "uploaded") != 3 || !strings.Contains(o.stderr, "3 packages, ") {
		t.Errorf("%+v", o)
	}
	if out := b.ok("package", "upload", "tools", paths[0]); !strings.Contains(out, "already there") || !strings.Contains(out, u.Channel.Files[0].SHA256) {
		t.Errorf("%s", out)
	}
	// The same names with other bytes.
	other, err := sample.Build(t.TempDir(), sample.Options{Packages: 12, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(other.Dir, other.Files[0].Path)
	fresh := filepath.Join(u.Channel.Dir, u.Channel.Files[5].Path)
	o = b.run("package", "upload", "tools", changed, fresh)
	if o.code != 1 || !strings.Contains(o.stderr, "exists with other bytes") || !strings.Contains(o.stdout, filepath.Base(fresh)) {
		t.Errorf("one that fails must not stop the next: %+v", o)
	}
	if out := b.ok("package", "upload", "tools", "--force", changed); !strings.Contains(out, other.Files[0].SHA256) {
		t.Errorf("%s", out)
	}
	if o := b.run("package", "upload", "tools", fresh, "notes.txt"); o.code != 2 || !strings.Contains(o.err.Error(), "notes.txt is not named like a package") {
		t.Errorf("%+v", o)
	}
	if o := b.run("package", "upload", "nowhere", fresh); o.code != 4 {
		t.Errorf("%+v", o)
	}
}

func TestDeletingAsksUnlessToldNotTo(t *testing.T) {
	b := setup(t)
	b.ok("channel", "create", "tools")
	if o := b.run("channel", "delete", "tools"); o.code != 2 || !strings.Contains(o.err.Error(), "add --yes") || len(b.edge.Channels()) != 1 {
		t.Errorf("%+v", o)
	}
	b.ok("channel", "delete", "tools", "--yes")
	if len(b.edge.Channels()) != 0 {
		t.Error("it is still there")
	}
}

func TestErrorsNameTheFlagAndTheFix(t *testing.T) {
	b := setup(t)
	b.ok("channel", "create", "tools")
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"channel", "create", "a_b"}, 2, "create channel a_b: _ should not be used in channel name (NAME)"},
		{[]string{"channel", "create", "m", "--mirror", "gopher://x"}, 2, "create channel m: it must be an http or https URL (--mirror)"},
		{[]string{"channel", "create", "m", "--mirror", "http://x", "--removal", "burn"}, 2, "--removal must be keep or prune"},
		{[]string{"channel", "create", "m", "--include", "x"}, 2, "--include is about mirrors; name the upstream with --mirror URL"},
		{[]string{"channel", "create", "m", "--mirror", "http://x", "--no-sync", "--follow"}, 2, "--follow has nothing to show"},
		{[]string{"channel", "create", "tools"}, 1, "channel tools exists"},
		{[]string{"channel", "create"}, 2, "NAME is missing (see 'entrepot channel create --help')"},
		{[]string{"channel", "show", "a", "b"}, 2, `"b" is one argument too many`},
		{[]string{"channel", "frobnicate"}, 2, `there is no command "frobnicate" in 'entrepot channel'`},
		{[]string{"channel", "list", "--colour"}, 2, "unknown flag: --colour (see 'entrepot channel list --help')"},
		{[]string{"channel", "show", "nope"}, 4, "show channel nope: channel nope not found"},
		{[]string{"channel", "sync", "tools"}, 1, "channel tools is not a mirror"},
		{[]string{"channel", "sync", "tools", "--every", "1s"}, 2, "--every must be a minute or more"},
		{[]string{"job", "list", "--state", "asleep"}, 2, "--state must be scheduled, queued"},
		{[]string{"job", "follow", "99"}, 4, "job 99 not found"},
		{[]string{"token", "create", "--role", "king@channel/x"}, 2, "--role must be like member@channel/NAME"},
		{[]string{"token", "create", "--expires", "soon"}, 2, "--expires must be a time to come"},
		{[]string{"token", "create", "--expires", "2001-01-01"}, 2, "--expires must be a time to come"},
		{[]string{"token", "create", "--expires", "9999999w"}, 2, "--expires must be a time to come"},
		{[]string{"token", "revoke", "nope"}, 4, "revoke token nope: key nope not found"},
		{[]string{"channel", "list", "--server", "example.org"}, 2, "write it like http://127.0.0.1:8000"},
		{[]string{"channel", "list", "--server", "http://127.0.0.1:1"}, 5, "'entrepot serve' starts one here; --server or ENTREPOT_SERVER names another"},
		{[]string{"channel", "list", "--api-key-file", "/nonexistent"}, 2, "cannot read the key"},
	} {
		o := b.run(c.args...)
		if o.code != c.code || o.err == nil || !strings.Contains(o.err.Error(), c.said) {
			t.Errorf("%v: exit %d, want %d: %v\nwant: %s", c.args, o.code, c.code, o.err, c.said)
		}
		if o.stdout != "" {
			t.Errorf("%v: an error left %q on standard output", c.args, o.stdout)
		}
	}
	b.env["ENTREPOT_API_KEY"] = "wrong"
	if o := b.run("channel", "list"); o.code != 3 || !strings.Contains(o.err.Error(), "The key is unknown, expired or revoked") {
		t.Errorf("%+v", o)
	}
	b.env["ENTREPOT_API_KEY"] = ""
	if o := b.run("channel", "list"); o.code != 3 || !strings.Contains(o.err.Error(), "Log in with: entrepot login --server "+b.edge.URL) {
		t.Errorf("%+v", o)
	}
	b.env["ENTREPOT_API_KEY"] = "two\nlines"
	if o := b.run("channel", "list"); o.code != 2 {
		t.Errorf("%+v", o)
	}
}

func TestATokenIsShownAloneOnStandardOutput(t *testing.T) {
	b := setup(t)
	o := b.run("token", "create", "--expires", "2026-03-01")
	if o.stdout != "ek_0001_secret\n" || !strings.Contains(o.stderr, "expires 2026-03-02T00:00:00Z") {
		t.Errorf("%+v", o)
	}
	if out := b.ok("token", "create", "-o", "yaml"); !strings.Contains(out, "secret: ek_0002_secret") {
		t.Errorf("%s", out)
	}
	b.ok("token", "revoke", "ek_0001")
	if out := b.ok("token", "list"); strings.Contains(out, "ek_0001") || !strings.Contains(out, "ek_0002") {
		t.Errorf("%s", out)
	}
}
