package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// pkg is a package file in memory.
type pkg struct {
	name, subdir, filename, sha256 string
	data                           []byte
}

const subdir = "linux-64"

// seed makes bytes that no run of any benchmark had before, so that nothing is found stored already.
func seed() uint64 { return uint64(time.Now().UnixNano()) }

func newRand() *rand.Rand { return rand.New(rand.NewPCG(seed(), 0)) }

// makePackage makes a package with a payload of random bytes, which no compression makes smaller.
func makePackage(name string, rng *rand.Rand, payload int) (pkg, error) {
	return makeVersion(name, "1.0", rng, payload)
}

func makeVersion(name, version string, rng *rand.Rand, payload int) (pkg, error) {
	data := make([]byte, payload)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	var out bytes.Buffer
	d, err := archive.Create(context.Background(), &out, dist.Conda,
		archive.Meta{Index: archive.Index{Name: name, Version: version, Build: "0", Subdir: subdir, Depends: archive.StringList{}}},
		[]archive.Input{{Path: "data.bin", Data: data}}, archive.CompressionLevel(1))
	if err != nil {
		return pkg{}, fmt.Errorf("make %s: %w", name, err)
	}
	return describe(name, subdir, d.Filename(), out.Bytes()), nil
}

func describe(name, subdir, filename string, data []byte) pkg {
	sum := sha256.Sum256(data)
	return pkg{name, subdir, filename, hex.EncodeToString(sum[:]), data}
}

// makeSized makes a package whose file has about size bytes.
func makeSized(name string, rng *rand.Rand, size int) (pkg, error) {
	empty, err := makePackage(name, rng, 0)
	if err != nil {
		return pkg{}, err
	}
	return makePackage(name, rng, max(0, size-len(empty.data)))
}

// tinyPackages makes n of the sample's tiny packages in memory.
func (b *bench) tinyPackages(n int) (ps []pkg, err error) {
	dir, err := b.tempDir("tiny")
	if err != nil {
		return nil, err
	}
	ch, err := sample.Build(dir, sample.Options{Packages: n, Seed: seed(), Tiny: true})
	if err != nil {
		return nil, err
	}
	for _, f := range ch.Files {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		dir, filename := filepath.Split(f.Path)
		d, err := dist.ParseFilename(filename)
		if err != nil {
			return nil, err
		}
		ps = append(ps, describe(d.Name, filepath.Clean(dir), filename, data))
	}
	return ps, nil
}
