package pack_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(t testing.TB, f pack.Format) pack.Options {
	t.Helper()
	c, err := segment.OpenCache(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return pack.Options{Format: f, Platform: "linux-64", Cache: c, Workers: 2, Tool: "entrepot test"}
}

func write(t testing.TB, packages []segment.Package, o pack.Options) []byte {
	t.Helper()
	var buf bytes.Buffer
	res, err := pack.Write(t.Context(), &buf, packages, o)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	if res.Bytes != int64(buf.Len()) || res.SHA256 != hex.EncodeToString(sum[:]) || res.Packages != len(packages) {
		t.Errorf("%+v does not describe %d bytes", res, buf.Len())
	}
	return buf.Bytes()
}

func unpackTar(t testing.TB, data []byte, f pack.Format, dir string) {
	t.Helper()
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch f {
	case pack.TarGz:
		r, err = gzip.NewReader(r)
	case pack.TarZst:
		r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(tr); err == nil {
				if err = os.WriteFile(name, content, 0o600); err == nil {
					err = os.Chmod(name, fs.FileMode(h.Mode))
				}
			}
		default:
			t.Fatalf("%s is of type %c", h.Name, h.Typeflag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if rest, err := io.ReadAll(r); err != nil || len(bytes.Trim(rest, "\x00")) > 0 {
		t.Errorf("%d bytes behind the end, %v", len(rest), err)
	}
}

// tree describes files: path → type, mode, and digest or text.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case rel == "." || strings.HasPrefix(rel, "conda-meta") || rel == "CACHEDIR.TAG":
		case info.IsDir():
			out[rel] = "directory"
		case info.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(name)
			if err != nil {
				return err
			}
			out[rel] = "link " + text
		default:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			out[rel] = info.Mode().String() + " " + fmt.Sprintf("%x", sha256.Sum256(data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// installed makes the environment with the installer.
func installed(t testing.TB, k *segmenttest.Kit, list []install.Package, prefix, target string) map[string]string {
	t.Helper()
	o := install.Options{Cache: k.Cache, Platform: "linux-64", NoSync: true, Target: target}
	if _, err := install.Install(t.Context(), prefix, slices.Clone(list), o); err != nil {
		t.Fatal(err)
	}
	return tree(t, prefix)
}

func without(m map[string]string, names ...string) map[string]string {
	for _, n := range names {
		delete(m, n)
	}
	return m
}

var programs = []string{"bin/activate", "bin/activate.fish", "bin/deactivate", "bin/conda-unpack"}

func TestForAKnownPlaceItIsWhatTheInstallerLeaves(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Environment()
	for _, prefix := range []string{"/opt/env", "/srv/" + strings.Repeat("long/", 25) + "env", "/srv/with space/env"} {
		want := installed(t, k, list, filepath.Join(t.TempDir(), "env"), prefix)
		for _, f := range []pack.Format{pack.TarGz, pack.TarZst, pack.Tar} {
			o := options(t, f)
			o.Prefix = prefix
			dir := t.TempDir()
			unpackTar(t, write(t, k.Fetch(list...), o), f, dir)
			if diff := cmp.Diff(want, without(tree(t, dir), programs...)); diff != "" {
				t.Errorf("%s for %s: installed (-), packed (+):\n%s", f, prefix, diff)
			}
		}
	}
}

func TestTheRecordsAreThoseOfTheInstaller(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Environment()
	prefix, dir := filepath.Join(t.TempDir(), "env"), t.TempDir()
	installed(t, k, list, prefix, "/opt/env")
	o := options(t, pack.TarGz)
	o.Prefix = "/opt/env"
	unpackTar(t, write(t, k.Fetch(list...), o), pack.TarGz, dir)
	want, err := install.Read(prefix)
	if err != nil {
		t.Fatal(err)
	}
	got, err := install.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range slices.Concat(want, got) {
		r.Link, r.ExtractedDir, r.TarballPath, r.Raw = install.Link{}, "", "", nil
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(install.Record{})); diff != "" {
		t.Errorf("installed (-), packed (+):\n%s", diff)
	}
	data, err := os.ReadFile(filepath.Join(dir, "conda-meta", "lib-1.0-0.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, empty := range []string{`"extracted_package_dir": ""`, `"package_tarball_full_path": ""`, `"source": ""`} {
		if !strings.Contains(string(data), empty) {
			t.Errorf("%s is missing in %s", empty, data)
		}
	}
	if !install.IsPrefix(dir) {
		t.Error("conda-meta/history is missing")
	}
}

func TestTheSameBytes(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(append(k.Environment(), k.Many(10, 2, 3000, 1)...)...)
	for _, f := range []pack.Format{pack.TarGz, pack.TarZst, pack.Tar, pack.Zip} {
		o := options(t, f)
		want := write(t, packages, o)
		for round := range 3 {
			rand.Shuffle(len(packages), func(i, j int) { packages[i], packages[j] = packages[j], packages[i] })
			o.Workers = 1 + 3*round
			if !bytes.Equal(want, write(t, packages, o)) {
				t.Errorf("%s: warm, %d workers: other bytes", f, o.Workers)
			}
			cold := options(t, f)
			cold.Workers = 1 + 3*round
			if !bytes.Equal(want, write(t, packages, cold)) {
				t.Errorf("%s: cold, %d workers: other bytes", f, o.Workers)
			}
		}
	}
}

func python(t testing.TB) string {
	t.Helper()
	name, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	return name
}

func TestUnpackedElsewhere(t *testing.T) {
	py := python(t)
	k := segmenttest.New(t)
	list := k.Environment()
	for _, f := range []pack.Format{pack.TarGz, pack.TarZst} {
		for _, place := range []string{"env", "with space/env", strings.Repeat("long/", 20) + "env"} {
			dir := filepath.Join(t.TempDir(), place)
			unpackTar(t, write(t, k.Fetch(list...), options(t, f)), f, dir)
			for range 2 { // the second run finds nothing to do
				if out, err := exec.Command(py, filepath.Join(dir, "bin", "conda-unpack")).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			// Scripts that find their interpreter by PATH, and what runs conda-unpack, differ from an installation.
			differ := append([]string{"bin/app", "bin/app-script", "bin/pydoc"}, programs...)
			want := without(installed(t, k, list, filepath.Join(t.TempDir(), "env"), dir), differ...)
			if diff := cmp.Diff(want, without(tree(t, dir), differ...)); diff != "" {
				t.Errorf("%s in %q: installed (-), unpacked (+):\n%s", f, place, diff)
			}
			for name, line := range map[string]string{
				"bin/app": "#!/usr/bin/env python3.12", "bin/app-script": "#!/usr/bin/env python", "bin/pydoc": "#!/usr/bin/env python3.12",
			} {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if first, _, _ := strings.Cut(string(data), "\n"); err != nil || first != line {
					t.Errorf("%s begins with %q, %v", name, first, err)
				}
			}
		}
	}
}

func TestUnpackRefusesAPlaceThatDoesNotFit(t *testing.T) {
	py := python(t)
	k := segmenttest.New(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("very-long/", 25))
	unpackTar(t, write(t, k.Fetch(k.Environment()...), options(t, pack.TarGz)), pack.TarGz, dir)
	before := tree(t, dir)
	out, err := exec.Command(py, filepath.Join(dir, "bin", "conda-unpack")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "has no room") {
		t.Errorf("%v %s", err, out)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("something was changed: %s", diff)
	}
	out, err = exec.Command(py, filepath.Join(dir, "bin", "conda-unpack"), "--version").CombinedOutput()
	if err != nil || string(out) != "conda-unpack entrepot test\n" {
		t.Errorf("%v %s", err, out)
	}
}

// TestUnpackLikeRewrite runs the replacing of conda-unpack beside the installer's, on files of all kinds.
func TestUnpackLikeRewrite(t *testing.T) {
	py := python(t)
	k := segmenttest.New(t)
	rng := rand.New(rand.NewPCG(5, 5))
	var inputs []archive.Input
	for i := range 120 {
		data := soup(rng)
		if i%2 == 0 {
			inputs = append(inputs, segmenttest.Text(fmt.Sprintf("share/t%d", i), data))
		} else {
			inputs = append(inputs, segmenttest.Binary(fmt.Sprintf("share/b%d", i), data))
		}
	}
	list := []install.Package{k.Package(archive.Index{Name: "soup"}, inputs)}
	for _, place := range []string{"e", "with space", strings.Repeat("longer/", 14)} {
		dir := filepath.Join(t.TempDir(), place)
		unpackTar(t, write(t, k.Fetch(list...), options(t, pack.Tar)), pack.Tar, dir)
		if out, err := exec.Command(py, filepath.Join(dir, "bin", "conda-unpack")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want := installed(t, k, list, filepath.Join(t.TempDir(), "env"), dir)
		if diff := cmp.Diff(want, without(tree(t, dir), append([]string{"bin"}, programs...)...)); diff != "" {
			t.Errorf("%q: installed (-), unpacked (+):\n%s", place, diff)
		}
	}
}

// soup is a file of placeholders in several encodings, zeros, and other bytes.
func soup(rng *rand.Rand) string {
	wide := func(s string, unit int, big bool) string {
		out := make([]byte, unit*len(s))
		for i := range len(s) {
			if big {
				out[i*unit+unit-1] = s[i]
			} else {
				out[i*unit] = s[i]
			}
		}
		return string(out)
	}
	ph := segmenttest.Placeholder
	parts := []string{
		ph, ph, ph + "/bin:" + ph, "\x00", "\x00\x00\x00\x00", "text", "/", "\n", "é", "\xff", " ",
		wide(ph, 2, false), wide(ph, 2, true), wide(ph, 4, false), wide(ph, 4, true), wide("/x", 2, false),
	}
	var b strings.Builder
	switch rng.IntN(4) {
	case 0:
		b.WriteString("#!" + ph + "/bin/python3.12 -E\n")
	case 1:
		b.WriteString("#!" + ph + "/bin/perl -w")
	}
	for range rng.IntN(12) {
		b.WriteString(parts[rng.IntN(len(parts))])
	}
	return b.String()
}

func TestShellScripts(t *testing.T) {
	k := segmenttest.New(t)
	dir := filepath.Join(t.TempDir(), "my env")
	unpackTar(t, write(t, k.Fetch(k.Environment()...), options(t, pack.TarGz)), pack.TarGz, dir)
	const script = `set -eu
. "$1/bin/activate"
. "$1/bin/activate"
echo "$CONDA_PREFIX|$APP_ACTIVE|$LIB_HOME|$CONDA_SHLVL|${PATH%%:*}"
. "$1/bin/deactivate"
echo "${CONDA_PREFIX:-}|${APP_ACTIVE:-}|${LIB_HOME:-}|${CONDA_SHLVL:-}|$PATH"
`
	ran := 0
	for _, shell := range []string{"bash", "zsh", "ksh", "dash", "sh"} {
		name, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(name, file, dir)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		want := dir + "|yes|it's/here|1|" + dir + "/bin\n||||/usr/bin:/bin\n"
		if err != nil || string(out) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", shell, err, out, want)
		}
		ran++
	}
	if ran == 0 {
		t.Skip("there is no shell")
	}
}

func TestZip(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	read := func(o pack.Options) map[string]string {
		data := write(t, packages, o)
		r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, f := range r.File {
			if _, ok := out[f.Name]; ok {
				t.Errorf("%s is there twice", f.Name)
			}
			rc, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(rc)
			if err != nil {
				t.Fatal(err)
			}
			out[f.Name] = f.Mode().String() + " " + string(content)
		}
		return out
	}
	copies := read(options(t, pack.Zip))
	if copies["lib/libx.so"] != copies["lib/libx.so.1"] || !strings.Contains(copies["lib/libx.so"], "ELF") {
		t.Error("a link is not the copy of its file")
	}
	if copies["lib64/libx.so"] != copies["lib/libx.so.1"] || copies["lib64/pkgconfig/x.pc"] != copies["lib/pkgconfig/x.pc"] {
		t.Error("a link to a directory is not its copy")
	}
	o := options(t, pack.Zip)
	o.ZipLinks, o.Root = true, "top"
	links := read(o)
	if links["top/lib/libx.so"] != "Lrwxrwxrwx libx.so.1" || !strings.HasPrefix(links["top/bin/conda-unpack"], "-rwxr-xr-x #!") {
		t.Errorf("%q %q", links["top/lib/libx.so"], links["top/bin/conda-unpack"])
	}
	dangling := k.Fetch(k.Package(archive.Index{Name: "d"}, []archive.Input{{Path: "lib/l", Kind: archive.Symlink, Link: "nothing"}}))
	if _, err := pack.Write(t.Context(), io.Discard, dangling, options(t, pack.Zip)); err == nil || !strings.Contains(err.Error(), "lib/l points to nothing") {
		t.Errorf("%v", err)
	}
}

func TestAPackageThatHasOurScripts(t *testing.T) {
	k := segmenttest.New(t)
	conda := k.Package(archive.Index{Name: "conda"}, []archive.Input{segmenttest.Plain("bin/activate", "conda's own"), segmenttest.Plain("bin/conda-unpack", "too")})
	for prefix, want := range map[string]string{"": "# Activates", "/opt/env": "conda's own"} {
		o := options(t, pack.Tar)
		o.Prefix = prefix
		dir := t.TempDir()
		unpackTar(t, write(t, k.Fetch(conda), o), pack.Tar, dir)
		data, err := os.ReadFile(filepath.Join(dir, "bin", "activate"))
		if err != nil || !strings.HasPrefix(string(data), want) {
			t.Errorf("for %q: %.20s %v", prefix, data, err)
		}
	}
}

func TestFormats(t *testing.T) {
	for name, want := range map[string]pack.Format{
		"a.tar.gz": pack.TarGz, "a.tgz": pack.TarGz, "x/y.tar.zst": pack.TarZst, "a.tar": pack.Tar, "a.zip": pack.Zip,
	} {
		if f, err := pack.FormatOf(name); err != nil || f != want {
			t.Errorf("%s: %s %v", name, f, err)
		}
	}
	for _, name := range []string{"a.squashfs", "a.tar.bz2", "a"} {
		if _, err := pack.FormatOf(name); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	k := segmenttest.New(t)
	if _, err := pack.Write(t.Context(), io.Discard, k.Fetch(k.Environment()...), options(t, "rar")); err == nil {
		t.Error("rar is accepted")
	}
	o := options(t, pack.Tar)
	o.RefuseClobbers = true
	var clobber *link.ClobberError
	if _, err := pack.Write(t.Context(), io.Discard, k.Fetch(k.Environment()...), o); !errors.As(err, &clobber) {
		t.Errorf("%v", err)
	}
}
