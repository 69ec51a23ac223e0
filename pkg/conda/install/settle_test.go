package install

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestWhatWasDecidedByOldRecordsIsNotDone(t *testing.T) {
	w := newWorld(t)
	one := made{name: "one", version: "1", files: []archive.Input{file("share/one", "1")}}.write(t, w.channel)
	two := made{name: "two", version: "1", files: []archive.Input{file("share/two", "2")}}.write(t, w.channel)
	records, how, err := Settle(t.Context(), w.prefix, nil)
	if err != nil || how != NothingToRecover || records == nil || len(records) > 0 {
		t.Fatalf("%v %q %v", records, how, err)
	}
	if _, err := os.Lstat(w.prefix); err == nil {
		t.Fatal("looking made the environment")
	}
	w.mustInstall(one) // by another process
	before := snapshot(t, w.prefix)
	_, err = w.install([]Package{two}, func(o *Options) { o.From = records })
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Prefix != w.prefix {
		t.Errorf("%v", err)
	}
	// So it is as well if the change comes while packages are fetched.
	if records, _, err = Settle(t.Context(), w.prefix, nil); err != nil || len(records) != 1 {
		t.Fatalf("%v %v", records, err)
	}
	three := made{name: "three", version: "1", files: []archive.Input{file("share/three", "3")}}.write(t, w.channel)
	_, err = w.install([]Package{one, two}, func(o *Options) {
		o.From = records
		o.Source = fetching(func() {
			if _, err := w.install([]Package{one, three}); err != nil {
				t.Error(err)
			}
		})
	})
	if !errors.As(err, &changed) {
		t.Errorf("%v", err)
	}
	if records, err = Read(w.prefix); err != nil || len(records) != 2 || records[1].Name != "three" || before["share/one"] == "" {
		t.Errorf("%v %v", records, err)
	}
	if _, err = w.install([]Package{one, two, three}, func(o *Options) { o.From = records }); err != nil {
		t.Error(err)
	}
}

// fetching does something at the first fetch.
func fetching(do func()) pkgcache.Source { return &fetchHook{do: sync.OnceFunc(do)} }

type fetchHook struct {
	pkgcache.Local
	do func()
}

func (f *fetchHook) Fetch(ctx context.Context, url string, size int64, sink pkgcache.Sink) error {
	f.do()
	return f.Local.Fetch(ctx, url, size, sink)
}

func TestSettlingReadsWhatRecoveryLeaves(t *testing.T) {
	w := newWorld(t)
	one := made{name: "one", version: "1", files: []archive.Input{file("share/one", "1")}}.write(t, w.channel)
	two := made{name: "two", version: "1", files: []archive.Input{file("share/two", "2")}}.write(t, w.channel)
	w.mustInstall(one)
	_, err := w.install([]Package{one, two}, func(o *Options) {
		o.hook = func(step string) error {
			if step == "committed" { // its record is not in place yet
				return errCrash
			}
			return nil
		}
	})
	if !errors.Is(err, errCrash) || !Interrupted(w.prefix) {
		t.Fatal(err)
	}
	records, how, err := Settle(t.Context(), w.prefix, nil)
	if err != nil || how != Completed || len(records) != 2 || Interrupted(w.prefix) {
		t.Errorf("%v %q %v", records, how, err)
	}
}

// damage changes a file of the cache, as a program does that writes into a linked file of an environment.
func damage(t *testing.T, c *pkgcache.Cache, p *Package, path, text string) {
	t.Helper()
	e, ok := c.Lookup(cachePackage(p))
	if !ok {
		t.Fatal("it is not in the cache")
	}
	if err := os.WriteFile(filepath.Join(e.Dir, path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFilesOfTheCacheAreFetchedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		path, text, want string
		copies           bool
	}{
		"rewritten": {"etc/conf", "evil=1\n", "root=", false},
		"copied":    {"share/data", "DATA", "data", true},
		"linked":    {"share/data", "longer data", "data", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := made{name: "one", version: "1", files: []archive.Input{file("etc/conf", "root=@\n"), file("share/data", "data")}}.write(t, w.channel)
			q := made{name: "two", version: "1", files: []archive.Input{file("share/two", "two")}}.write(t, w.channel)
			w.mustInstall(p, q)
			damage(t, w.cache, &p, test.path, test.text)
			damage(t, w.cache, &q, "share/two", "TWO")
			w.prefix += "-2"
			res, err := w.install([]Package{p, q}, func(o *Options) { o.Copy = test.copies })
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(w.prefix, test.path))
			if err != nil || !strings.HasPrefix(string(data), test.want) || len(data) < len(test.want) || bytes.Contains(data, []byte("evil")) {
				t.Errorf("%q %v", data, err)
			}
			if res.Fetched != int64(p.Size+q.Size) || len(w.warned) != 1 || !strings.Contains(w.warned[0], "is fetched again") {
				t.Errorf("%+v %q", res, w.warned)
			}
			if problems, err := Verify(t.Context(), w.prefix); err != nil || len(problems) > 0 {
				t.Errorf("%v %v", problems, err)
			}
		})
	}
}

func TestAPackageWhoseListIsWrongIsInstalledWithAWarning(t *testing.T) {
	w := newWorld(t)
	in := file("share/data", "data")
	p := made{name: "one", version: "1", files: []archive.Input{in}}.write(t, w.channel)
	w.mustInstall(p)
	// What cannot be made with an honest archive: a list that never was right. Here it becomes so with each fetch.
	w.prefix += "-2"
	src := &fetchHook{do: func() {}}
	list := func() {
		e, ok := w.cache.Lookup(cachePackage(&p))
		if !ok {
			return
		}
		name := filepath.Join(e.Dir, "info/paths.json")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7" // of "data"
		if err := os.WriteFile(name, bytes.Replace(data, []byte(sum), []byte(strings.Repeat("0", 64)), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list()
	res, err := w.install([]Package{p}, func(o *Options) {
		o.Copy, o.Source = true, src
		o.hook = func(step string) error {
			if step == "journal" {
				list()
			}
			return nil
		}
	})
	if err != nil || res.Fetched == 0 {
		t.Fatalf("%v %+v", err, res)
	}
	if data, err := os.ReadFile(filepath.Join(w.prefix, "share/data")); err != nil || string(data) != "data" {
		t.Errorf("%q %v", data, err)
	}
}

func TestDigestsThatNobodyGaveAreRecorded(t *testing.T) {
	w := newWorld(t)
	p := made{name: "one", version: "1", files: []archive.Input{file("share/one", "1")}}.write(t, w.channel)
	sum := p.SHA256
	bare := p
	bare.SHA256, bare.MD5, bare.Size = "", "", 0
	w.mustInstall(bare)
	records, err := Read(w.prefix)
	if err != nil || records[0].SHA256 != sum || len(records[0].MD5) != 32 {
		t.Fatalf("%v %+v", err, records)
	}
	if res := w.mustInstall(bare); !res.Change.Empty() {
		t.Errorf("the same file is another package: %+v", res.Change)
	}
	byMD5 := bare
	byMD5.MD5 = records[0].MD5
	if res := w.mustInstall(byMD5); !res.Change.Empty() || res.Fetched != 0 {
		t.Errorf("known by its MD5 it is another package: %+v", res)
	}
	// Another file in its place is another package, though its name says that it is the same.
	made{name: "one", version: "1", files: []archive.Input{file("share/one", "other")}}.write(t, w.channel)
	if res := w.mustInstall(bare); len(res.Change.Replace) != 1 {
		t.Errorf("another file is taken for the one that is installed: %+v", res.Change)
	}
}

func TestTheBestDigestThatIsWantedDecides(t *testing.T) {
	sum := func(sha256, md5 string) repodata.Record {
		return repodata.Record{Name: "a", Version: "1", Build: "0", SHA256: sha256, MD5: md5}
	}
	for _, c := range []struct {
		have, want repodata.Record
		same       bool
	}{
		{sum("aa", "bb"), sum("AA", ""), true},
		{sum("aa", "bb"), sum("ac", "bb"), false},
		{sum("aa", "bb"), sum("", "BB"), true},
		{sum("aa", "bb"), sum("", "bc"), false},
		{sum("", "bb"), sum("aa", "bb"), false}, // whether it has that SHA-256 nobody has seen
		{sum("aa", "bb"), sum("", ""), false},
		{sum("", ""), sum("aa", ""), false},
		{sum("", ""), sum("", ""), true},
	} {
		if Same(&Record{Record: c.have}, &Package{Record: c.want}) != c.same {
			t.Errorf("%q %q is installed, %q %q is wanted", c.have.SHA256, c.have.MD5, c.want.SHA256, c.want.MD5)
		}
	}
}

func TestSecretsOfLocationsAreNotWrittenDown(t *testing.T) {
	w := newWorld(t)
	p := made{name: "one", version: "1", files: []archive.Input{file("share/one", "1")}}.write(t, w.channel)
	name := p.URL
	p.URL, p.Channel = "https://me:word@host.invalid/t/SECRET/chan/linux-64/one-1-0.conda?sig=SECRET", "https://me:word@host.invalid/t/SECRET"
	_, err := w.install([]Package{p}, func(o *Options) {
		o.Source = sourceFunc(func(ctx context.Context, _ string, size int64, sink pkgcache.Sink) error {
			return pkgcache.Local{}.Fetch(ctx, name, size, sink)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	records, err := Read(w.prefix)
	if err != nil || records[0].URL != "https://host.invalid/chan/linux-64/one-1-0.conda" || records[0].Channel != "https://host.invalid" {
		t.Errorf("%v %+v", err, records)
	}
	e, _ := w.cache.Lookup(cachePackage(&p))
	for _, file := range []string{filepath.Join(w.prefix, metaDir, records[0].MetaName()), filepath.Join(w.prefix, metaDir, historyFile), filepath.Join(e.Dir, "info/repodata_record.json")} {
		data, err := os.ReadFile(file)
		if err != nil || bytes.Contains(data, []byte("SECRET")) || bytes.Contains(data, []byte("word")) {
			t.Errorf("%s: %v\n%s", file, err, data)
		}
	}
}

type sourceFunc func(ctx context.Context, url string, size int64, sink pkgcache.Sink) error

func (f sourceFunc) Fetch(ctx context.Context, url string, size int64, sink pkgcache.Sink) error {
	return f(ctx, url, size, sink)
}
