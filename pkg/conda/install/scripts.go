package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Kinds of link scripts. There is a post-unlink, too, which nobody runs.
const (
	preLink   = "pre-link"
	postLink  = "post-link"
	preUnlink = "pre-unlink"
)

// messagesFile is what scripts write to for the user. It belongs to nobody and is removed when it was read.
const messagesFile = ".messages.txt"

func scriptPath(name, kind string) string { return "bin/." + name + "-" + kind + ".sh" }

// script returns where a script of a package that comes will lie; empty if it has none.
func (it *item) script(kind string) string {
	want := scriptPath(it.name(), kind)
	for i := range it.entries {
		e := &it.entries[i]
		if e.Path == want || e.Original == want {
			return e.Path
		}
	}
	return ""
}

// scripts lists which scripts of the change would run, by package.
func (p *plan) scripts(each func(stem, what string)) {
	for _, it := range p.order {
		if it.kept != nil {
			continue
		}
		for _, kind := range []string{preLink, postLink} {
			if s := it.script(kind); s != "" {
				each(it.stem(), s)
			}
		}
	}
	for _, r := range p.leaving() {
		if s := unlinkScript(r); s != "" {
			each(r.Stem(), s)
		}
	}
}

// leaving are the records of packages that are unlinked, in the order of linking.
func (p *plan) leaving() []*Record {
	var out []*Record
	out = append(out, p.change.Remove...)
	for _, x := range p.change.Replace {
		out = append(out, x.Old)
	}
	return out
}

func unlinkScript(r *Record) string {
	want := scriptPath(r.Name, preUnlink)
	for i := range r.Paths {
		if r.Paths[i].Wanted() == want {
			return r.Paths[i].Path
		}
	}
	return ""
}

// runScripts runs one kind of script of the packages that come, in the order of linking.
func (a *actor) runScripts(ctx context.Context, kind string, res *Result) error {
	if !a.o.Scripts {
		return nil
	}
	for _, it := range a.p.order {
		if it.kept != nil {
			continue
		}
		s := it.script(kind)
		if s == "" {
			continue
		}
		dir := a.t.prefix
		if kind == preLink { // nothing of it is linked yet
			s, dir = scriptPath(it.name(), kind), it.from.Dir
		}
		r := it.record()
		if err := a.runScript(ctx, filepath.Join(dir, filepath.FromSlash(s)), it.stem(), r.Name, r.Version, r.BuildNumber, res); err != nil {
			return err
		}
		if err := a.t.step(kind + " " + r.Name); err != nil {
			return err
		}
	}
	return nil
}

// runUnlinkScripts runs the scripts of what goes, dependants first. They only warn: a package must be removable.
func (a *actor) runUnlinkScripts(ctx context.Context, res *Result) {
	if !a.o.Scripts {
		return
	}
	leaving := a.p.leaving()
	for i := range leaving {
		r := leaving[len(leaving)-1-i]
		s := unlinkScript(r)
		if s == "" {
			continue
		}
		if err := a.runScript(ctx, filepath.Join(a.t.prefix, filepath.FromSlash(s)), r.Stem(), r.Name, r.Version, r.BuildNumber, res); err != nil {
			a.o.warn(r.Stem(), err.Error())
		}
	}
}

// runScript runs one script with what conda promises it, and nothing else.
func (a *actor) runScript(ctx context.Context, file, stem, name, version string, number uint64, res *Result) error {
	if _, err := os.Lstat(file); err != nil {
		return nil //nolint:nilerr // another package took its place
	}
	shell, err := exec.LookPath("bash")
	if err != nil {
		if shell, err = exec.LookPath("sh"); err != nil {
			return &ProgramError{stem, filepath.Base(file), "", err}
		}
	}
	if err := a.t.openMessages(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "entrepot-script-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	prefix := a.t.prefix
	writable, err := a.t.writable()
	if err != nil {
		return err
	}
	p := &program{
		args: []string{shell, file}, dir: prefix, pkg: stem, writable: append(writable, tmp), readable: []string{prefix, filepath.Dir(file)},
		env: []string{
			"PREFIX=" + prefix, "PKG_NAME=" + name, "PKG_VERSION=" + version, fmt.Sprintf("PKG_BUILDNUM=%d", number),
			"ROOT_PREFIX=" + prefix, "SOURCE_DIR=" + prefix, "CONDA_PREFIX=" + prefix,
			"PATH=" + filepath.Dir(file) + ":" + filepath.Join(prefix, "bin") + ":/usr/local/bin:/usr/bin:/bin",
			"HOME=" + tmp, "TMPDIR=" + tmp, "LANG=C.UTF-8",
		},
	}
	out, err := a.o.Sandbox.run(ctx, p, a.o.warn)
	if msg := a.messages(); msg != "" {
		res.Messages = append(res.Messages, Warning{stem, msg})
	}
	if err != nil {
		return &ProgramError{stem, path.Join("bin", filepath.Base(file)), out, err}
	}
	return nil
}

// warnOfScripts names the packages whose scripts are not run.
func (a *actor) warnOfScripts() {
	byPackage := map[string][]string{}
	var order []string
	a.p.scripts(func(stem, what string) {
		if byPackage[stem] == nil {
			order = append(order, stem)
		}
		byPackage[stem] = append(byPackage[stem], path.Base(what))
	})
	for _, stem := range order {
		a.o.warn(stem, "its link scripts were not run: "+strings.Join(byPackage[stem], ", "))
	}
}

// hasScripts reports whether programs of packages will be run that could write anywhere in the prefix.
func (p *plan) hasScripts() bool {
	found := false
	p.scripts(func(string, string) { found = true })
	return found
}
