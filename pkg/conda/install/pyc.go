package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// compiled lists the byte code that compiling will make, so that a rollback knows it.
func (p *plan) compiled(o *Options, touch func(string)) {
	py := p.target.Python
	if o.Pyc == "" || o.Pyc == PycOff || py == nil || strings.HasPrefix(o.Platform, "win-") {
		return
	}
	tag := "cpython-" + strings.ReplaceAll(py.MajorMinor, ".", "")
	for _, it := range p.order {
		if it.kept != nil || it.link.Noarch != archive.NoarchPython {
			continue
		}
		for i := range it.entries {
			e := &it.entries[i]
			name, ok := strings.CutSuffix(path.Base(e.Path), ".py")
			if !ok || name == "" || e.Type != link.HardLink || e.Original != "" || !strings.HasPrefix(e.Path, py.SitePackages+"/") {
				continue
			}
			dir := path.Join(parent(e.Path), pycache)
			touch(dir)
			it.pyc = append(it.pyc, Path{Path: path.Join(dir, name+"."+tag+".pyc"), Type: PycFile})
		}
	}
}

// compile runs the environment's interpreter over the noarch python packages that came. A module that does not compile
// is left out, as Python does; an interpreter that does not run is a warning: the environment works without byte code.
func (a *actor) compile(ctx context.Context) error {
	var list strings.Builder
	writable := map[string]bool{}
	n := 0
	for _, it := range a.p.order {
		for i := range it.pyc {
			dir := path.Dir(it.pyc[i].Path)
			base, _, _ := strings.Cut(path.Base(it.pyc[i].Path), ".cpython-")
			list.WriteString(filepath.Join(a.t.prefix, filepath.FromSlash(path.Dir(dir)), base+".py") + "\n")
			writable[dir] = true
			n++
		}
	}
	if n == 0 {
		return nil
	}
	a.o.progress("compile", 0, n)
	tmp, err := os.MkdirTemp("", "entrepot-compile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "modules")
	if err := os.WriteFile(file, []byte(list.String()), 0o600); err != nil {
		return err
	}
	py := a.p.target.Python
	exe := filepath.Join(a.t.prefix, filepath.FromSlash(py.Executable))
	args := []string{exe, "-Wi", "-m", "compileall", "-q", "-q", "-l", "-f", "-i", file}
	major, minor, _ := strings.Cut(py.MajorMinor, ".")
	m, _ := strconv.Atoi(minor)
	if major == "3" && m >= 7 {
		mode := "timestamp"
		if a.o.Pyc == PycUnchecked {
			mode = "unchecked-hash"
		}
		args = append(args, "--invalidation-mode", mode)
	} else if a.o.Pyc == PycUnchecked {
		a.o.warn("", fmt.Sprintf("python %s knows no byte code without time stamps; nothing was compiled", py.MajorMinor))
		return nil
	}
	if a.o.Target != a.t.prefix && major == "3" && m >= 9 {
		args = append(args, "-s", a.t.prefix, "-p", a.o.Target)
	}
	p := &program{
		args: args, dir: tmp, pkg: "python-" + py.Version, readable: []string{a.t.prefix}, writable: []string{tmp},
		env: []string{"PATH=" + filepath.Join(a.t.prefix, "bin") + ":/usr/bin:/bin", "HOME=" + tmp, "TMPDIR=" + tmp, "LANG=C.UTF-8", "PYTHONHASHSEED=0"},
	}
	for d := range writable {
		if err := a.t.breakLinksIn(d); err != nil {
			return err
		}
		p.writable = append(p.writable, filepath.Join(a.t.prefix, filepath.FromSlash(d)))
	}
	out, err := a.o.Sandbox.run(ctx, p, a.o.warn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	made := a.takePyc()
	if err != nil && made == 0 {
		a.o.warn(p.pkg, (&ProgramError{p.pkg, "compile", out, err}).Error())
	}
	a.o.progress("compile", made, n)
	return a.t.step("compile")
}

// takePyc keeps the byte code that is there in the records.
func (a *actor) takePyc() (made int) {
	dirs := newDirs(a.t.root)
	defer dirs.close()
	for _, it := range a.p.order {
		there := it.pyc[:0]
		for _, x := range it.pyc {
			err := dirs.enter(parent(x.Path))
			var st fs.FileInfo
			if err == nil {
				st, err = dirs.here.Lstat(path.Base(x.Path))
			}
			if err == nil && st.Mode().IsRegular() {
				there = append(there, x)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				a.o.warn(it.stem(), err.Error())
			}
		}
		it.pyc = there
		made += len(there)
	}
	return made
}
