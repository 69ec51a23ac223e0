package sample

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// writeIndex writes repodata.json and repodata.json.zst of each subdir, and channeldata.json. packages are sorted by
// path.
func (c *Channel) writeIndex(packages []made) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	for _, subdir := range c.Subdirs {
		doc, err := repodataOf(subdir, packages)
		if err != nil {
			return err
		}
		if err := c.writeIndexFile(subdir+"/repodata.json", doc); err != nil {
			return err
		}
		if err := c.writeIndexFile(subdir+"/repodata.json.zst", z.EncodeAll(doc, nil)); err != nil {
			return err
		}
	}
	doc, err := channeldata(c.Subdirs, packages)
	if err != nil {
		return err
	}
	if err := c.writeIndexFile("channeldata.json", doc); err != nil {
		return err
	}
	slices.SortFunc(c.Index, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

func (c *Channel) writeIndexFile(path string, data []byte) error {
	c.Index = append(c.Index, describe(path, data))
	return os.WriteFile(filepath.Join(c.Dir, filepath.FromSlash(path)), data, 0o644)
}

func repodataOf(subdir string, packages []made) ([]byte, error) {
	var out bytes.Buffer
	w := repodata.NewWriter(&out, repodata.Info{Subdir: subdir})
	for _, b := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		for _, p := range packages {
			if p.subdir != subdir || !strings.HasSuffix(p.filename, b.Extension()) {
				continue
			}
			if err := w.Record(b, p.filename, p.record); err != nil {
				return nil, fmt.Errorf("index %s: %w", p.Path, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// channeldata summarises the channel by package name; the newest version speaks for the name.
func channeldata(subdirs []string, packages []made) ([]byte, error) {
	type entry struct {
		Subdirs []string `json:"subdirs"`
		Summary string   `json:"summary"`
		Version string   `json:"version"`
	}
	names := map[string]*entry{}
	for _, p := range packages {
		e := names[p.about.name]
		if e == nil {
			e = &entry{Summary: p.about.summary, Version: p.about.version}
			names[p.about.name] = e
		}
		have, err := version.Parse(e.Version)
		if err != nil {
			return nil, err
		}
		this, err := version.Parse(p.about.version)
		if err != nil {
			return nil, err
		}
		if have.Compare(this) < 0 {
			e.Version = p.about.version
		}
		if !slices.Contains(e.Subdirs, p.subdir) {
			e.Subdirs = append(e.Subdirs, p.subdir)
		}
	}
	return json.Marshal(map[string]any{"channeldata_version": 1, "packages": names, "subdirs": subdirs})
}
