package activate

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// environment makes a prefix with files.
func environment(t *testing.T, name string, files map[string]string) *Environment {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Join(dir, "conda-meta"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	e, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const awkward = "a 'quoted' \"value\" $HOME `id` \\ \n second line"

func sample(t *testing.T) *Environment {
	return environment(t, "my env", map[string]string{
		"etc/conda/env_vars.d/a.json": `{"FIRST": "a", "SECOND": "a", "NUMBER": 3, "NOTHING": null}`,
		"etc/conda/env_vars.d/b.json": `{"SECOND": "b", "THIRD": "b", "GONE": "x"}`,
		"conda-meta/state":            `{"env_vars": {"THIRD": "state", "AWKWARD": "a 'quoted' \"value\" $HOME ` + "`id`" + ` \\ \n second line", "GONE": "***unset***"}}`,
		"etc/conda/activate.d/B.sh":   "export SCRIPTS=\"${SCRIPTS:-}B\"\n",
		"etc/conda/activate.d/a.sh":   "export SCRIPTS=\"${SCRIPTS:-}a$FIRST\"\n",
		"etc/conda/activate.d/x.bat":  "nonsense",
		"etc/conda/deactivate.d/B.sh": "SCRIPTS=\"$SCRIPTS-B\"\n",
		"etc/conda/deactivate.d/a.sh": "SCRIPTS=\"$SCRIPTS-a\"\n",
		"bin/hello":                   "#!/bin/sh\necho hello\n",
	})
}

func TestVariablesComeInTheirOrder(t *testing.T) {
	e := sample(t)
	want := map[string]string{"FIRST": "a", "SECOND": "b", "THIRD": "state", "NUMBER": "3", "AWKWARD": awkward}
	if d := cmp.Diff(want, e.Vars); d != "" {
		t.Error(d)
	}
	got := e.Variables([]string{"PATH=/usr/bin:" + e.Prefix + "/bin:/bin", "KEPT=x", "FIRST=old", "CONDA_PREFIX=/base", "CONDA_SHLVL=1"})
	for _, want := range []string{
		"PATH=" + e.Prefix + "/bin:/usr/bin:" + e.Prefix + "/bin:/bin", "KEPT=x", "__CONDA_SHLVL_1_FIRST=old", "FIRST=a", "CONDA_PREFIX=" + e.Prefix, "CONDA_PREFIX_1=/base", "CONDA_SHLVL=2", "CONDA_DEFAULT_ENV=" + e.Prefix,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %q in %q", want, got)
		}
	}
	if slices.Contains(got, "FIRST=old") {
		t.Error("a variable is there twice")
	}
	if e := (&Environment{Prefix: "/opt/conda/envs/science"}); e.Name() != "science" {
		t.Errorf("its name is %q", e.Name())
	}
}

// shells are those of this machine; the first two are everywhere.
func shells(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, s := range []string{"sh", "bash", "dash", "zsh", "ksh", "busybox"} {
		if _, err := exec.LookPath(s); err == nil {
			out = append(out, s)
		}
	}
	if len(out) < 2 {
		t.Fatalf("there are only %q", out)
	}
	return out
}

func TestShellsEnterAndLeave(t *testing.T) {
	e := sample(t)
	base := environment(t, "base", map[string]string{"etc/conda/env_vars.d/a.json": `{"BASE": "yes"}`})
	for _, sh := range shells(t) {
		script := "set -eu\n" + base.Script(Posix) + e.Script(Posix) +
			`printf '%s|' "$CONDA_PREFIX" "$CONDA_PREFIX_1" "$CONDA_SHLVL" "$FIRST" "$SECOND" "$AWKWARD" "$SCRIPTS" "$PATH"` + "\nhello\n" +
			e.Leave(Posix) + `printf '%s|' "$CONDA_PREFIX" "$CONDA_SHLVL" "${FIRST-none}" "${CONDA_PREFIX_1-none}" "$SCRIPTS" "$PATH" "$BASE"` + "\n" +
			base.Leave(Posix) + `printf '%s|' "${CONDA_PREFIX-none}" "$CONDA_SHLVL" "${BASE-none}" "$PATH"`
		args := []string{sh, "-c", script}
		if sh == "busybox" {
			args = []string{sh, "sh", "-c", script}
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nowhere"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", sh, err, out)
		}
		want := strings.Join([]string{e.Prefix, base.Prefix, "2", "a", "b", awkward, "Baa", e.Prefix + "/bin:" + base.Prefix + "/bin:/usr/bin:/bin", "hello\n" + base.Prefix, "1", "none", "none", "Baa-a-B", base.Prefix + "/bin:/usr/bin:/bin", "yes", "none", "0", "none", "/usr/bin:/bin", ""}, "|")
		if d := cmp.Diff(want, string(out)); d != "" {
			t.Errorf("%s: %s", sh, d)
		}
	}
}

func TestFishEntersAndLeaves(t *testing.T) {
	e := sample(t)
	for _, text := range []string{e.Script(Fish), e.Leave(Fish)} {
		if strings.Contains(text, "activate.d/a.sh") {
			t.Error("fish is given scripts of another shell")
		}
	}
	if _, err := exec.LookPath("fish"); err != nil {
		t.Skip("there is no fish here")
	}
	cmd := exec.Command("fish", "--no-config", "-c", e.Script(Fish)+"echo -n \"$CONDA_PREFIX|$AWKWARD|$PATH[1]|\"\n"+e.Leave(Fish)+"set -q CONDA_PREFIX; or echo left")
	out, err := cmd.CombinedOutput()
	if want := e.Prefix + "|" + awkward + "|" + e.Prefix + "/bin|left\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, string(out)))
	}
}

func TestALevelThatIsNoNumberRunsNothing(t *testing.T) {
	e := environment(t, "e", nil)
	mark := filepath.Join(t.TempDir(), "ran")
	for _, sh := range shells(t) {
		if sh == "busybox" {
			continue
		}
		cmd := exec.Command(sh, "-c", e.Script(Posix)+e.Leave(Posix))
		cmd.Env = []string{"PATH=/usr/bin:/bin", "CONDA_PREFIX=/x", "CONDA_SHLVL=a[$(touch " + mark + ")]"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", sh, err, out)
		}
		if _, err := os.Lstat(mark); err == nil {
			t.Fatalf("%s ran a command out of a variable", sh)
		}
	}
}

func TestBrokenFilesAreNamed(t *testing.T) {
	for name, text := range map[string]string{
		"etc/conda/env_vars.d/x.json": `{"A": ["list"]}`, "conda-meta/state": `{"env_vars": {"a b": "c"}}`, "etc/conda/env_vars.d/y.json": `{"A;id": "x"}`,
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load("/a:b"); err == nil {
		t.Error("took a prefix that cannot stand in PATH")
	}
}

func TestVariablesAreSet(t *testing.T) {
	e := environment(t, "e", map[string]string{"conda-meta/state": `{"version": 1, "env_vars": {"A": "1", "B": "2"}, "other": {"kept": true}}`})
	if err := SetVariables(e.Prefix, map[string]string{"C": awkward}, []string{"A"}); err != nil {
		t.Fatal(err)
	}
	again, err := Load(e.Prefix)
	if err != nil || cmp.Diff(map[string]string{"B": "2", "C": awkward}, again.Vars) != "" {
		t.Errorf("%v %v", err, again.Vars)
	}
	data, err := os.ReadFile(filepath.Join(e.Prefix, "conda-meta/state"))
	if err != nil || !strings.Contains(string(data), `"kept"`) {
		t.Errorf("%v %s", err, data)
	}
	if err := SetVariables(e.Prefix, map[string]string{"no name": ""}, nil); err == nil {
		t.Error("took a name that is none")
	}
	fresh := t.TempDir()
	if err := os.Mkdir(filepath.Join(fresh, "conda-meta"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SetVariables(fresh, map[string]string{"A": ""}, nil); err != nil {
		t.Error(err)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"version": 1, "env_vars": {"A": "1"}, "other": 1}`))
	f.Add([]byte(`{"env_vars": {"A": "x\u0000"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseState(data)
		if err != nil {
			return
		}
		out, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseState(out)
		if err != nil || cmp.Diff(s.Vars, again.Vars) != "" {
			t.Fatalf("%v: %s", err, out)
		}
	})
}

// FuzzQuote has a shell read what was quoted.
func FuzzQuote(f *testing.F) {
	f.Add(awkward)
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.IndexByte(s, 0) >= 0 {
			return
		}
		out, err := exec.Command("sh", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Fatalf("%q becomes %q, %v", s, out, err)
		}
	})
}
