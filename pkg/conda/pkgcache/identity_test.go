package pkgcache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// content is what the package's program holds: the name of the file that it was made of begins with it.
func content(t *testing.T, e Entry) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(e.Dir, "bin/a"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAClaimedMD5IsNoIdentity(t *testing.T) {
	files := t.TempDir()
	victim, evil := write(t, files, "a", "one", 1), write(t, files, "a", "two", 1)
	// A channel that may name any package describes its own rightly by SHA-256, and claims the MD5 of another one.
	lying := evil
	lying.MD5 = victim.MD5
	c := open(t, t.TempDir())
	if _, err := c.Ensure(t.Context(), Local{}, []Package{lying}); err == nil || !strings.Contains(err.Error(), "MD5") {
		t.Errorf("a wrong MD5 beside a right SHA-256 is accepted: %v", err)
	}
	evil.MD5, evil.Record = "", []byte(`{"md5": "`+victim.MD5+`"}`)
	if _, err := c.Ensure(t.Context(), Local{}, []Package{evil}); err != nil {
		t.Fatal(err)
	}
	byMD5 := victim
	byMD5.SHA256 = ""
	got, err := c.Ensure(t.Context(), Local{}, []Package{byMD5})
	if err != nil || content(t, got[0]) != "one" {
		t.Fatalf("who asks by MD5 gets %+v, %v", got, err)
	}
	if got[0].SHA256 != victim.SHA256 || got[0].MD5 != victim.MD5 {
		t.Errorf("%+v", got[0])
	}
	// It lies behind a digest that who knows only the MD5 cannot name, and is found all the same.
	src := &counting{}
	if got, err = c.Ensure(t.Context(), src, []Package{byMD5}); err != nil || src.n.Load() != 0 || content(t, got[0]) != "one" {
		t.Errorf("%+v %v, %d fetches", got, err, src.n.Load())
	}
	// Nor does the right SHA-256 make a wrong MD5 right of what is there already.
	if _, err := c.Ensure(t.Context(), Local{}, []Package{lying}); err == nil {
		t.Error("a wrong MD5 is accepted of what is in the cache")
	}
}

func TestWithoutADigestNothingIsTakenForGranted(t *testing.T) {
	files := t.TempDir()
	one, two := write(t, files, "a", "one", 1), write(t, files, "a", "two", 1)
	unknown := Package{FileName: one.FileName, URL: filepath.Join(files, "a-1-0.conda")}
	put := func(p Package) {
		t.Helper()
		data, err := os.ReadFile(p.URL)
		if err == nil {
			err = os.WriteFile(unknown.URL, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, t.TempDir())
	for i, p := range []Package{one, two, one} {
		put(p)
		got, err := c.Ensure(t.Context(), Local{}, []Package{unknown})
		if err != nil || got[0].SHA256 != p.SHA256 || !strings.HasPrefix(filepath.Base(p.URL), content(t, got[0])) {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	}
	if _, ok := c.Lookup(&unknown); ok {
		t.Error("something is taken for a package of which nothing is known")
	}
}

func TestAnEntryInUseKeepsItsPlace(t *testing.T) {
	files := t.TempDir()
	p := write(t, files, "a", "one", 1)
	c := open(t, t.TempDir())
	first, err := c.Ensure(t.Context(), Local{}, []Package{p})
	if err != nil {
		t.Fatal(err)
	}
	was, err := os.Stat(first[0].Dir)
	if err != nil {
		t.Fatal(err)
	}
	unknown := p
	unknown.SHA256, unknown.MD5 = "", ""
	again, err := c.Ensure(t.Context(), Local{}, []Package{unknown})
	if err != nil {
		t.Fatal(err)
	}
	is, err := os.Stat(again[0].Dir)
	if err != nil || !os.SameFile(was, is) || again[0].Dir != first[0].Dir || again[0].Fetched != p.Size {
		t.Errorf("%+v, %v", again, err)
	}
	// One that cannot be read just now is not thrown away for another package.
	if os.Geteuid() == 0 {
		// A directory in the record's place is what even root cannot read.
		record := filepath.Join(first[0].Dir, recordFile)
		if err := os.Rename(record, record+".kept"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(record, 0o755); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Chmod(filepath.Join(first[0].Dir, recordFile), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ensure(t.Context(), Local{}, []Package{p}); err == nil {
		t.Error("an entry that cannot be read was replaced")
	}
	if is, err = os.Stat(first[0].Dir); err != nil || !os.SameFile(was, is) {
		t.Errorf("%v", err)
	}
}

func TestSecretsOfALocationAreNotKept(t *testing.T) {
	files := t.TempDir()
	p := write(t, files, "a", "one", 1)
	data, err := stamp([]byte(`{"url": "x"}`), &Package{FileName: p.FileName, URL: "https://me:word@host.invalid/t/token/c/noarch/a-1-0.conda?sig=1"}, p.SHA256, p.MD5)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := object(data)
	if err != nil || string(fields["url"]) != `"https://host.invalid/c/noarch/a-1-0.conda"` {
		t.Errorf("%v %s", err, data)
	}
}
