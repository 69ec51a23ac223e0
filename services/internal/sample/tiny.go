package sample

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// tinyPerName is how many files share a name: large public channels have some ten to thirty, and an index by name
// should have something to group.
const tinyPerName = 8

// tinyEncoders compress whole members at once. archive.Create streams through two encoders with windows of megabytes,
// which is right for any package and takes milliseconds for each; here the tars have a few kilobytes.
var tinyEncoders = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(64<<10))
	if err != nil {
		panic(err) // only a bad option can cause it
	}
	return z
}}

// buildTiny makes the i-th tiny package: one file of random bytes, and the least metadata that an installer takes.
func buildTiny(dir string, seed uint64, i int) (made, error) {
	name := fmt.Sprintf("tiny-%06d", i/tinyPerName)
	subdir, noarch := "linux-64", ""
	if i/tinyPerName%2 == 1 {
		subdir, noarch = dist.Noarch, `"noarch":"generic",`
	}
	d, err := dist.New(name, fmt.Sprintf("1.%d", i%tinyPerName), "0", dist.Conda)
	if err != nil {
		return made{}, err
	}
	rng := rand.New(rand.NewPCG(seed, uint64(i)))
	payload := random(rng, 1100+rng.IntN(900))
	sum := sha256.Sum256(payload)
	path := "share/" + name + "/data.bin"
	index := fmt.Appendf(nil, `{"build":"0","build_number":0,"depends":[],"license":"BSD-3-Clause","name":%q,%s"subdir":%q,"timestamp":%d,"version":%q}`,
		d.Name, noarch, subdir, firstBuild+int64(i)*1000, d.Version)
	paths := fmt.Appendf(nil, `{"paths":[{"_path":%q,"path_type":"hardlink","sha256":%q,"size_in_bytes":%d}],"paths_version":1}`,
		path, hex.EncodeToString(sum[:]), len(payload))
	data, err := tinyArchive(d, []tinyFile{{"info/index.json", index}, {"info/paths.json", paths}}, []tinyFile{{path, payload}})
	if err != nil {
		return made{}, fmt.Errorf("make %s: %w", d, err)
	}
	return finish(dir, subdir, d.Filename(), data, index, about{name, d.Version, "a tiny package", subdir})
}

type tinyFile struct {
	path string
	data []byte
}

// tinyArchive writes a .conda (CEP 35): a ZIP of stored members, the package's tar before the metadata's.
func tinyArchive(d dist.Dist, info, pkg []tinyFile) ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	put := func(name string, data []byte) error {
		// Sizes up front, or the ZIP gets data descriptors, which readers of single members cannot use.
		w, err := z.CreateRaw(&zip.FileHeader{
			Name: name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(data),
			CompressedSize64: uint64(len(data)), UncompressedSize64: uint64(len(data)),
		})
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	if err := put("metadata.json", []byte(`{"conda_pkg_format_version": 2}`)); err != nil {
		return nil, err
	}
	for _, m := range []struct {
		name  string
		files []tinyFile
	}{{"pkg-" + d.Stem() + ".tar.zst", pkg}, {"info-" + d.Stem() + ".tar.zst", info}} {
		data, err := tinyTar(m.files)
		if err != nil {
			return nil, err
		}
		if err := put(m.name, data); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func tinyTar(files []tinyFile) ([]byte, error) {
	var plain bytes.Buffer
	t := tar.NewWriter(&plain)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Size: int64(len(f.data)), Mode: 0o644, ModTime: time.UnixMilli(firstBuild)}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	z := tinyEncoders.Get().(*zstd.Encoder)
	defer tinyEncoders.Put(z)
	return z.EncodeAll(plain.Bytes(), nil), nil
}
