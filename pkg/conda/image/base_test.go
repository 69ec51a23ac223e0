package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/image"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// baseOf makes an image of layers with entries.
func baseOf(t testing.TB, media types.MediaType, list ...[]tar.Header) v1.Image {
	t.Helper()
	manifest := types.DockerManifestSchema2
	if media == types.OCILayer {
		manifest = types.OCIManifestSchema1
	}
	img := mutate.MediaType(empty.Image, manifest)
	for _, headers := range list {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for i := range headers {
			if err := w.WriteHeader(&headers[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }, tarball.WithMediaType(media))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func dir(name string, mode int64, owner int) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: owner, Gid: owner}
}

// directories are what the layers above the base say of a directory.
func directories(t testing.TB, img v1.Image, base int, name string) []string {
	t.Helper()
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range list[base:] {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			if h.Name == name+"/" {
				out = append(out, fmt.Sprintf("%o %d:%d", h.Mode, h.Uid, h.Gid))
			}
		}
		r.Close()
	}
	return out
}

func TestDirectoriesAboveThePrefixStayAsTheBaseHasThem(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(append(k.Environment(), k.Many(110, 1, 100, 1)...)...) // some in buckets
	o := options(t)
	for name, x := range map[string]struct {
		prefix string
		base   [][]tar.Header
		at     string
		want   string
	}{
		"a sticky directory":              {"/tmp/env", [][]tar.Header{{dir("tmp/", 0o1777, 0)}}, "tmp", "1777 0:0"},
		"somebody's":                      {"/home/me/env", [][]tar.Header{{dir("./home/", 0o755, 0), dir("./home/me", 0o700, 1000)}}, "home/me", "700 1000:1000"},
		"as a later layer has it":         {"/tmp/env", [][]tar.Header{{dir("tmp/", 0o700, 0)}, {dir("tmp/", 0o1777, 0)}}, "tmp", "1777 0:0"},
		"removed":                         {"/srv/env", [][]tar.Header{{dir("srv/", 0o700, 5)}, {{Typeflag: tar.TypeReg, Name: ".wh.srv"}}}, "srv", "755 0:0"},
		"removed with what it lies in":    {"/a/b/env", [][]tar.Header{{dir("a/", 0o755, 0), dir("a/b/", 0o700, 5)}, {{Typeflag: tar.TypeReg, Name: "a/.wh..wh..opq"}}}, "a/b", "755 0:0"},
		"removed and made in one layer":   {"/srv/env", [][]tar.Header{{dir("srv/", 0o700, 5)}, {dir("srv/", 0o750, 6), {Typeflag: tar.TypeReg, Name: ".wh.srv"}}}, "srv", "750 6:6"},
		"not in the base":                 {"/opt/env", [][]tar.Header{{dir("tmp/", 0o1777, 0)}}, "opt", "755 0:0"},
		"the prefix is the environment's": {"/opt/env", [][]tar.Header{{dir("opt/env/", 0o700, 9)}}, "opt/env", "755 0:0"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Prefix, o.Base = x.prefix, baseOf(t, types.OCILayer, x.base...)
			img := build(t, packages, o)
			got := directories(t, img, len(x.base), x.at)
			if len(got) < 100 {
				t.Errorf("%d layers have %s", len(got), x.at)
			}
			for _, entry := range got {
				if entry != x.want {
					t.Fatalf("%s is %s, want %s", x.at, entry, x.want)
				}
			}
		})
	}
	o.Prefix, o.Base = "/var/env/x", baseOf(t, types.OCILayer, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "var", Linkname: "run"}})
	if _, err := image.Build(t.Context(), packages, o); err == nil || !strings.Contains(err.Error(), "/var is no directory") {
		t.Errorf("%v", err)
	}
}

func TestAUsualBaseChangesNoLayer(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	o := options(t)
	want := layers(t, build(t, packages, o))
	o.Base = baseOf(t, types.OCILayer, []tar.Header{dir("opt/", 0o755, 0)})
	if diff := cmp.Diff(want, layers(t, build(t, packages, o))[1:]); diff != "" {
		t.Error(diff)
	}
}

func TestMediaTypesAreNotMixed(t *testing.T) {
	k := segmenttest.New(t)
	packages := k.Fetch(k.Environment()...)
	o := options(t)
	for _, x := range []struct {
		base   types.MediaType
		docker bool
		want   types.MediaType
	}{
		{types.DockerLayer, false, types.OCILayer},
		{types.OCILayer, true, types.DockerLayer},
		{types.DockerLayer, true, types.DockerLayer},
		{types.OCILayer, false, types.OCILayer},
	} {
		o.Base, o.Docker = baseOf(t, x.base, []tar.Header{dir("etc/", 0o755, 0)}), x.docker
		img := build(t, packages, o)
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range m.Layers {
			if l.MediaType != x.want {
				t.Errorf("on %s: layer %d is %s, want %s", x.base, i, l.MediaType, x.want)
			}
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
		place := t.TempDir()
		if err := img.WriteLayout(t.Context(), place, ""); err != nil {
			t.Fatal(err)
		}
		index, err := layout.ImageIndexFromPath(place)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
	}
}

func TestNamesThatDeleteFilesAreRefused(t *testing.T) {
	k := segmenttest.New(t)
	for _, path := range []string{"share/.wh.b", ".wh..wh..opq", "share/.wh.d/file"} {
		packages := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{segmenttest.Plain(path, "x"), segmenttest.Plain("share/.white", "y")}))
		o := options(t)
		if _, err := image.Build(t.Context(), packages, o); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete files") {
			t.Errorf("%s: %v", path, err)
		}
		o.Exclude = []string{"*.wh.*"}
		build(t, packages, o)
	}
	o := options(t)
	o.Prefix = "/opt/.wh.env"
	if _, err := image.Build(t.Context(), k.Fetch(k.Environment()...), o); err == nil {
		t.Error("the prefix may delete files")
	}
}

func TestPackagesDoNotReplacePath(t *testing.T) {
	k := segmenttest.New(t)
	cf, err := build(t, k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{
		segmenttest.Plain("etc/conda/env_vars.d/x.json", `{"PATH": "/evil", "CONDA_PREFIX": "/evil", "X": "y"}`),
	})), options(t)).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(cf.Config.Env, "\n"); strings.Contains(text, "evil") || !strings.Contains(text, "X=y") {
		t.Error(text)
	}
}

func TestABlobOfTheRightSizeIsNotTakenForTheRightOne(t *testing.T) {
	k := segmenttest.New(t)
	img := build(t, k.Fetch(k.Environment()...), options(t))
	place := t.TempDir()
	for range 2 {
		if err := img.WriteLayout(t.Context(), place, ""); err != nil {
			t.Fatal(err)
		}
		index, err := layout.ImageIndexFromPath(place)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Fatal(err)
		}
		blobs, err := filepath.Glob(filepath.Join(place, "blobs", "sha256", "*"))
		if err != nil || len(blobs) < 5 {
			t.Fatal(blobs, err)
		}
		for _, name := range blobs {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
