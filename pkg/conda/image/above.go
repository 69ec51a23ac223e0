package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// above finds out what a base has of the directories that the prefix lies in. Every layer names them, because some programs
// that unpack layers make those that are missing anew, over what the base has; so layers must say what the base says. Those
// that are root's with 0755 are left out: that is what layers say by themselves, which so are the same on most bases.
func above(base v1.Image, prefix string) (map[string]segment.Above, error) {
	if base == nil {
		return nil, nil
	}
	found := map[string]*tar.Header{}
	for dir := strings.TrimPrefix(prefix, "/"); dir != "."; dir = path.Dir(dir) {
		found[dir] = nil
	}
	layers, err := base.Layers()
	if err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	for i, l := range layers {
		if err := look(l, found); err != nil {
			return nil, fmt.Errorf("base image: layer %d: %w", i+1, err)
		}
	}
	out := map[string]segment.Above{}
	for dir, h := range found {
		switch {
		case h == nil:
		case h.Typeflag != tar.TypeDir:
			return nil, fmt.Errorf("in the base image /%s is no directory, so the prefix %s would hide it; choose another prefix", dir, prefix)
		case "/"+dir == prefix: // is the environment's own
		case h.Mode&0o7777 != 0o755 || h.Uid != 0 || h.Gid != 0:
			out[dir] = segment.Above{Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid}
		}
	}
	return out, nil
}

// look brings what is known of paths up to date with a layer (OCI image specification, layer.md).
func look(l v1.Layer, found map[string]*tar.Header) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	now := map[string]*tar.Header{}
	var gone []string
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := strings.Trim(path.Clean("/"+h.Name), "/")
		dir, file := path.Split(name)
		if hidden, ok := strings.CutPrefix(file, whiteout); ok {
			if file == whiteout+whiteout+".opq" {
				gone = append(gone, dir)
			} else {
				gone = append(gone, dir+hidden, dir+hidden+"/")
			}
			continue
		}
		if _, ok := found[name]; ok {
			now[name] = h
		}
	}
	// A whiteout hides what is below this layer, and nothing in it.
	drop := func(at string) {
		for name := range found {
			if name == at || (strings.HasSuffix(at, "/") || at == "") && strings.HasPrefix(name, at) {
				found[name] = nil
			}
		}
	}
	for _, at := range gone {
		drop(at)
	}
	for name, h := range now {
		if h.Typeflag != tar.TypeDir {
			drop(name + "/")
		}
	}
	for name, h := range now {
		found[name] = h
	}
	return nil
}

// whiteout begins the name of an entry that says: this path of a lower layer is gone.
const whiteout = ".wh."

// refuseWhiteouts refuses paths that an image cannot have: their entries would delete other files.
func refuseWhiteouts(env *segment.Env) error {
	for _, p := range env.Parts {
		for _, list := range [][]link.Entry{p.Entries, p.Hidden} {
			for i := range list {
				for part := range strings.SplitSeq(list[i].Path, "/") {
					if strings.HasPrefix(part, whiteout) {
						return &link.Error{
							Package: p.Package.FileName, Path: list[i].Path,
							Msg: "names that begin with " + whiteout + " delete files in images; leave the file out, by a pattern for its path",
						}
					}
				}
			}
		}
	}
	return nil
}

// retyped is an image whose layers have the media types of another kind of manifest: one that mixes Docker's and OCI's is
// refused by some registries and programs. The layers' bytes are the same.
type retyped struct {
	v1.Image
	manifest *v1.Manifest
}

// mediaTypes are Docker's and OCI's of the same thing.
var mediaTypes = [][2]types.MediaType{
	{types.DockerLayer, types.OCILayer},
	{types.DockerUncompressedLayer, types.OCIUncompressedLayer},
	{types.DockerForeignLayer, types.OCIRestrictedLayer},
}

func retype(img v1.Image, docker bool) (v1.Image, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	r := &retyped{img, m.DeepCopy()}
	from, to := 0, 1
	if docker {
		from, to = 1, 0
	}
	for i := range r.manifest.Layers {
		l := &r.manifest.Layers[i]
		if len(l.Annotations) == 0 {
			l.Annotations = nil // as who reads the manifest will find it
		}
		for _, pair := range mediaTypes {
			if l.MediaType == pair[from] {
				l.MediaType = pair[to]
			}
		}
		if docker && l.MediaType == types.OCILayerZStd {
			return nil, fmt.Errorf("the base image has layers in zstd, for which docker's media types have no name")
		}
	}
	return r, nil
}

// Manifest implements v1.Image.
func (r *retyped) Manifest() (*v1.Manifest, error) { return r.manifest.DeepCopy(), nil }

// Layers implements v1.Image.
func (r *retyped) Layers() ([]v1.Layer, error) {
	list, err := r.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i], err = r.typed(list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// LayerByDigest implements v1.Image.
func (r *retyped) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	l, err := r.Image.LayerByDigest(h)
	if err != nil {
		return nil, err
	}
	return r.typed(l)
}

// LayerByDiffID implements v1.Image.
func (r *retyped) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	l, err := r.Image.LayerByDiffID(h)
	if err != nil {
		return nil, err
	}
	return r.typed(l)
}

// typed gives a layer the media type that the manifest says.
func (r *retyped) typed(l v1.Layer) (v1.Layer, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	for _, d := range r.manifest.Layers {
		if d.Digest == digest {
			return &typedLayer{l, d.MediaType}, nil
		}
	}
	return l, nil
}

type typedLayer struct {
	v1.Layer
	media types.MediaType
}

// MediaType implements v1.Layer.
func (l *typedLayer) MediaType() (types.MediaType, error) { return l.media, nil }

// Drop removes the layer's file from the cache, if it is one of ours.
func (l *typedLayer) Drop() {
	if ours, ok := l.Layer.(interface{ Drop() }); ok {
		ours.Drop()
	}
}
