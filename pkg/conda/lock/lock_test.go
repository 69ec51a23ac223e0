package lock_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

const pixiSeven = `version: 7
platforms:
- name: gpu
  subdir: linux-64
  virtual-packages:
  - __cuda=12.9
- name: linux-64
environments:
  default:
    channels:
    - url: https://host.example/main/
    packages:
      gpu:
      - conda: https://host.example/main/linux-64/_openmp_mutex-4.5-2_gnu.tar.bz2
      - pypi: https://files.example/six-1.17.0-py2.py3-none-any.whl
        extras: [x]
      linux-64:
      - conda: https://host.example/main/noarch/six-1.17.0-pyhe01879c_1.conda
packages:
- conda: https://host.example/main/linux-64/_openmp_mutex-4.5-2_gnu.tar.bz2
  build_number: 16
  sha256: fbe2c5e56a653bebb982eda4876a9178aedfc2b545f25d0ce9c4c0b508253d22
  depends:
  - libgomp >=7.5.0
  odd_key:
    kept: '1.0'
  size: 23621
- conda: https://host.example/main/noarch/six-1.17.0-pyhe01879c_1.conda
  md5: 3339e3b65d58accf4ca4fb8748ab16b3
  purls: []
- pypi: https://files.example/six-1.17.0-py2.py3-none-any.whl
  name: six
  version: 1.17.0
  requires_python: '>=2.7,!=3.0.*'
`

func TestAPixiLockIsReadAndWrittenAsItWas(t *testing.T) {
	p, err := lock.ParsePixi([]byte(strings.Replace(pixiSeven, "        extras: [x]\n", "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Replace(pixiSeven, "        extras: [x]\n", "", 1), string(p.Bytes())); diff != "" {
		t.Error(diff)
	}
	p, err = lock.ParsePixi([]byte(pixiSeven))
	if err != nil {
		t.Fatal(err)
	}
	if p.Version() != 7 || !slices.Equal(p.Environments(), []string{"default"}) || !slices.Equal(p.Platforms("default"), []string{"gpu", "linux-64"}) ||
		p.Subdir("gpu") != "linux-64" || !slices.Equal(p.VirtualPackages("gpu"), []string{"__cuda=12.9"}) || !slices.Equal(p.Channels("default"), []string{"https://host.example/main"}) {
		t.Errorf("%d %v %v %s %v %v", p.Version(), p.Environments(), p.Platforms("default"), p.Subdir("gpu"), p.VirtualPackages("gpu"), p.Channels("default"))
	}
	gpu, err := p.Packages("default", "gpu")
	if err != nil {
		t.Fatal(err)
	}
	want := []lock.Package{{
		Manager: lock.Conda, Location: "https://host.example/main/linux-64/_openmp_mutex-4.5-2_gnu.tar.bz2",
		Channel: "https://host.example/main", FileName: "_openmp_mutex-4.5-2_gnu.tar.bz2",
		Record: repodata.Record{
			Name: "_openmp_mutex", Version: "4.5", Build: "2_gnu", BuildNumber: 16, Subdir: "linux-64", Size: 23621, Depends: []string{"libgomp >=7.5.0"},
			SHA256: "fbe2c5e56a653bebb982eda4876a9178aedfc2b545f25d0ce9c4c0b508253d22",
		},
	}, {
		Manager: lock.PyPI, Location: "https://files.example/six-1.17.0-py2.py3-none-any.whl", Record: repodata.Record{Name: "six", Version: "1.17.0"},
	}}
	if diff := cmp.Diff(want, gpu); diff != "" {
		t.Error(diff)
	}
	six, err := p.Packages("default", "linux-64")
	if err != nil || len(six) != 1 || six[0].NoArch != repodata.NoArchPython || six[0].BuildNumber != 1 || six[0].Purls == nil {
		t.Errorf("%+v, %v", six, err)
	}
	for _, c := range [][2]string{{"other", "gpu"}, {"default", "osx-64"}} {
		var e *lock.Error
		if _, err := p.Packages(c[0], c[1]); !errors.As(err, &e) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestUnusedPackagesAreLeftOut(t *testing.T) {
	text := strings.Replace(pixiSeven, "packages:\n- conda: https://host.example/main/linux-64/_o", "packages:\n- conda: https://host.example/unused-1-0.conda\n- conda: https://host.example/main/linux-64/_o", 1)
	p, err := lock.ParsePixi([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(p.Bytes()), "unused") {
		t.Error("an unused package was written")
	}
}

func TestBrokenLocksAreRefusedWithTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "a lock file must be a map",
		"a: [":                     "line 1",
		"version: 99\n":            "line 1, column 10: version 99 of pixi.lock is newer",
		"version: 5\n":             "too old",
		"version: x\n":             "line 1, column 10: version must be a whole number",
		"version: 7\n":             "environments must be a map",
		"version: 7\na: &x 1\n":    "line 2, column 4: anchors",
		"version: 7\nversion: 7\n": "twice",
		"version: 7\nenvironments: {}\npackages:\n- foo: 1\n": "line 4, column 3: a package must have one of",
		"version: 7\nenvironments:\n  default:\n    channels: []\n    packages:\n      linux-64:\n      - conda: https://h/a-1-0.conda\npackages: []\n": "line 7, column 9: conda https://h/a-1-0.conda is used",
	} {
		_, err := lock.ParsePixi([]byte(text))
		var e *lock.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

var somePackages = []lock.Package{
	{
		Manager: lock.Conda, Location: "https://host.example/main/noarch/six-1.17.0-pyhe01879c_1.conda", Channel: "https://host.example/main", FileName: "six-1.17.0-pyhe01879c_1.conda",
		Record: repodata.Record{
			Name: "six", Version: "1.17.0", Build: "pyhe01879c_1", BuildNumber: 1, Subdir: "noarch", NoArch: repodata.NoArchPython, Depends: []string{"python", "python >=3.9"},
			MD5: "3339e3b65d58accf4ca4fb8748ab16b3", SHA256: strings.Repeat("ab", 32), Size: 18455, Timestamp: 1753199211006, License: "MIT",
		},
	},
	{
		Manager: lock.Conda, Location: "https://host.example/main/linux-64/odd-1.10-x.conda", Channel: "https://elsewhere.example/ch", FileName: "odd-1.10-x.conda",
		Record: repodata.Record{
			Name: "odd", Version: "1.10", Build: "x", BuildNumber: 3, Subdir: "linux-64", MD5: strings.Repeat("12", 16),
			Constrains: []string{"a <1"}, TrackFeatures: []string{"f"},
		},
	},
}

func TestANewPixiLockSaysWhatItWasMadeOf(t *testing.T) {
	for version := 6; version <= 7; version++ {
		p, err := lock.NewPixi(version, map[string]lock.PixiEnvironment{"default": {
			Channels: []string{"https://host.example/main"}, Packages: map[string][]lock.Package{"linux-64": somePackages},
			VirtualPackages: map[string][]string{"linux-64": {"__glibc=2.28"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		again, err := lock.ParsePixi(p.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Bytes())
		}
		if !bytes.Equal(again.Bytes(), p.Bytes()) {
			t.Errorf("version %d is written differently the second time:\n%s", version, cmp.Diff(string(p.Bytes()), string(again.Bytes())))
		}
		got, err := again.Packages("default", "linux-64")
		if err != nil {
			t.Fatal(err)
		}
		want := slices.SortedFunc(slices.Values(somePackages), func(a, b lock.Package) int { return strings.Compare(a.Location, b.Location) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d: %s", version, diff)
		}
		if has := strings.Contains(string(p.Bytes()), "__glibc=2.28"); has != (version == 7) {
			t.Errorf("version %d: %s", version, p.Bytes())
		}
	}
	if _, err := lock.NewPixi(5, nil); err == nil {
		t.Error("version 5 was written")
	}
}

func TestANewCondaLockMergesDependencies(t *testing.T) {
	l, err := lock.NewCondaLock(map[string][]lock.Package{"linux-64": somePackages, "osx-64": somePackages[:1]}, lock.CondaLockOptions{
		Channels: []string{"main"}, Sources: []string{"environment.yml"}, Hashes: map[string]string{"linux-64": "0123"},
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := lock.ParseCondaLock(l.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, l.Bytes())
	}
	if diff := cmp.Diff(string(l.Bytes()), string(again.Bytes())); diff != "" {
		t.Error(diff)
	}
	got, err := again.Packages("linux-64", "main")
	if err != nil || len(got) != 2 || got[0].Name != "odd" || got[0].Version != "1.10" {
		t.Fatalf("%+v, %v", got, err)
	}
	if diff := cmp.Diff([]string{"python >=3.9"}, got[1].Depends); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(again.Categories(), []string{"main"}) || !slices.Equal(again.Platforms(), []string{"linux-64", "osx-64"}) || !slices.Equal(again.Channels(), []string{"main"}) {
		t.Errorf("%v %v %v", again.Categories(), again.Platforms(), again.Channels())
	}
	none := slices.Clone(somePackages)
	none[0].MD5 = ""
	if _, err := lock.NewCondaLock(map[string][]lock.Package{"linux-64": none}, lock.CondaLockOptions{}); err == nil {
		t.Error("a package without MD5 was locked; conda-lock would refuse the file")
	}
	if merged, err := lock.NewCondaLock(map[string][]lock.Package{"linux-64": {func() lock.Package {
		p := somePackages[0]
		p.Depends = []string{"a >=1", "a <2", "b", "b 1.* x*"}
		return p
	}()}}, lock.CondaLockOptions{}); err != nil || !strings.Contains(string(merged.Bytes()), "a: '>=1,<2'\n    b: 1.* x*\n") {
		t.Errorf("%v\n%s", err, merged.Bytes())
	}
}

func TestCondaLocksAreChecked(t *testing.T) {
	const ok = "metadata:\n  platforms: [linux-64]\npackage:\n- name: a\n  version: '1'\n  manager: conda\n  platform: linux-64\n  url: https://h/linux-64/a-1-0.conda\n  hash: {md5: x}\n"
	if _, err := lock.ParseCondaLock([]byte(ok)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"version":  {"version: 2\n" + ok, "version 2"},
		"key":      {"extra: 1\n" + ok, "has no key extra"},
		"manager":  {strings.Replace(ok, "manager: conda", "manager: npm", 1), "line 6, column 12: manager must be conda or pip"},
		"no url":   {strings.Replace(ok, "  url: https://h/linux-64/a-1-0.conda\n", "", 1), "has no url"},
		"no hash":  {strings.Replace(ok, "  hash: {md5: x}\n", "", 1), "hash of a must be a map"},
		"twice":    {ok + ok[strings.Index(ok, "- name"):], "twice"},
		"metadata": {"package: []\n", "metadata must be a map"},
	} {
		_, err := lock.ParseCondaLock([]byte(c[0]))
		if err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", name, err, c[1])
		}
	}
}

func TestExplicitFiles(t *testing.T) {
	text := "# made by hand\n# platform: linux-64\n@EXPLICIT\nhttps://h.example/ch/linux-64/x264-1%21164.3095-h166bdaf_2.tar.bz2#0123456789abcdef0123456789abcdef\n" +
		"https://h.example/ch/noarch/six-1-py_0.conda#sha256:" + strings.Repeat("0a", 32) + "\n/pkgs/noarch/a-1-0.conda\n"
	e, err := lock.ParseExplicit([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if e.Platform != "linux-64" || len(e.Packages) != 3 || e.Packages[0].Version != "1!164.3095" || e.Packages[0].MD5 == "" || e.Packages[1].SHA256 == "" || e.Packages[2].Name != "a" {
		t.Errorf("%+v", e)
	}
	if diff := cmp.Diff(text[len("# made by hand\n"):], string(e.Bytes())); diff != "" {
		t.Error(diff)
	}
	specs, err := lock.ParseExplicit([]byte("numpy >=1\n\n# c\npython\n"))
	if err != nil || len(specs.Specs) != 2 || len(specs.Packages) != 0 || string(specs.Bytes()) != "numpy >=1\npython\n" {
		t.Errorf("%+v, %v", specs, err)
	}
	for _, bad := range []string{"@EXPLICIT\nnumpy\n", "@EXPLICIT\nhttps://h/a-1-0.conda#xyz\n", "@EXPLICIT\nhttps://h/a-1-0.conda#abcd\n", "numpy\n@EXPLICIT\n", "@EXPLICIT\nhttps://h/a-1-0.conda#sha256:0123456789abcdef0123456789abcdef\n"} {
		var e *lock.Error
		if _, err := lock.ParseExplicit([]byte(bad)); !errors.As(err, &e) || e.Line != 2 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// shared is the data folder beside the repository; what must always hold is tested above.
func shared(t *testing.T, parts ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "..", "shared", "data"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no data folder; the other tests still run")
	}
	return path
}

func unpack(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".zst") {
		return raw
	}
	dec, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	data, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRealLocksComeOutAsTheyWere(t *testing.T) {
	dir := shared(t, "05-locks")
	n := map[string]int{}
	for _, pattern := range []string{"*pixi.lock.zst", "*conda-lock.yml.zst", "*.lock"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data := unpack(t, file)
			out, packages, err := roundTrip(pattern, data)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			n[pattern]++
			if packages == 0 {
				t.Errorf("%s has no packages", file)
			}
			if pattern == "*.lock" { // comments are not kept, and other people's files vary in form
				continue
			}
			if !bytes.Equal(data, out) {
				t.Errorf("%s: %s", file, firstDifference(data, out))
			}
		}
	}
	if len(n) != 3 {
		t.Errorf("read %v", n)
	}
}

func roundTrip(pattern string, data []byte) (out []byte, packages int, err error) {
	switch pattern {
	case "*pixi.lock.zst":
		p, err := lock.ParsePixi(data)
		if err != nil {
			return nil, 0, err
		}
		for _, env := range p.Environments() {
			for _, platform := range p.Platforms(env) {
				list, err := p.Packages(env, platform)
				if err != nil {
					return nil, 0, err
				}
				packages += len(list)
			}
		}
		return p.Bytes(), packages, nil
	case "*conda-lock.yml.zst":
		l, err := lock.ParseCondaLock(data)
		if err != nil {
			return nil, 0, err
		}
		for _, platform := range l.Platforms() {
			list, err := l.Packages(platform)
			if err != nil {
				return nil, 0, err
			}
			packages += len(list)
		}
		return l.Bytes(), packages, nil
	}
	e, err := lock.ParseExplicit(data)
	if err != nil {
		return nil, 0, err
	}
	return e.Bytes(), len(e.Packages) + len(e.Specs), nil
}

func firstDifference(a, b []byte) string {
	x, y := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for i := range x {
		if i >= len(y) || x[i] != y[i] {
			return fmt.Sprintf("line %d:\n%s", i+1, cmp.Diff(strings.Join(x[i:min(i+4, len(x))], "\n"), strings.Join(y[min(i, len(y)):min(i+4, len(y))], "\n")))
		}
	}
	return "the end"
}

// What a lock leaves out must follow from the location as the real channel has it.
func TestWhatLocationsImplyIsTrue(t *testing.T) {
	dir := shared(t, "01-harvested-channels", "conda-forge")
	want := map[string]repodata.Record{}
	for _, subdir := range []string{"linux-64", "noarch"} {
		data := unpack(t, filepath.Join(dir, subdir, "repodata.json.zst"))
		_, err := repodata.Read(bytes.NewReader(data), repodata.ReadOptions{Record: func(_ repodata.Bucket, _ string, raw []byte) error {
			rec, err := repodata.ParseRecord(bytes.Clone(raw))
			want[rec.SHA256] = rec
			return err
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := lock.ParsePixi(unpack(t, shared(t, "05-locks", "scipy_scipy-pixi.lock.zst")))
	if err != nil {
		t.Fatal(err)
	}
	compared := map[string]bool{}
	for _, env := range p.Environments() {
		list, err := p.Packages(env, "linux-64")
		if err != nil {
			continue
		}
		for _, got := range list {
			rec, ok := want[got.SHA256]
			if got.Manager != lock.Conda || !ok {
				continue
			}
			compared[got.Location] = true
			if got.Name != rec.Name || got.Version != rec.Version || got.Build != rec.Build || got.BuildNumber != rec.BuildNumber || got.Subdir != rec.Subdir || got.Subdir == "noarch" && got.NoArch != rec.NoArch {
				t.Errorf("%s: %s %s %s %d %s %q, but the channel says %s %s %s %d %s %q", got.Location, got.Name, got.Version, got.Build, got.BuildNumber, got.Subdir, got.NoArch,
					rec.Name, rec.Version, rec.Build, rec.BuildNumber, rec.Subdir, rec.NoArch)
			}
		}
	}
	if len(compared) < 50 {
		t.Errorf("only %d packages were compared", len(compared))
	}
}
