package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/image"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(t testing.TB) image.Options {
	t.Helper()
	c, err := segment.OpenCache(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return image.Options{Platform: "linux-64", Cache: c, Workers: 2, Tool: "entrepot test"}
}

func build(t testing.TB, packages []segment.Package, o image.Options) *image.Image {
	t.Helper()
	img, err := image.Build(t.Context(), packages, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(img.Close)
	return img
}

func digest(t testing.TB, img v1.Image) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func layers(t testing.TB, img v1.Image) []string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	return out
}

// files is what an image's layers leave, put on top of each other: path → type, mode, content.
func files(t testing.TB, img v1.Image) map[string]string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	out := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, ".wh.") || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		out[strings.TrimSuffix(h.Name, "/")] = fmt.Sprintf("%c %o %s%s", h.Typeflag, h.Mode, h.Linkname, data)
	}
}

func TestTheImageIsWhatTheInstallerLeaves(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Environment()
	o := options(t)
	o.Exclude = []string{}
	got := files(t, build(t, k.Fetch(list...), o))
	prefix := filepath.Join(t.TempDir(), "env")
	if _, err := install.Install(t.Context(), prefix, list, install.Options{Cache: k.Cache, Platform: "linux-64", NoSync: true, Target: "/opt/conda"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"opt": "5 755 ", "opt/conda": "5 755 "}
	err := filepath.WalkDir(prefix, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(prefix, name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case rel == "." || rel == "CACHEDIR.TAG":
		case strings.HasPrefix(rel, "conda-meta/"):
			want["opt/conda/"+rel] = got["opt/conda/"+rel] // see the tests of packs
		case info.IsDir():
			want["opt/conda/"+rel] = "5 755 "
		case info.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(name)
			if err != nil {
				return err
			}
			want["opt/conda/"+rel] = "2 777 " + text
		default:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			want["opt/conda/"+rel] = fmt.Sprintf("0 %o %s", info.Mode().Perm(), data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("installed (-), in the image (+):\n%s", diff)
	}
	if _, ok := got["opt/conda/conda-meta/lib-1.0-0.json"]; !ok {
		t.Error("conda-meta is missing")
	}
}

func TestTheSameDigests(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(append(k.Environment(), k.Many(130, 1, 500, 1)...)...)
	for _, variant := range []func(*image.Options){
		func(*image.Options) {}, func(o *image.Options) { o.Docker = true }, func(o *image.Options) { o.Zstd = true },
	} {
		o := options(t)
		variant(&o)
		first := build(t, packages, o)
		var tarred bytes.Buffer
		if err := first.WriteTar(t.Context(), &tarred, "team/env:1"); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			rand.Shuffle(len(packages), func(i, j int) { packages[i], packages[j] = packages[j], packages[i] })
			for _, next := range []image.Options{o, options(t)} { // warm, cold
				variant(&next)
				next.Workers = 1 + round*7
				img := build(t, packages, next)
				if digest(t, img) != digest(t, first) {
					t.Errorf("%d workers: %s, want %s", next.Workers, digest(t, img), digest(t, first))
				}
				var again bytes.Buffer
				if err := img.WriteTar(t.Context(), &again, "team/env:1"); err != nil || !bytes.Equal(again.Bytes(), tarred.Bytes()) {
					t.Errorf("%d workers: another tar, %v", next.Workers, err)
				}
			}
		}
		if n := len(layers(t, first)); n > 117 || n < 101 {
			t.Errorf("%d layers of 133 packages", n)
		}
	}
}

func TestOneChangedPackageMovesOneLayer(t *testing.T) {
	k := segmenttest.New(t)
	list := k.Many(130, 1, 2000, 1)
	o := options(t)
	before := layers(t, build(t, k.Fetch(list...), o))
	changed := func(i int) int {
		next := slices.Clone(list)
		name := list[i].Name
		data := strings.Repeat("x", 2000)
		next[i] = k.Package(archive.Index{Name: name, Version: "2.0"}, []archive.Input{
			segmenttest.Plain("share/"+name+"/f0", data), segmenttest.Text("bin/"+name, "#!"+segmenttest.Placeholder+"/bin/sh\necho "+name+"\n"),
		})
		n := 0
		for _, l := range layers(t, build(t, k.Fetch(next...), o)) {
			if !slices.Contains(before, l) {
				n++
			}
		}
		return n
	}
	for _, i := range []int{0, 129} { // alone in its layer, and in a bucket
		if n := changed(i); n != 2 {
			t.Errorf("package %d: %d new layers, want its own and the environment's", i, n)
		}
	}
}

func TestImagesShareLayers(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Many(10, 1, 500, 1)...)
	o := options(t)
	a, b := layers(t, build(t, packages[:8], o)), layers(t, build(t, packages[2:], o))
	shared := 0
	for _, l := range a {
		if slices.Contains(b, l) {
			shared++
		}
	}
	if shared != 6 {
		t.Errorf("%d layers in common, want 6", shared)
	}
}

func TestReadBack(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(append(k.Environment(), k.Many(120, 1, 300, 1)...)...)
	for name, variant := range map[string]func(*image.Options){
		"oci": func(*image.Options) {}, "docker": func(o *image.Options) { o.Docker = true }, "zstd": func(o *image.Options) { o.Zstd = true },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			variant(&o)
			img := build(t, packages, o)
			check(t, img)
			if err := validate.Image(img); err != nil && name != "zstd" { // the library unpacks gzip alone
				t.Errorf("the image: %v", err)
			}
			dir := t.TempDir()
			for range 2 { // the second time all blobs are there, but for one that is damaged
				if names, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*")); err == nil && len(names) > 0 {
					if err := os.WriteFile(names[0], []byte("damaged"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if err := img.WriteLayout(t.Context(), dir, "team/env:1"); err != nil {
					t.Fatal(err)
				}
			}
			index, err := layout.ImageIndexFromPath(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil && name != "zstd" {
				t.Errorf("the layout: %v", err)
			}
			m, err := index.IndexManifest()
			if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != digest(t, img) ||
				m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1" || m.Manifests[0].Platform.Architecture != "amd64" {
				t.Errorf("%+v %v", m, err)
			}
			file := filepath.Join(t.TempDir(), "image.tar")
			f, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(img.WriteTar(t.Context(), f, "team/env:1"), f.Close()); err != nil {
				t.Fatal(err)
			}
			if name == "zstd" {
				return
			}
			read, err := tarball.ImageFromPath(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(files(t, img), files(t, read)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// check reads all layers and compares them with what the manifest and the configuration say.
func check(t *testing.T, img v1.Image) {
	t.Helper()
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range list {
		want, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		packed, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		got, size, err := v1.SHA256(packed)
		packed.Close()
		if n, _ := l.Size(); err != nil || got != want || size != n {
			t.Errorf("layer %d: %s and %d bytes, want %s and %d, %v", i, got, size, want, n, err)
		}
		plain, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		var all bytes.Buffer
		tr := tar.NewReader(io.TeeReader(plain, &all))
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if seen[h.Name] {
				t.Errorf("layer %d has %s twice", i, h.Name)
			}
			seen[h.Name] = true
			if dir := path.Dir(strings.TrimSuffix(h.Name, "/")); dir != "." && !seen[dir+"/"] {
				t.Errorf("layer %d: the directory of %s has no entry before it", i, h.Name)
			}
		}
		_, _ = io.Copy(&all, plain)
		plain.Close()
		if got, _, err := v1.SHA256(&all); err != nil || got != cf.RootFS.DiffIDs[i] {
			t.Errorf("layer %d unpacks to %s, want %s, %v", i, got, cf.RootFS.DiffIDs[i], err)
		}
	}
}

func TestConfiguration(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	o := options(t)
	o.Env, o.WorkDir, o.User, o.Labels = []string{"A=b", "CONDA_SHLVL=2"}, "/work", "1000", map[string]string{"conda_store": "0.0.1"}
	img := build(t, packages, o)
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Env: []string{
			"PATH=/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CONDA_PREFIX=/opt/conda",
			"CONDA_DEFAULT_ENV=/opt/conda", "CONDA_SHLVL=2", "LIB_HOME=it's/here", "A=b",
		},
		Cmd: []string{"/bin/sh"}, WorkingDir: "/work", User: "1000", Labels: map[string]string{"conda_store": "0.0.1"},
	}
	if diff := cmp.Diff(want, cf.Config); diff != "" {
		t.Error(diff)
	}
	if cf.Architecture != "amd64" || cf.OS != "linux" || !cf.Created.Equal(segment.Time) || len(cf.History) != len(cf.RootFS.DiffIDs) {
		t.Errorf("%+v", cf)
	}
	if diff := cmp.Diff([]string{"etc/conda/activate.d/app.sh"}, img.Activation); diff != "" {
		t.Error(diff)
	}
	if len(img.Clobbers) != 1 || img.Clobbers[0].Winner != "app" {
		t.Errorf("%+v", img.Clobbers)
	}
	got := files(t, img)
	if _, ok := got["opt/conda/lib/libx.a"]; ok {
		t.Error("images do without static libraries")
	}
	if mt, _ := img.MediaType(); mt != types.OCIManifestSchema1 {
		t.Error(mt)
	}
	o.Docker = true
	docker := build(t, packages, o)
	if mt, _ := docker.MediaType(); mt != types.DockerManifestSchema2 {
		t.Error(mt)
	}
	if diff := cmp.Diff(layers(t, img), layers(t, docker)); diff != "" {
		t.Errorf("the layers are the same, whatever the manifest calls them: %s", diff)
	}
}

func TestOnABase(t *testing.T) {
	k := segmenttest.New(t)
	o := options(t)
	base := build(t, k.Fetch(k.Many(2, 1, 100, 7)...), image.Options{Platform: "linux-64", Prefix: "/base", Cache: o.Cache, Cmd: []string{"/base/run"}})
	o.Base = base
	img := build(t, k.Fetch(k.Environment()...), o)
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	if got := layers(t, img)[:3]; !slices.Equal(got, layers(t, base)) {
		t.Errorf("%v does not begin with the base", got)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(cf.Config.Env[0], "PATH=/opt/conda/bin:/base/bin:/usr") || !slices.Equal(cf.Config.Cmd, []string{"/base/run"}) {
		t.Errorf("%+v", cf.Config)
	}
	arm := o
	arm.Platform = "linux-aarch64"
	if _, err := image.Build(t.Context(), k.Fetch(k.Many(1, 1, 10, 1)...), arm); err == nil || !strings.Contains(err.Error(), "base image is for linux/amd64") {
		t.Errorf("%v", err)
	}
}

func TestRefused(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	for want, change := range map[string]func(*image.Options){
		"no images for osx-64": func(o *image.Options) { o.Platform = "osx-64" },
		"no images for win-64": func(o *image.Options) { o.Platform = "win-64" },
		"not an absolute path": func(o *image.Options) { o.Prefix = "conda" },
		"is not an absolute":   func(o *image.Options) { o.Prefix = "/" },
		"no name for layers":   func(o *image.Options) { o.Docker, o.Zstd = true, true },
		"share/common is in":   func(o *image.Options) { o.RefuseClobbers = true },
	} {
		o := options(t)
		change(&o)
		if _, err := image.Build(t.Context(), packages, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestADamagedLayerIsFoundWhenItIsWritten(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Many(3, 1, 5000, 1)...)
	dir := t.TempDir()
	c, err := segment.OpenCache(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	o := image.Options{Platform: "linux-64", Cache: c}
	want := digest(t, build(t, packages, o))
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, _ error) error {
		if data, err := os.ReadFile(name); err == nil && strings.HasSuffix(name, ".gz") {
			data[len(data)/2] ^= 1
			_ = os.WriteFile(name, data, 0o600)
		}
		return nil
	})
	for range 10 {
		img := build(t, packages, o)
		if digest(t, img) != want {
			t.Fatal("another digest")
		}
		if err = img.WriteTar(t.Context(), io.Discard, ""); err == nil {
			break
		}
		if !errors.Is(err, segment.ErrBroken) {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Errorf("after as many tries as layers: %v", err)
	}
}

func TestDockerReadsTheTar(t *testing.T) {
	k := segmenttest.New(t)
	img := build(t, k.Fetch(k.Many(2, 1, 10, 1)...), options(t))
	var buf bytes.Buffer
	if err := img.WriteTar(t.Context(), &buf, "team/env:1"); err != nil {
		t.Fatal(err)
	}
	seen := map[string][]byte{}
	tr := tar.NewReader(&buf)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if seen[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(seen["manifest.json"], &list); err != nil || len(list) != 1 || list[0].RepoTags[0] != "team/env:1" || len(list[0].Layers) != 3 {
		t.Fatalf("%s %v", seen["manifest.json"], err)
	}
	for _, name := range append(list[0].Layers, list[0].Config) {
		if len(seen[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	if string(seen["oci-layout"]) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Error("it is no OCI layout")
	}
}
