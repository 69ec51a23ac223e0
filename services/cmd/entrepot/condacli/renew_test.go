package condacli

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func TestAnEditedFileGetsIntoNoPackAndNoImage(t *testing.T) {
	lock := locked(t)["pixi"]
	cache := filepath.Join(t.TempDir(), "packages")
	digest := func(segments string, args ...string) (sum, errs string) {
		t.Helper()
		args = append(args, "--lock", lock, "--platform", "linux-64", "--json", "--package-cache", cache, "--segment-cache", segments)
		out, errs, code := run(t, "", args...)
		var rep struct{ SHA256, Digest string }
		if code != 0 || json.Unmarshal([]byte(out), &rep) != nil {
			t.Fatalf("%v: %d %s%s", args, code, out, errs)
		}
		return rep.SHA256 + rep.Digest, errs
	}
	for name, args := range map[string][]string{
		"tar.gz": {"pack", "-o", filepath.Join(t.TempDir(), "x.tar.gz")}, "zip": {"pack", "-o", filepath.Join(t.TempDir(), "x.zip"), "--zip-symlinks"},
		"image": {"image", "-o", filepath.Join(t.TempDir(), "x.tar")},
	} {
		if args[0] == "pack" {
			args = append(args, "-f")
		}
		want, _ := digest(t.TempDir(), args...)
		files, err := filepath.Glob(filepath.Join(cache, "lib-2-0*", "share", "lib"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.WriteFile(files[0], []byte("LIB"), 0o644); err != nil {
			t.Fatal(err)
		}
		got, errs := digest(t.TempDir(), args...)
		if got != want || !strings.Contains(errs, "something had written to share/lib") {
			t.Errorf("%s: %s, want %s; %s", name, got, want, errs)
		}
		if again, errs := digest(t.TempDir(), args...); again != want || strings.Contains(errs, "written") {
			t.Errorf("%s: the package cache was not mended: %s", name, errs)
		}
	}
	// Where nothing can be fetched again it is said, and nothing is made.
	files, _ := filepath.Glob(filepath.Join(cache, "lib-2-0*", "share", "lib"))
	if err := os.WriteFile(files[0], []byte("LIB"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if _, name, ok := strings.Cut(line, "file://"); ok && strings.HasSuffix(name, ".conda") {
			_ = os.Remove(name)
		}
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	_, errs, code := run(t, "", "pack", "--lock", lock, "--platform", "linux-64", "--package-cache", cache, "--segment-cache", t.TempDir(), "-o", file)
	if code == 0 || !strings.Contains(errs, "is not what the package lists") || !strings.Contains(errs, "fetched again") {
		t.Errorf("%d %s", code, errs)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("an archive was written")
	}
}

func TestAListThatIsWrongFromTheBeginningIsNotHeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "linux-64")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	d, err := archive.Create(t.Context(), &buf, dist.Conda, archive.Meta{Index: archive.Index{Name: "lib", Version: "2", Build: "0", Subdir: "linux-64"}}, []archive.Input{
		{Path: "share/lib", Data: []byte("as it is listed")},
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, d.Filename())
	if err := os.WriteFile(name, changedInside(t, buf.Bytes(), "as it is listed", "As it was built"), 0o644); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(t.TempDir(), "explicit.txt")
	if err := os.WriteFile(lock, []byte("@EXPLICIT\nfile://"+name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	_, errs, code := run(t, "", "pack", "--lock", lock, "--platform", "linux-64", "-o", file)
	data, err := os.ReadFile(file)
	if code != 0 || err != nil || !bytes.Contains(data, []byte("As it was built")) || !strings.Contains(errs, "its list of files is wrong") {
		t.Errorf("%d %s %v", code, errs, err)
	}
}

// changedInside replaces text in the files of a package, and leaves its list as it was.
func changedInside(t *testing.T, data []byte, old, changed string) []byte {
	t.Helper()
	in, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	out := zip.NewWriter(&buf)
	for _, f := range in.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(f.Name, "pkg-") {
			d, err := zstd.NewReader(bytes.NewReader(content), zstd.WithDecoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(d)
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			content = e.EncodeAll(bytes.ReplaceAll(plain, []byte(old), []byte(changed)), nil)
		}
		w, err := out.CreateRaw(&zip.FileHeader{
			Name: f.Name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(content), CompressedSize64: uint64(len(content)), UncompressedSize64: uint64(len(content)),
		})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
