package link_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// file is a package in an archive, and unpacked.
type file struct {
	name   string
	record map[string]any // index.json with digests
	typed  repodata.Record
	pkg    *link.Package
}

// unpack extracts a package file.
func unpack(t testing.TB, name string) (*file, error) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	info, err := archive.Extract(t.Context(), f, st.Size(), filepath.Base(name), root, archive.Limits{Links: archive.LinksVerbatim}, archive.Lenient(), archive.ExactModes())
	if err != nil {
		return nil, err
	}
	p := &file{name: name, record: map[string]any{}}
	if err := json.Unmarshal(info.IndexJSON, &p.record); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sum, old := sha256.Sum256(data), md5.Sum(data)
	p.record["sha256"], p.record["md5"], p.record["size"] = hex.EncodeToString(sum[:]), hex.EncodeToString(old[:]), len(data)
	if p.record["subdir"] == nil {
		p.record["subdir"] = "linux-64"
	}
	raw, err := json.Marshal(p.record)
	if err != nil {
		t.Fatal(err)
	}
	if p.typed, err = repodata.ParseRecord(raw); err != nil {
		return nil, err
	}
	p.pkg, err = link.Open(root)
	return p, err
}

// build makes a package file and unpacks it.
func build(t testing.TB, index archive.Index, inputs []archive.Input, points ...string) *file {
	t.Helper()
	if index.Version == "" {
		index.Version = "1.0"
	}
	if index.Build == "" {
		index.Build = "0"
	}
	if index.Subdir == "" {
		index.Subdir = "linux-64"
		if index.Noarch != "" {
			index.Subdir = "noarch"
		}
	}
	meta := archive.Meta{Index: index, About: &archive.About{}}
	if len(points) > 0 {
		meta.Link = &archive.Link{Version: 1, Noarch: archive.LinkNoarch{Type: index.Noarch, EntryPoints: points}}
	}
	d, err := dist.New(index.Name, index.Version, index.Build, dist.TarBz2)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := archive.Create(t.Context(), &buf, d.Format, meta, inputs); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), d.Filename())
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := unpack(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// pythonPackage is an interpreter that does nothing.
func pythonPackage(t testing.TB, version, sitePackages string) *file {
	t.Helper()
	return build(t, archive.Index{Name: "python", Version: version, PythonSitePackagesPath: sitePackages},
		[]archive.Input{{Path: "bin/python3", Data: []byte("elf"), Mode: 0o755}})
}

// put writes planned entries into a directory, as plainly as can be.
func put(t testing.TB, dir string, p *link.Package, entries []link.Entry, target *link.Target) error {
	t.Helper()
	for i := range entries {
		e := &entries[i]
		dst := filepath.Join(dir, filepath.FromSlash(e.Path))
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		if err := putEntry(dst, p, e, target); err != nil {
			return err
		}
	}
	return nil
}

func putEntry(dst string, p *link.Package, e *link.Entry, target *link.Target) error {
	switch {
	case e.Type == link.Directory:
		return os.MkdirAll(dst, 0o755)
	case e.Type == link.SoftLink && !e.Rewritten():
		text, err := p.Files.ReadLink(e.Source)
		if err != nil {
			return err
		}
		return os.Symlink(text, dst)
	case e.Generated():
		if err := os.WriteFile(dst, e.Data, 0o600); err != nil {
			return err
		}
		return os.Chmod(dst, e.Mode)
	}
	src, info, err := p.Source(e)
	if err != nil {
		return err
	}
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if e.Rewritten() {
		_, _, err = link.Rewrite(out, src, e, target)
	} else {
		_, err = io.Copy(out, src)
	}
	if err != nil {
		return err
	}
	return out.Chmod(info.Mode().Perm())
}

// tree describes what is in a directory: path → type, mode, and digest or link text.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		rel = filepath.ToSlash(rel)
		if rel == "." || rel == "CACHEDIR.TAG" {
			return nil
		}
		if rel == "conda-meta" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			if rel != link.ClobberDir && !strings.HasPrefix(rel, link.ClobberDir+"/") {
				out[rel] = "dir"
			}
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
			sum := sha256.Sum256(data)
			out[rel] = info.Mode().Perm().String() + " " + hex.EncodeToString(sum[:])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rattler asks py-rattler.
type rattler struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

// newRattler starts a Python that has py-rattler, or skips the test.
func newRattler(t *testing.T) *rattler {
	t.Helper()
	python := os.Getenv("ENTREPOT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import rattler").Run(); err != nil {
		t.Skipf("no oracle: %s has no py-rattler (%v); pip install py-rattler==0.28.0 and set ENTREPOT_TEST_PYTHON", python, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, python, filepath.Join("testdata", "oracle.py"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
		cancel()
	})
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 8<<20)
	return &rattler{in, sc}
}

func (r *rattler) ask(t *testing.T, q, a any) {
	t.Helper()
	if err := json.NewEncoder(r.in).Encode(q); err != nil {
		t.Fatal(err)
	}
	if !r.out.Scan() {
		t.Fatalf("no answer: %v", r.out.Err())
	}
	if err := json.Unmarshal(r.out.Bytes(), a); err != nil {
		t.Fatal(err)
	}
}

// install lets it make a prefix; the answer is its error.
func (r *rattler) install(t *testing.T, prefix, alt, platform string, files []*file) string {
	t.Helper()
	q := map[string]any{"prefix": prefix, "platform": platform, "cache": t.TempDir()}
	if alt != "" {
		q["alt"] = alt
	}
	var packages []any
	for _, f := range files {
		abs, err := filepath.Abs(f.name)
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, map[string]any{"file": abs, "record": f.record})
	}
	q["packages"] = packages
	var a struct{ Error string }
	r.ask(t, q, &a)
	return a.Error
}
