package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// same reports whether two names are of one file.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Lstat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Lstat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAnEnvironmentIsMadeUpdatedAndEmptied(t *testing.T) {
	w := newWorld(t)
	before, after := states(t, w.channel)
	res := w.mustInstall(before...)
	if len(res.Change.Install) != len(before) || res.Rewritten == 0 {
		t.Errorf("%+v", res)
	}
	if got := read(t, filepath.Join(w.prefix, "bin/python3.11")); got != "#!/bin/sh\n# "+w.prefix+"\nexec python3 \"$*\"\n" {
		t.Errorf("the prefix is not in the text: %q", got)
	}
	if got := read(t, filepath.Join(w.prefix, "lib/lib.so")); len(got) != len("head\x00/share/lib\x00tail")+255 || strings.Contains(got, "placehold_") || !strings.Contains(got, w.prefix+"/share/lib\x00") {
		t.Errorf("the prefix is not in the binary: %q", got)
	}
	again := w.mustInstall(before...)
	if !again.Change.Empty() || len(again.Change.Keep) != len(before) {
		t.Errorf("the second run did something: %+v", again.Change)
	}
	w.write("mine")("share/lib/my-own")
	res = w.mustInstall(after...)
	why := map[string]Why{}
	for _, r := range res.Change.Replace {
		why[r.New.Name] = r.Why
	}
	if d := cmp.Diff(map[string]Why{"python": Different, "lib": Different, "thing": Different, "tool": Relink}, why); d != "" {
		t.Error(d)
	}
	if _, err := os.Lstat(filepath.Join(w.prefix, "lib/python3.11")); !os.IsNotExist(err) {
		t.Error("the directory of the old python is still there")
	}
	if got := read(t, filepath.Join(w.prefix, "bin/tool")); !strings.HasPrefix(got, "#!"+w.prefix+"/bin/python3.12\n") {
		t.Errorf("the command runs another python: %q", got)
	}
	if problems, err := Verify(t.Context(), w.prefix); err != nil || len(problems) > 0 {
		t.Fatalf("%v %v", problems, err)
	}
	w.mustInstall()
	left := snapshot(t, w.prefix)
	delete(left, "conda-meta/history")
	want := map[string]string{"conda-meta": "directory", "share": "directory", "share/lib": "directory", "share/lib/my-own": "-rw-r--r-- mine", "CACHEDIR.TAG": "-rw-r--r-- " + cacheTagText}
	if d := cmp.Diff(want, left); d != "" {
		t.Errorf("not only what is nobody's was left (-want +got):\n%s", d)
	}
	revisions := ParseHistory([]byte(read(t, filepath.Join(w.prefix, "conda-meta/history"))))
	if len(revisions) != 3 || revisions[0].Time != "2026-11-21 12:00:00" || len(revisions[1].Added) != 5 || len(revisions[2].Removed) != len(after) ||
		revisions[1].Added[0] != "channel/linux-64::b-second-1-0" {
		t.Errorf("%+v", revisions)
	}
}

func TestAWinnersFileComesBackWhenItGoes(t *testing.T) {
	w := newWorld(t)
	lose := made{name: "lose", version: "1", files: []archive.Input{file("etc/x", "lose")}}.write(t, w.channel)
	win := made{name: "win", version: "1", depends: []string{"lose"}, files: []archive.Input{file("etc/x", "win")}}.write(t, w.channel)
	res := w.mustInstall(lose, win)
	if d := cmp.Diff([]link.Clobber{{Path: "etc/x", Winner: "win", Losers: []string{"lose"}}}, res.Clobbers); d != "" {
		t.Error(d)
	}
	if got := read(t, filepath.Join(w.prefix, "etc/x")); got != "win" {
		t.Errorf("%q won", got)
	}
	if got := read(t, filepath.Join(w.prefix, "__clobbers__/lose/etc/x")); got != "lose" {
		t.Errorf("the loser's file is %q", got)
	}
	w.mustInstall(lose)
	if got := read(t, filepath.Join(w.prefix, "etc/x")); got != "lose" {
		t.Errorf("%q is there", got)
	}
	if _, err := os.Lstat(filepath.Join(w.prefix, "__clobbers__")); !os.IsNotExist(err) {
		t.Error("the loser's place is still there")
	}
	records, err := Read(w.prefix)
	if err != nil || records[0].Paths[0].Path != "etc/x" || records[0].Paths[0].Original != "" {
		t.Errorf("%v %+v", err, records[0].Paths)
	}
	var clash *link.ClobberError
	if _, err := w.install([]Package{lose, win}, func(o *Options) { o.RefuseClobbers = true }); !errors.As(err, &clash) {
		t.Errorf("clobbering was not refused: %v", err)
	}
}

func TestFilesAreLinkedOrCopied(t *testing.T) {
	w := newWorld(t)
	plain := file("share/plain", "plain")
	plain.Mode = 0o664
	noLink := file("share/no-link", "mine to write to")
	noLink.NoLink = true
	p := made{name: "p", version: "1", files: []archive.Input{plain, noLink, file("etc/rewritten", "@"), symlink("share/link", "plain")}}.write(t, w.channel)
	w.mustInstall(p)
	cached := filepath.Join(w.cache.Dir(), "p-1-0")
	at := func(name string) string { return filepath.Join(w.prefix, name) }
	records, err := Read(w.prefix)
	if err != nil {
		t.Fatal(err)
	}
	linked := same(t, at("share/plain"), filepath.Join(cached, "share/plain"))
	if linked != (records[0].Link.Type == LinkHard) {
		t.Errorf("the record says %d, but linked is %v", records[0].Link.Type, linked)
	}
	if same(t, at("share/no-link"), filepath.Join(cached, "share/no-link")) {
		t.Error("a file that must not be linked is")
	}
	source, err := os.Stat(filepath.Join(cached, "etc/rewritten"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(at("etc/rewritten"))
	if err != nil || !st.ModTime().After(source.ModTime()) || !st.ModTime().Equal(time.Unix(1_700_000_001, 0)) {
		t.Errorf("the rewritten file is of %v, its source of %v", st.ModTime(), source.ModTime())
	}
	if st, err := os.Stat(at("share/plain")); err != nil || st.Mode() != 0o664 {
		t.Errorf("mode %v", st.Mode())
	}
	w.prefix += "-copied"
	if _, err := w.install([]Package{p}, func(o *Options) { o.Copy = true }); err != nil {
		t.Fatal(err)
	}
	if same(t, at("share/plain"), filepath.Join(cached, "share/plain")) {
		t.Error("--copy linked")
	}
	if st, err := os.Stat(at("share/plain")); err != nil || st.Mode() != 0o664 || !st.ModTime().Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("the copy is %v of %v", st.Mode(), st.ModTime())
	}
	if records, err = Read(w.prefix); err != nil || records[0].Link.Type != LinkCopy {
		t.Errorf("%v, %+v", err, records[0].Link)
	}
}

func TestNothingForeignIsOverwrittenOrDeleted(t *testing.T) {
	w := newWorld(t)
	p := made{name: "p", version: "1", files: []archive.Input{file("share/taken", "p"), file("dir/file", "p")}}.write(t, w.channel)
	w.mustInstall()
	w.write("mine")("share/taken")
	w.write("mine")("dir")
	was := snapshot(t, w.prefix)
	var foreign *ForeignError
	if _, err := w.install([]Package{p}); !errors.As(err, &foreign) || cmp.Diff([]string{"dir", "share/taken"}, foreign.Paths) != "" {
		t.Fatalf("%v", err)
	}
	if d := cmp.Diff(was, snapshot(t, w.prefix)); d != "" {
		t.Error(d)
	}
	if _, err := w.install([]Package{p}, func(o *Options) { o.Foreign = Warn }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"share/taken": "p", "dir/file": "p", "__foreign__/share/taken": "mine", "__foreign__/dir": "mine"} {
		if got := read(t, filepath.Join(w.prefix, name)); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	w.mustInstall()
	if got := read(t, filepath.Join(w.prefix, "__foreign__/dir")); got != "mine" {
		t.Errorf("%q", got)
	}
}

func TestADirectoryInTheWayIsRefusedUnlessItEmpties(t *testing.T) {
	w := newWorld(t)
	old := made{name: "p", version: "1", files: []archive.Input{file("opt/x/deep/file", "1")}}.write(t, w.channel)
	p := made{name: "p", version: "2", files: []archive.Input{file("opt/x", "2")}}.write(t, w.channel)
	w.mustInstall(old)
	w.write("mine")("opt/x/deep/mine")
	if _, err := w.install([]Package{p}, func(o *Options) { o.Foreign = Warn }); !errors.As(err, new(*ForeignError)) {
		t.Fatalf("%v", err)
	}
	if err := os.Remove(filepath.Join(w.prefix, "opt/x/deep/mine")); err != nil {
		t.Fatal(err)
	}
	w.mustInstall(p)
	if got := read(t, filepath.Join(w.prefix, "opt/x")); got != "2" {
		t.Errorf("%q", got)
	}
}

func TestAFrozenEnvironmentIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	p := made{name: "p", version: "1", files: []archive.Input{file("x", "p")}}.write(t, w.channel)
	w.mustInstall()
	for text, message := range map[string]string{"": "", `{"message": "ask Anna"}`: "ask Anna", "broken": ""} {
		w.write(text)("conda-meta/frozen")
		var frozen *FrozenError
		if _, err := w.install([]Package{p}); !errors.As(err, &frozen) || frozen.Message != message {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, _, err := Repair(t.Context(), w.prefix, w.options()); !errors.As(err, new(*FrozenError)) {
		t.Errorf("%v", err)
	}
	if _, err := w.install([]Package{p}, func(o *Options) { o.ForceFrozen = true }); err != nil {
		t.Error(err)
	}
}

func TestNothingLeavesThePrefix(t *testing.T) {
	outside := t.TempDir()
	t.Run("a package's link out of the environment is refused", func(t *testing.T) {
		w := newWorld(t)
		// Out of the prefix only where site-packages lies less deep than the package thinks.
		py := made{name: "python", version: "3.12.1", sitePackages: "sp", files: []archive.Input{file("bin/python3.12", "")}}.write(t, w.channel)
		p := made{name: "p", version: "1", noarch: archive.NoarchPython, depends: []string{"python"}, files: []archive.Input{file("file", ""), symlink("site-packages/a/b", "../../file")}}
		p.files[1].Path = "site-packages/b"
		p.files[1].Link = "../file"
		w.mustInstall(py, p.write(t, w.channel)) // sp/b → ../file lies inside
		if !escapes("sp/b", "../../file", nil) || escapes("a/b/c", "../../x", nil) || !escapes("x", "/etc", nil) || escapes("a/b", "..", nil) {
			t.Error("escapes is wrong")
		}
	})
	t.Run("nothing is written through a link of the prefix that leads outside", func(t *testing.T) {
		w := newWorld(t)
		w.mustInstall()
		if err := os.Symlink(outside, filepath.Join(w.prefix, "share")); err != nil {
			t.Fatal(err)
		}
		p := made{name: "p", version: "1", files: []archive.Input{file("share/x", "p")}}.write(t, w.channel)
		for _, policy := range []Policy{Refuse, Warn} {
			if _, err := w.install([]Package{p}, func(o *Options) { o.Foreign = policy }); err == nil {
				t.Error("installed through the link")
			}
		}
	})
	t.Run("a record cannot have files outside deleted", func(t *testing.T) {
		w := newWorld(t)
		p := made{name: "p", version: "1", files: []archive.Input{file("share/x", "p")}}.write(t, w.channel)
		w.mustInstall(p)
		name := filepath.Join(w.prefix, "conda-meta/p-1-0.json")
		precious := filepath.Join(outside, "precious")
		if err := os.WriteFile(precious, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(w.prefix, precious)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(read(t, name), "share/x", rel)), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := w.install(nil); !errors.As(err, new(*RecordError)) {
			t.Errorf("%v", err)
		}
		// By way of a link, with a path that looks harmless.
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(read(t, name), rel, "way/precious")), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(w.prefix, "way")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.install(nil); err == nil {
			t.Error("unlinked outside of the prefix")
		}
		if _, err := os.Lstat(precious); err != nil {
			t.Error(err)
		}
	})
	t.Run("a journal cannot either", func(t *testing.T) {
		w := newWorld(t)
		w.mustInstall()
		w.write(`{"version":1,"old":[],"new":["../precious"],"dirs":[],"keep":[],"remove":[],"write":[]}`)("conda-meta/.transaction/journal.json")
		if _, err := Recover(t.Context(), w.prefix, nil); err == nil {
			t.Error("took it")
		}
	})
}

func TestDamageIsFoundAndRepaired(t *testing.T) {
	w := newWorld(t)
	before, _ := states(t, w.channel)
	w.mustInstall(before...)
	was := contents(snapshot(t, w.prefix))
	at := func(name string) string { return filepath.Join(w.prefix, name) }
	// Through the hard link this changes the cache, too.
	if err := os.Chmod(at("share/lib/version"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.write("x")("share/lib/version")
	if err := errors.Join(os.Remove(at("bin/python")), os.WriteFile(at("bin/python"), nil, 0o644), os.Remove(at("etc/lib.conf"))); err != nil {
		t.Fatal(err)
	}
	problems, res, err := Repair(t.Context(), w.prefix, w.options())
	if err != nil {
		t.Fatal(err)
	}
	want := []Problem{{"lib", "etc/lib.conf", Missing}, {"lib", "share/lib/version", Modified}, {"python", "bin/python", WrongType}}
	if d := cmp.Diff(want, problems); d != "" {
		t.Error(d)
	}
	if len(res.Change.Replace) != 2 || res.Change.Replace[0].Why != Asked {
		t.Errorf("%+v", res.Change.Replace)
	}
	if d := cmp.Diff(was, contents(snapshot(t, w.prefix))); d != "" {
		t.Error(d)
	}
	if problems, err := Verify(t.Context(), w.prefix); err != nil || problems != nil {
		t.Errorf("%v %v", problems, err)
	}
}

func TestScriptsAreSkippedWithAWarning(t *testing.T) {
	w := newWorld(t)
	p := made{name: "p", version: "1", files: []archive.Input{file("bin/.p-post-link.sh", "touch $PREFIX/ran\n"), file("bin/.p-pre-unlink.sh", "")}}.write(t, w.channel)
	w.mustInstall(p)
	if _, err := os.Lstat(filepath.Join(w.prefix, "ran")); err == nil {
		t.Error("it ran")
	}
	w.mustInstall()
	want := []string{"p-1-0: its link scripts were not run: .p-post-link.sh", "p-1-0: its link scripts were not run: .p-pre-unlink.sh"}
	if d := cmp.Diff(want, w.warned); d != "" {
		t.Error(d)
	}
}

func TestWhatCannotBeInstalledIsRefusedBeforeThePrefixIsTouched(t *testing.T) {
	w := newWorld(t)
	short := binary("lib/short", "@")
	short.Data, short.Placeholder = []byte("/opt/short\x00"), "/opt/short"
	for name, p := range map[string]made{
		"no python":        {name: "p", version: "1", noarch: archive.NoarchPython, files: []archive.Input{file("site-packages/p.py", "")}},
		"short":            {name: "p", version: "1", files: []archive.Input{short}},
		"another checksum": {name: "p", version: "1", files: []archive.Input{file("x", "")}},
	} {
		x := p.write(t, w.channel)
		if name == "another checksum" {
			x.SHA256 = strings.Repeat("0", 64)
		}
		if _, err := w.install([]Package{x}); err == nil {
			t.Errorf("%s: installed", name)
		}
		if _, err := os.Lstat(w.prefix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the prefix is there", name)
		}
	}
}

func TestOnAnotherFileSystemFilesAreCopied(t *testing.T) {
	w := newWorld(t)
	p := made{name: "p", version: "1", files: []archive.Input{file("share/x", "p"), symlink("share/link", "x")}}.write(t, w.channel)
	other, err := os.MkdirTemp("/dev/shm", "entrepot-install-")
	if err != nil {
		t.Skip("there is no other file system here")
	}
	defer os.RemoveAll(other)
	w.prefix = filepath.Join(other, "env")
	res := w.mustInstall(p)
	if res.Copied != 1 || res.Linked != 0 {
		t.Errorf("%+v", res)
	}
	if problems, err := Verify(t.Context(), w.prefix); err != nil || problems != nil {
		t.Errorf("%v %v", problems, err)
	}
	records, err := Read(w.prefix)
	if err != nil || records[0].Link.Type != LinkCopy {
		t.Errorf("%v %+v", err, records[0].Link)
	}
}

func TestProgramsForMacOSAreNotRewritten(t *testing.T) {
	w := newWorld(t)
	p := made{name: "p", version: "1", files: []archive.Input{binary("lib/x.dylib", "@\x00")}}.write(t, w.channel)
	_, err := w.install([]Package{p}, func(o *Options) { o.Platform = "osx-arm64" })
	if err == nil || !strings.Contains(err.Error(), "signed") {
		t.Error(err)
	}
	if _, err := os.Lstat(w.prefix); err == nil {
		t.Error("the prefix is there")
	}
}

func TestTwoInstallationsWaitForEachOther(t *testing.T) {
	w := newWorld(t)
	before, after := states(t, w.channel)
	done := make(chan error)
	for n := range 6 {
		go func() {
			set := before
			if n%2 == 1 {
				set = after
			}
			_, err := Install(t.Context(), w.prefix, set, Options{Cache: w.cache, Platform: platform, NoSync: true})
			done <- err
		}()
	}
	for range 6 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if problems, err := Verify(t.Context(), w.prefix); err != nil || problems != nil {
		t.Errorf("%v %v", problems, err)
	}
}
