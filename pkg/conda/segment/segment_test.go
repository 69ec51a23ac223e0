package segment_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string, limit int64) *segment.Cache {
	t.Helper()
	c, err := segment.OpenCache(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func plan(t testing.TB, packages []segment.Package, o segment.Options) *segment.Env {
	t.Helper()
	if o.Platform == "" {
		o.Platform = "linux-64"
	}
	if o.Prefix == "" {
		o.Prefix = "/opt/env"
	}
	e, err := segment.New(packages, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// digests are those of all segments, by package.
func digests(t testing.TB, c *segment.Cache, e *segment.Env, f segment.Form, workers int) map[string]string {
	t.Helper()
	list, err := c.All(t.Context(), e, f, workers, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for i, s := range list {
		out[e.Parts[i].Package.Name] = s.SHA256 + " " + s.DiffSHA256
	}
	return out
}

func TestSegmentsAreTheSameWhoeverMakesThem(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(append(k.Environment(), k.Many(20, 3, 2000, 1)...)...)
	for _, f := range []segment.Form{segment.Raw, segment.Gzip, segment.Zstd} {
		shared := open(t, t.TempDir(), 0)
		want := digests(t, shared, plan(t, packages, segment.Options{}), f, 1)
		for round := range 3 {
			rand.Shuffle(len(packages), func(i, j int) { packages[i], packages[j] = packages[j], packages[i] })
			e := plan(t, packages, segment.Options{})
			if diff := cmp.Diff(want, digests(t, open(t, t.TempDir(), 0), e, f, round*4)); diff != "" {
				t.Errorf("%v, %d workers, cold: %s", f, round*4, diff)
			}
			if diff := cmp.Diff(want, digests(t, shared, e, f, 4)); diff != "" {
				t.Errorf("%v, warm: %s", f, diff)
			}
		}
	}
}

// TestTheBytes are these: on every machine, and until layout or codec change, or caches would mix.
func TestTheBytes(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	c := open(t, t.TempDir(), 0)
	for f, want := range map[segment.Form][2]string{
		segment.Raw:  {"00b214500d875a07737ed11c09398ae958856d036c23e8cc28a3b2e2b68d1eb0", "00b214500d875a07737ed11c09398ae958856d036c23e8cc28a3b2e2b68d1eb0"},
		segment.Gzip: {"78fbf7edbb5847392ee216e778c26001b4a1e1dd88a8a64196b5466bae56b473", "00b214500d875a07737ed11c09398ae958856d036c23e8cc28a3b2e2b68d1eb0"},
		segment.Zstd: {"8c4b22f3733693d9e96b9e90cea3fa7c07c4ed4f08aebd8aef668dd19e16226d", "00b214500d875a07737ed11c09398ae958856d036c23e8cc28a3b2e2b68d1eb0"},
	} {
		got := digests(t, c, plan(t, packages, segment.Options{Root: "opt/env", Dirs: segment.DirsAll}), f, 1)["lib"]
		if want := want[0] + " " + want[1]; got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
}

func TestKeysSayWhatMatters(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	c := open(t, t.TempDir(), 0)
	keys := func(o segment.Options) map[string]string {
		e := plan(t, packages, o)
		list, err := c.All(t.Context(), e, segment.Gzip, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for i, s := range list {
			out[e.Parts[i].Package.Name] = s.Key
		}
		return out
	}
	base := keys(segment.Options{})
	for _, x := range []struct {
		name    string
		o       segment.Options
		changed []string
	}{
		{"the same again", segment.Options{}, nil},
		{"another prefix", segment.Options{Prefix: "/opt/other"}, []string{"app", "lib", "python"}},
		{"a path that one has is left out", segment.Options{Exclude: []string{"*.a"}}, []string{"lib"}},
		{"a path that nobody has is left out", segment.Options{Exclude: []string{"*.none"}}, nil},
		{"originals", segment.Options{Originals: true}, []string{"app", "lib", "python"}},
		{"another place in the archive", segment.Options{Root: "opt/env"}, []string{"app", "lib", "python"}},
	} {
		var changed []string
		for name, key := range keys(x.o) {
			if key != base[name] {
				changed = append(changed, name)
			}
		}
		slices.Sort(changed)
		if diff := cmp.Diff(x.changed, changed); diff != "" {
			t.Errorf("%s: %s", x.name, diff)
		}
	}
	// A package without placeholders does not depend on the prefix.
	plain := k.Fetch(k.Package(archive.Index{Name: "plain"}, []archive.Input{segmenttest.Plain("x", "y")}))
	key := func(prefix string) string {
		s, err := c.Get(t.Context(), plan(t, plain, segment.Options{Prefix: prefix}).Parts[0], segment.Gzip)
		if err != nil {
			t.Fatal(err)
		}
		return s.Key
	}
	if key("/opt/a") != key("/opt/b") {
		t.Error("the key depends on a prefix that is in no file")
	}
}

// entries reads a tar that is joined from raw segments.
func entries(t testing.TB, c *segment.Cache, e *segment.Env) []*tar.Header {
	t.Helper()
	list, err := c.All(t.Context(), e, segment.Raw, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	for _, s := range list {
		if err := s.CopyMember(&buf); err != nil {
			t.Fatal(err)
		}
	}
	buf.Write(segment.Raw.Closing())
	var out []*tar.Header
	r := tar.NewReader(&buf)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	if buf.Len() != 0 {
		t.Errorf("%d bytes behind the end", buf.Len())
	}
	return out
}

func TestTar(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	e := plan(t, packages, segment.Options{Root: "/opt/env/", Dirs: segment.DirsAll})
	got := map[string]string{}
	for _, h := range entries(t, open(t, t.TempDir(), 0), e) {
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
			t.Errorf("%s belongs to somebody or has other times: %+v", h.Name, h)
		}
		for key := range h.PAXRecords {
			if key != "path" && key != "linkpath" {
				t.Errorf("%s has the record %s", h.Name, key)
			}
		}
		if !h.ModTime.Equal(segment.Time) && h.Name != "opt/env/lib/python3.12/os.py" {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
		if strings.HasPrefix(h.Name, "opt/env/") {
			got[h.Name[len("opt/env/"):]] = fmt.Sprintf("%c %o %s", h.Typeflag, h.Mode, h.Linkname)
		}
		if h.Name == "opt/env/lib/python3.12/os.py" && !h.ModTime.Equal(time.Unix(segmenttest.PycTime, 0)) {
			t.Errorf("python would not take the bytecode: the source has the time %s", h.ModTime)
		}
	}
	for name, want := range map[string]string{
		"": "5 755 ", "lib/": "5 755 ", "share/empty/": "5 755 ", "lib64": "2 777 lib", "lib/libx.so": "2 777 libx.so.1",
		"bin/app": "0 775 ", "bin/pydoc": "0 755 ", "bin/app-script": "0 755 ", "lib/python3.12/site-packages/app/__init__.py": "0 644 ",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if _, ok := got["share/common"]; !ok {
		t.Error("the winner's file is missing")
	}
	for _, p := range e.Parts {
		if p.Package.Name == "lib" && (len(p.Hidden) != 1 || p.Hidden[0].Path != "__clobbers__/lib/share/common") {
			t.Errorf("hidden: %+v", p.Hidden)
		}
	}
}

func TestBrokenFilesAreFoundAndMadeAgain(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	dir := t.TempDir()
	c := open(t, dir, 0)
	e := plan(t, packages, segment.Options{})
	want := digests(t, c, e, segment.Gzip, 2)
	var files []string
	_ = filepath.WalkDir(filepath.Join(dir, "gz"), func(name string, d os.DirEntry, _ error) error {
		if strings.HasSuffix(name, ".gz") {
			files = append(files, name)
		}
		return nil
	})
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1 // the same size: only reading finds it
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files[1], 10); err != nil {
		t.Fatal(err)
	}
	broken := 0
	for range 2 {
		list, err := c.All(t.Context(), e, segment.Gzip, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if err := s.CopyFile(io.Discard); errors.Is(err, segment.ErrBroken) {
				broken++
			} else if err != nil {
				t.Error(err)
			}
		}
	}
	if broken != 1 {
		t.Errorf("%d files were found broken, want 1, once", broken)
	}
	if diff := cmp.Diff(want, digests(t, c, e, segment.Gzip, 2)); diff != "" {
		t.Error(diff)
	}
}

func TestTheCacheStaysBelowItsLimit(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Many(12, 1, 100<<10, 3)...)
	dir := t.TempDir()
	const limit = 1 << 20
	c := open(t, dir, limit)
	e := plan(t, packages, segment.Options{})
	list, err := c.All(t.Context(), e, segment.Raw, 1, nil) // 1.2 MB
	if err != nil {
		t.Fatal(err)
	}
	size := func() (n int64) {
		_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, _ error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				n += info.Size()
			}
			return nil
		})
		return n
	}
	for _, s := range list { // all of it is needed, although it is too much
		if err := s.CopyFile(io.Discard); err != nil {
			t.Error(err)
		}
	}
	e.Close()
	if n := size(); n > limit || n < limit/2 {
		t.Errorf("%d bytes, the limit is %d", n, limit)
	}
	again := plan(t, packages, segment.Options{})
	for _, p := range again.Parts {
		s, err := c.Get(t.Context(), p, segment.Raw)
		if err != nil || s.CopyFile(io.Discard) != nil {
			t.Error("what was dropped is not made again")
		}
	}
}

func TestOneMakesWhatManyWant(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	c := open(t, t.TempDir(), 0)
	var wg sync.WaitGroup
	sums := make([]string, 16)
	for i := range sums {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%4 == 0 {
				cancel() // this one gives up, and must not take others with it
			}
			e, err := segment.New(packages, segment.Options{Platform: "linux-64", Prefix: "/opt/env"})
			if err != nil {
				t.Error(err)
				return
			}
			defer e.Close()
			s, err := c.Get(ctx, e.Parts[0], segment.Gzip)
			switch {
			case err == nil:
				sums[i] = s.SHA256
			case i%4 != 0:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, sum := range sums {
		if i%4 != 0 && sum != sums[1] {
			t.Errorf("%d: %s, want %s", i, sum, sums[1])
		}
	}
}

func TestCancelledWorkLeavesNothing(t *testing.T) {
	k := segmenttest.New(t)
	e := plan(t, k.Fetch(k.Environment()...), segment.Options{})
	dir := t.TempDir()
	c := open(t, dir, 0)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no more")
	cancel(why)
	if _, err := c.All(ctx, e, segment.Gzip, 2, nil); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if list, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(list) != 0 {
		t.Errorf("left: %v %v", list, err)
	}
}

func TestPackagesWithoutDigests(t *testing.T) {
	k := segmenttest.New(t)
	p := k.Package(archive.Index{Name: "x"}, []archive.Input{segmenttest.Plain("x", "y")})
	known := p.SHA256
	p.SHA256 = ""
	list := k.Fetch(p)
	c := open(t, t.TempDir(), 0)
	get := func() *segment.Segment {
		s, err := c.Get(t.Context(), plan(t, list, segment.Options{}).Parts[0], segment.Gzip)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if get().Key == "" {
		t.Error("what was fetched has a digest, and it was written down")
	}
	list[0].SHA256 = known
	withDigest := get().Key
	list[0].SHA256, list[0].MD5 = "", ""
	if get().Key != withDigest {
		t.Error("the key depends on who knows the digest")
	}
	if err := os.Remove(filepath.Join(list[0].Dir, "info", "repodata_record.json")); err != nil {
		t.Fatal(err)
	}
	s := get()
	if s.Key != "" || s.CopyFile(io.Discard) != nil {
		t.Error("without a digest it is made, and not kept")
	}
}

func TestRefused(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	for name, x := range map[string]struct {
		packages []segment.Package
		o        segment.Options
		want     string
	}{
		"Windows":                      {packages, segment.Options{Platform: "win-64", Prefix: "/x"}, "win-64"},
		"macOS with placeholders":      {packages, segment.Options{Platform: "osx-arm64", Prefix: "/x"}, "signed anew"},
		"no python":                    {packages[2:], segment.Options{Platform: "linux-64", Prefix: "/x"}, "no python"},
		"twice":                        {slices.Concat(packages, packages[:1]), segment.Options{Platform: "linux-64", Prefix: "/x"}, "two packages python"},
		"clobbers":                     {packages, segment.Options{Platform: "linux-64", Prefix: "/x", RefuseClobbers: true}, "share/common"},
		"a prefix that does not fit":   {packages, segment.Options{Platform: "linux-64", Prefix: "/" + strings.Repeat("x", 300)}, "has room for"},
		"a pattern with brackets":      {packages, segment.Options{Platform: "linux-64", Prefix: "/x", Exclude: []string{"[a]"}}, "not understood"},
		"another package in its place": {[]segment.Package{{Package: packages[1].Package, Dir: packages[0].Dir}}, segment.Options{Platform: "linux-64", Prefix: "/x"}, "lies in"},
	} {
		e, err := segment.New(x.packages, x.o)
		if err == nil {
			e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVarsAndActivation(t *testing.T) {
	k := segmenttest.New(t)
	e := plan(t, k.Fetch(k.Environment()...), segment.Options{})
	vars, err := e.Vars()
	if diff := cmp.Diff([]segment.Var{{Name: "LIB_HOME", Value: "it's/here"}}, vars); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if diff := cmp.Diff([]string{"etc/conda/activate.d/app.sh"}, e.Activation()); diff != "" {
		t.Error(diff)
	}
	bad := k.Fetch(k.Package(archive.Index{Name: "bad"}, []archive.Input{segmenttest.Plain("etc/conda/env_vars.d/x.json", `{"A B": "x"}`)}))
	if _, err := plan(t, bad, segment.Options{}).Vars(); err == nil {
		t.Error("a name with a space is a variable")
	}
}

func TestPackagesDoNotSayWhichEnvironmentIsActive(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{
		segmenttest.Plain("etc/conda/env_vars.d/x.json", `{"PATH": "/evil", "CONDA_PREFIX": "/evil", "CONDA_SHLVL": "9", "PATHS": "fine", "MY_CONDA_X": "fine"}`),
	}))
	vars, err := plan(t, list, segment.Options{}).Vars()
	if diff := cmp.Diff([]segment.Var{{Name: "MY_CONDA_X", Value: "fine"}, {Name: "PATHS", Value: "fine"}}, vars); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestNoSecretsAreInTheRecords(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{segmenttest.Plain("x", "y")}))
	list[0].Channel, list[0].URL = "https://user:SECRET@host/t/SECRET/chan", "https://user:SECRET@host/t/SECRET/chan/linux-64/x-1.0-0.conda?sig=SECRET"
	e := plan(t, list, segment.Options{})
	extras, err := e.Meta([]*segment.Segment{{}}, []map[string]segment.File{nil}, "entrepot test")
	if err != nil || len(extras) != 2 {
		t.Fatal(extras, err)
	}
	for i, want := range []string{`"url": "https://host/chan/linux-64/x-1.0-0.conda"`, "+https://host/chan/linux-64::x-1.0-0"} {
		if text := string(extras[i].Data); strings.Contains(text, "SECRET") || strings.Contains(text, "user") || !strings.Contains(text, want) {
			t.Errorf("%s:\n%s", extras[i].Path, text)
		}
	}
}
