package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

// blob is a file of a layout.
type blob struct {
	digest v1.Hash
	size   int64
	copy   func(io.Writer) error
}

// blobs lists what an image consists of: the layers, the configuration, the manifest last.
func (i *Image) blobs() ([]blob, error) {
	layers, err := i.Layers()
	if err != nil {
		return nil, err
	}
	var out []blob
	add := func(h v1.Hash, size int64, copy func(io.Writer) error) {
		if !slices.ContainsFunc(out, func(b blob) bool { return b.digest == h }) {
			out = append(out, blob{h, size, copy})
		}
	}
	m, err := i.Manifest()
	if err != nil {
		return nil, err
	}
	for n, l := range layers {
		d := m.Layers[n]
		add(d.Digest, d.Size, func(w io.Writer) error {
			r, err := l.Compressed()
			if err != nil {
				return err
			}
			defer r.Close()
			h := sha256.New()
			size, err := io.Copy(w, io.TeeReader(r, h))
			if err == nil && (size != d.Size || hex.EncodeToString(h.Sum(nil)) != d.Digest.Hex) {
				err = fmt.Errorf("%w: %s", segment.ErrBroken, d.Digest)
				if ours, ok := l.(interface{ Drop() }); ok {
					ours.Drop()
				}
			}
			return err
		})
	}
	raw := func(data []byte) {
		sum := sha256.Sum256(data)
		add(v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, int64(len(data)), func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	config, err := i.RawConfigFile()
	if err != nil {
		return nil, err
	}
	raw(config)
	manifest, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	raw(manifest)
	return out, nil
}

// index is the entry of the layout.
func (i *Image) index(tag string) ([]byte, error) {
	digest, err := i.Digest()
	if err != nil {
		return nil, err
	}
	size, err := i.Size()
	if err != nil {
		return nil, err
	}
	media, err := i.MediaType()
	if err != nil {
		return nil, err
	}
	cf, err := i.ConfigFile()
	if err != nil {
		return nil, err
	}
	d := v1.Descriptor{MediaType: media, Size: size, Digest: digest, Platform: cf.Platform()}
	if tag != "" {
		d.Annotations = map[string]string{"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": refName(tag)}
	}
	return json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
}

// refName is the tag of a reference, which is what tools look for in a layout.
func refName(tag string) string {
	for n := len(tag) - 1; n >= 0 && tag[n] != '/'; n-- {
		if tag[n] == ':' {
			return tag[n+1:]
		}
	}
	return "latest"
}

// WriteLayout writes the image into a directory as an OCI image layout. Blobs that are there already, such as those of an
// earlier image, stay; index.json is replaced, and names this image alone.
func (i *Image) WriteLayout(ctx context.Context, dir, tag string) error {
	list, err := i.blobs()
	if err != nil {
		return err
	}
	index, err := i.index(tag)
	if err != nil {
		return err
	}
	blobDir := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobDir, 0o755); err != nil {
		return err
	}
	for _, b := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := filepath.Join(blobDir, b.digest.Hex)
		if there(name, b) {
			continue
		}
		if err := replace(name, b.copy); err != nil {
			return err
		}
	}
	data := func(d []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(d); return err }
	}
	// The index comes last: it must not be on the disk without what it names.
	if err := syncDir(blobDir); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "oci-layout"), data([]byte(ociLayout))); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "index.json"), data(index)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir brings the names in a directory to the disk, where directories can be synced.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// there reports whether a blob lies in a layout, whole.
func there(name string, b blob) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	h, size, err := v1.SHA256(f)
	return err == nil && size == b.size && h == b.digest
}

// replace writes a file beside its place and renames it.
func replace(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// WriteTar writes the image as one file that docker load, podman load and skopeo (docker-archive, oci-archive) read: a tar
// of an OCI image layout with Docker's manifest.json beside it.
func (i *Image) WriteTar(ctx context.Context, w io.Writer, tag string) error {
	list, err := i.blobs()
	if err != nil {
		return err
	}
	index, err := i.index(tag)
	if err != nil {
		return err
	}
	docker, err := i.dockerManifest(tag)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	header := func(name string, size int64) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, ModTime: segment.Time}
		if size < 0 {
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
		}
		return t.WriteHeader(h)
	}
	put := func(name string, data []byte) error {
		if err := header(name, int64(len(data))); err != nil {
			return err
		}
		_, err := io.Copy(t, bytes.NewReader(data))
		return err
	}
	if err := errors.Join(header("blobs/", -1), header("blobs/sha256/", -1)); err != nil {
		return err
	}
	for _, b := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := header("blobs/sha256/"+b.digest.Hex, b.size); err != nil {
			return err
		}
		if err := b.copy(t); err != nil {
			return err
		}
	}
	if err := errors.Join(put("index.json", index), put("manifest.json", docker), put("oci-layout", []byte(ociLayout))); err != nil {
		return err
	}
	return t.Close()
}

func (i *Image) dockerManifest(tag string) ([]byte, error) {
	m, err := i.Manifest()
	if err != nil {
		return nil, err
	}
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: "blobs/sha256/" + m.Config.Digest.Hex}
	if tag != "" {
		entry.RepoTags = []string{tag}
	}
	for _, l := range m.Layers {
		entry.Layers = append(entry.Layers, "blobs/sha256/"+l.Digest.Hex)
	}
	return json.Marshal([]any{entry})
}
