package condacli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
)

func TestLockWritesWhatWasSolved(t *testing.T) {
	dir := channel(t)
	tmp := t.TempDir()
	env := filepath.Join(tmp, "environment.yml")
	if err := os.WriteFile(env, []byte("channels: ["+dir+"]\nplatforms: [linux-64]\ndependencies:\n- app # [linux]\n- lib\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for format, read := range map[string]func([]byte) ([]lock.Package, error){
		"pixi": func(data []byte) ([]lock.Package, error) {
			p, err := lock.ParsePixi(data)
			if err != nil {
				return nil, err
			}
			return p.Packages("default", "linux-64")
		},
		"conda-lock": func(data []byte) ([]lock.Package, error) {
			l, err := lock.ParseCondaLock(data)
			if err != nil {
				return nil, err
			}
			return l.Packages("linux-64")
		},
		"explicit": func(data []byte) ([]lock.Package, error) {
			e, err := lock.ParseExplicit(data)
			if err != nil {
				return nil, err
			}
			if e.Packages[0].Name != "lib" {
				t.Errorf("the first to install is %s, but app needs lib", e.Packages[0].Name)
			}
			return e.Packages, nil
		},
	} {
		file := filepath.Join(tmp, format)
		out, errs, code := run(t, "", "lock", "-f", env, "--virtual-package", "__glibc=2.28", "--format", format, "-o", file)
		if code != 0 || out != "" || !strings.Contains(errs, "linux-64: 2 packages") {
			t.Errorf("%s: %d, %q, %q", format, code, out, errs)
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list, err := read(data)
		if err != nil || len(list) != 2 {
			t.Errorf("%s: %+v, %v\n%s", format, list, err, data)
		}
		again, _, _ := run(t, "", "lock", "-f", env, "--virtual-package", "__glibc=2.28", "--format", format, "-o", "-")
		if again != string(data) {
			t.Errorf("%s: the second time it is\n%s", format, again)
		}
	}
}

func TestLockRefusesBadQuestions(t *testing.T) {
	dir := channel(t)
	bad := filepath.Join(t.TempDir(), "environment.yml")
	if err := os.WriteFile(bad, []byte("dependencies:\n- a[[\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"lock", "-c", dir}, 2, "environment.yml"},
		{[]string{"lock", "-f", bad}, 2, "line 2, column 3"},
		{[]string{"lock", "-f", bad + "x"}, 2, "no such file"},
		{[]string{"lock", "-c", dir, "--format", "toml", "lib"}, 2, "--format"},
		{[]string{"lock", "-c", dir, "--format", "explicit", "--platform", "linux-64", "--platform", "osx-64", "lib"}, 2, "one platform"},
		{[]string{"lock", "-c", dir, "--platform", "noarch", "lib"}, 2, "no platform"},
		{[]string{"lock", "-c", dir, "--platform", "linux-64", "-o", "-", "lib >9"}, 1, "lib >9"},
	} {
		if out, errs, code := run(t, "", c.args...); code != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%v: %d, %s; want %d and %q", c.args, code, errs, c.code, c.want)
		}
	}
}
