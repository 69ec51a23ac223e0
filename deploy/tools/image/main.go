package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	var o options
	var tag, out string
	flag.StringVar(&o.binary, "binary", "", "the static binary")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture that it was built for")
	flag.StringVar(&o.version, "version", "dev", "version for the image's labels")
	flag.StringVar(&tag, "tag", "entrepot:local", "name of the image in the archive")
	flag.StringVar(&out, "out", "dist", "directory to write to")
	flag.Parse()
	digest, err := write(o, tag, out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

// write builds the image and puts both forms of it into a directory.
func write(o options, tag, out string) (v1.Hash, error) {
	ref, err := name.NewTag(tag)
	if err != nil {
		return v1.Hash{}, err
	}
	img, err := build(o)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return v1.Hash{}, err
	}
	if err := tarball.WriteToFile(filepath.Join(out, "entrepot-image.tar"), ref, img); err != nil {
		return v1.Hash{}, err
	}
	// A layout is appended to, so the last one would stay beside this one.
	dir := filepath.Join(out, "entrepot-oci")
	if err := os.RemoveAll(dir); err != nil {
		return v1.Hash{}, err
	}
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	annotate := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref.TagStr()})
	if err := l.AppendImage(img, annotate, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: o.arch})); err != nil {
		return v1.Hash{}, err
	}
	return img.Digest()
}

// build makes the image in memory.
func build(o options) (v1.Image, error) {
	layer, err := rootfs(o.binary)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{
		Layer: layer, History: v1.History{CreatedBy: "deploy/tools/image", Comment: "entrepot " + o.version},
	})
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, o.config(img))
}
