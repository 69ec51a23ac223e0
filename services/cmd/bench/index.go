package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// indexedPackages is the size of the channel that is indexed from nothing; one more comes then.
const indexedPackages = 2500

// indexer is a program that makes a channel's index. Its command prints how many seconds it took, without its start.
type indexer struct {
	name    string
	command func(channel string) *exec.Cmd
}

// The other indexers run in the virtual environment of the end-to-end tests. Their time begins when they are imported, and
// what they leave out by default and ours writes is asked of them.
const (
	rattlerIndexer = `
import asyncio, sys, time
from pathlib import Path
from rattler.index import index_fs
begin = time.monotonic()
asyncio.run(index_fs(Path(sys.argv[1]), write_zst=True, write_shards=True))
print(time.monotonic() - begin)`
	condaIndexer = `
import sys, time
from conda_index.index import ChannelIndex
begin = time.monotonic()
channel = ChannelIndex(sys.argv[1], channel_name="bench", write_bz2=False, write_zst=True, write_shards=True, write_run_exports=True,
                       compact_json=True, write_current_repodata=False, threads=2)
channel.index(patch_generator=None)
channel.update_channeldata()
print(time.monotonic() - begin)`
)

func (b *bench) indexers() ([]indexer, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	python := filepath.Join(root, ".venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return nil, errors.New("the other indexers are not installed: run `make e2e ARGS='conda: versions'` once, which installs them")
	}
	script := func(text string) func(string) *exec.Cmd {
		return func(channel string) *exec.Cmd {
			c := exec.Command(python, "-B", "-c", text, channel)
			c.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(root, "e2e")+string(os.PathListSeparator)+filepath.Join(root, "e2e", "shim"))
			return c
		}
	}
	return []indexer{
		{"entrepot", func(channel string) *exec.Cmd { return exec.Command(b.binary, "conda", "index", channel) }},
		{"rattler-index", script(rattlerIndexer)},
		{"conda-index", script(condaIndexer)},
	}, nil
}

// indexPart times three indexers on the same small packages, half of each format: from nothing, then with one more.
func (b *bench) indexPart(ctx context.Context) (*report, error) {
	r := &report{
		Title: "Indexing a directory",
		Load: fmt.Sprintf("%d packages of about 1.5 kB, half .conda and half .tar.bz2, five versions of a name, in one subdir; a fresh tree of hard links for each run; "+
			"then one package more", indexedPackages),
		Durability: "none: an index can be made again",
	}
	rows := newRows(r)
	tools, err := b.indexers()
	if err != nil {
		return nil, err
	}
	packages, err := b.tempDir("index-packages")
	if err != nil {
		return nil, err
	}
	for i := range indexedPackages + 1 {
		if err := writeSmallPackage(packages, i); err != nil {
			return nil, err
		}
	}
	took := map[string]map[string][]float64{"from nothing": {}, "one more": {}}
	for run := range b.runs {
		for i := range tools {
			t := tools[(run+i)%len(tools)] // each is first, second and third in turn
			whole, more, err := b.indexOnce(ctx, t, packages)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			took["from nothing"][t.name] = append(took["from nothing"][t.name], whole)
			took["one more"][t.name] = append(took["one more"][t.name], more)
		}
	}
	for _, what := range []string{"from nothing", "one more"} {
		for _, t := range tools {
			for i, seconds := range took[what][t.name] {
				rows.add("index: "+what+", "+t.name, seconds)
				if t.name != "entrepot" {
					rows.add("index: "+what+", ratio to "+t.name, seconds/took[what]["entrepot"][i])
				}
			}
		}
	}
	r.Notes = append(r.Notes, "entrepot is timed from its start to its end, the others from when their modules are loaded",
		"rattler-index is the module of py-rattler 0.28.0, conda-index 0.13.0; all write repodata.json, .zst and shards, entrepot and conda-index also "+
			"run_exports.json and channeldata.json, entrepot also current_repodata.json")
	return r, nil
}

// indexOnce indexes a fresh tree of links to the packages but the last, then adds that one.
func (b *bench) indexOnce(ctx context.Context, t indexer, packages string) (whole, more float64, err error) {
	channel, err := b.tempDir("index-channel")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(channel)
	last := smallPackage(indexedPackages).Filename()
	err = filepath.WalkDir(packages, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == last {
			return err
		}
		return linkInto(channel, packages, path)
	})
	if err == nil {
		whole, err = timed(ctx, t.command(channel))
	}
	if err == nil {
		err = linkInto(channel, packages, filepath.Join(packages, subdir, last))
	}
	if err == nil {
		more, err = timed(ctx, t.command(channel))
	}
	return whole, more, err
}

func linkInto(channel, packages, path string) error {
	rel, err := filepath.Rel(packages, path)
	if err != nil {
		return err
	}
	to := filepath.Join(channel, rel)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Link(path, to)
}

// timed runs an indexer and returns the seconds that it prints, or that it took.
func timed(ctx context.Context, c *exec.Cmd) (float64, error) {
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	begin := time.Now()
	if err := c.Start(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { c.Process.Kill() })
	defer stop()
	if err := c.Wait(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, errs.String())
	}
	took := time.Since(begin).Seconds()
	lines := strings.Fields(out.String())
	if n := len(lines); n == 1 {
		return strconv.ParseFloat(lines[0], 64)
	}
	return took, nil
}

func smallPackage(n int) dist.Dist {
	format := dist.Conda
	if n%2 == 1 {
		format = dist.TarBz2
	}
	return dist.Dist{Name: fmt.Sprintf("small-%04d", n/5), Version: fmt.Sprintf("1.%d", n%5), Build: "h0123456_0", Format: format}
}

// writeSmallPackage writes the package of a number: a few files and the metadata that packages usually have.
func writeSmallPackage(root string, n int) error {
	d := smallPackage(n)
	dir := filepath.Join(root, subdir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, d.Filename()))
	if err != nil {
		return err
	}
	meta := archive.Meta{
		Index: archive.Index{
			Name: d.Name, Version: d.Version, Build: d.Build, Subdir: subdir, License: "BSD-3-Clause",
			Depends:   archive.StringList{"python >=3.10,<3.13", "numpy >=1.26", fmt.Sprintf("small-%04d", n/10)},
			Timestamp: archive.Millis(1_700_000_000_000 + int64(n)*60_000),
		},
		About: &archive.About{Summary: "A small package to be indexed", License: "BSD-3-Clause", Home: "https://example.org"},
	}
	inputs := []archive.Input{
		{Path: "share/" + d.Name + "/data.bin", Data: bytes.Repeat([]byte{byte(n), byte(n >> 8)}, 512)},
		{Path: "lib/" + d.Name + "/__init__.py", Data: fmt.Appendf(nil, "number = %d\n", n)},
	}
	_, err = archive.Create(context.Background(), f, d.Format, meta, inputs, archive.CompressionLevel(1))
	return errors.Join(err, f.Close())
}
