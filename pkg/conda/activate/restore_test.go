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

func TestAPackageCannotSetWhatActivationNeeds(t *testing.T) {
	e := environment(t, "e", map[string]string{
		"etc/conda/env_vars.d/a.json": `{"PATH": "/evil", "CONDA_PREFIX": "/evil", "CONDA_SHLVL": 7, "__CONDA_SHLVL_0_X": "y", "FINE": "yes"}`,
		"conda-meta/state":            `{"env_vars": {"PATH": "/worse", "CONDA_DEFAULT_ENV": "evil"}}`,
	})
	if d := cmp.Diff(map[string]string{"FINE": "yes"}, e.Vars); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"CONDA_DEFAULT_ENV", "CONDA_PREFIX", "CONDA_SHLVL", "PATH", "__CONDA_SHLVL_0_X"}, e.Ignored); d != "" {
		t.Error(d)
	}
	for _, k := range []string{"PATH", "CONDA_PREFIX"} {
		if err := SetVariables(e.Prefix, map[string]string{k: "x"}, nil); err == nil {
			t.Errorf("%s was set", k)
		}
	}
	// What another program put there stays its own when a variable is set.
	if err := SetVariables(e.Prefix, map[string]string{"A": "1"}, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(e.Prefix, "conda-meta/state"))
	if err != nil || !strings.Contains(string(data), "/worse") {
		t.Errorf("%v %s", err, data)
	}
}

// dump runs a script in a shell and returns the variables afterwards, without those that shells make themselves.
func dump(t *testing.T, sh, script string, env []string) []string {
	t.Helper()
	args := []string{sh, "-c", "set -eu\n" + script + "/usr/bin/env -0"}
	if sh == "busybox" {
		args = slices.Insert(args, 1, "sh")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", sh, err, out)
	}
	var vars []string
	for kv := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		k, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"PWD", "OLDPWD", "SHLVL", "_"}, k) {
			vars = append(vars, kv)
		}
	}
	slices.Sort(vars)
	return vars
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

func TestAShellHasWhatAProgramHas(t *testing.T) {
	e := sample(t)
	e.Enter, e.Exit = nil, nil // which may do anything
	for _, base := range [][]string{
		{"PATH=/usr/bin:/bin"},
		{"PATH=/usr/bin:" + e.Prefix + "/bin:/bin", "FIRST=mine", "AWKWARD=" + awkward + "!", "CONDA_PROMPT_MODIFIER=x", "__CONDA_SHLVL_0_SECOND=stale"},
		{"PATH=" + e.Prefix + "/bin:/usr/bin", "CONDA_SHLVL=2", "CONDA_PREFIX=/two", "CONDA_PREFIX_1=/one", "CONDA_DEFAULT_ENV=two", "THIRD="},
		{"PATH=/usr/bin", "CONDA_SHLVL=nonsense", "CONDA_PREFIX=/two"},
	} {
		want := sorted(e.Variables(base))
		for _, sh := range shells(t) {
			if d := cmp.Diff(want, dump(t, sh, e.Script(Posix), base)); d != "" {
				t.Errorf("%s: -run +script\n%s", sh, d)
			}
		}
	}
}

func TestLeavingRestoresWhatWasThere(t *testing.T) {
	e := sample(t)
	e.Enter, e.Exit = nil, nil
	other := environment(t, "other", map[string]string{"etc/conda/env_vars.d/a.json": `{"FIRST": "other"}`})
	for _, base := range [][]string{
		{"CONDA_SHLVL=0", "PATH=/usr/bin:/bin"},
		{"CONDA_SHLVL=0", "PATH=/usr/bin:" + e.Prefix + "/bin:/bin", "FIRST=mine", "AWKWARD=" + awkward + "!", "CONDA_PROMPT_MODIFIER=x", "THIRD="},
		{"CONDA_SHLVL=1", "PATH=/base/bin:/usr/bin:/bin", "CONDA_PREFIX=/base", "CONDA_DEFAULT_ENV=base", "CONDA_PROMPT_MODIFIER=(base) ", "FIRST=of base"},
	} {
		for _, sh := range shells(t) {
			for name, script := range map[string]string{
				"once":         e.Script(Posix) + e.Leave(Posix),
				"over another": other.Script(Posix) + e.Script(Posix) + e.Leave(Posix) + other.Leave(Posix),
				"twice":        e.Script(Posix) + e.Script(Posix) + e.Leave(Posix) + e.Leave(Posix),
			} {
				if d := cmp.Diff(sorted(base), dump(t, sh, script, base)); d != "" {
					t.Errorf("%s, %s: -was +is\n%s", sh, name, d)
				}
			}
		}
		// Of the same environment twice, the first leaving changes nothing but the level.
		want := dump(t, "sh", e.Script(Posix), base)
		if d := cmp.Diff(want, dump(t, "sh", e.Script(Posix)+e.Script(Posix)+e.Leave(Posix), base)); d != "" {
			t.Errorf("-once +twice and left\n%s", d)
		}
		// A program in the environment can leave it, too.
		if d := cmp.Diff(sorted(base), dump(t, "sh", e.Leave(Posix), e.Variables(base))); d != "" {
			t.Errorf("left by a program\n%s", d)
		}
	}
}
