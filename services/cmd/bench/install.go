package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// An environment of the size that other installers publish figures for: a scientific one of Python.
const (
	linkedPackages = 110
	linkedFiles    = 260 // of each; 28,600 together
	linkedSubdir   = "linux-64"
)

// rattlerInstall installs what repodata.json lists, twice: the first time fills the cache, the second one is timed. It does
// not count its start, nor reading the index.
const rattlerInstall = `
import asyncio, sys, time
from rattler import Channel, RepoData, install
channel, prefix, cache = sys.argv[1:4]
records = RepoData.from_path(channel + "/linux-64/repodata.json").into_repo_data(Channel("file://" + channel))
async def run(to):
    begin = time.monotonic()
    await install(records, to, cache_dir=cache, show_progress=False)
    return time.monotonic() - begin
asyncio.run(run(prefix + "-cold"))
print(asyncio.run(run(prefix)))`

// installPart links a large environment out of a warm cache, beside py-rattler in the same run.
func (b *bench) installPart(ctx context.Context) (*report, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	python := filepath.Join(root, ".venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return nil, errors.New("py-rattler is not installed: run `make e2e ARGS='conda: versions'` once, which installs it")
	}
	dir, err := b.tempDir("install")
	if err != nil {
		return nil, err
	}
	want, err := linkedChannel(ctx, filepath.Join(dir, "channel"))
	if err != nil {
		return nil, err
	}
	r := &report{
		Title: "Installing an environment",
		Load: fmt.Sprintf("%d packages with %d small files together, a twenty-fifth of them with a placeholder to replace, out of a warm package cache on the same "+
			"file system into a prefix that does not exist; entrepot as a library, with its journal and records flushed to the disk (the default) and without; "+
			"py-rattler by its install function, which flushes nothing; the starts of programs are not counted", linkedPackages, linkedPackages*linkedFiles),
		Durability: "entrepot flushes journal, files and records before it commits, unless said otherwise",
	}
	rows := newRows(r)
	cache, err := pkgcache.Open(filepath.Join(dir, "cache"), pkgcache.Options{})
	if err != nil {
		return nil, err
	}
	link := func(name string, noSync bool) (float64, error) {
		begin := time.Now()
		res, err := install.Install(ctx, filepath.Join(dir, name), want, install.Options{Cache: cache, Platform: linkedSubdir, NoSync: noSync})
		took := time.Since(begin).Seconds()
		if err == nil && res.Linked+res.Copied+res.Rewritten != linkedPackages*linkedFiles {
			err = fmt.Errorf("%d files were linked, %d copied and %d rewritten", res.Linked, res.Copied, res.Rewritten)
		}
		return took, err
	}
	if _, err := link("first", false); err != nil { // fills the cache
		return nil, err
	}
	for run := range b.runs {
		ours, err := link(fmt.Sprintf("ours-%d", run), false)
		if err != nil {
			return nil, err
		}
		loose, err := link(fmt.Sprintf("loose-%d", run), true)
		if err != nil {
			return nil, err
		}
		theirs, err := timedScript(ctx, python, rattlerInstall, filepath.Join(dir, "channel"), filepath.Join(dir, fmt.Sprintf("theirs-%d", run)), filepath.Join(dir, "rattler-cache"))
		if err != nil {
			return nil, fmt.Errorf("py-rattler: %w", err)
		}
		rows.add("install 28,600 files, entrepot", ours)
		rows.add("install 28,600 files, entrepot, not flushed", loose)
		rows.add("install 28,600 files, py-rattler", theirs)
		rows.add("ratio, install 28,600 files", theirs/ours)
		if run > 0 {
			continue
		}
		if err := sameFiles(filepath.Join(dir, "ours-0"), filepath.Join(dir, "theirs-0")); err != nil {
			return nil, err
		}
	}
	out, err := exec.CommandContext(ctx, python, "-c", "import importlib.metadata as m; print(m.version('py-rattler'))").Output()
	if err != nil {
		return nil, err
	}
	r.Notes = append(r.Notes, "py-rattler "+strings.TrimSpace(string(out)), "Both leave the same paths, which is checked")
	return r, nil
}

// timedScript runs a script that prints how many seconds it took.
func timedScript(ctx context.Context, python, text string, args ...string) (float64, error) {
	c := exec.CommandContext(ctx, python, append([]string{"-B", "-c", text}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// sameFiles compares what two installers left, by path.
func sameFiles(a, b string) error {
	list := func(dir string) (map[string]bool, error) {
		out := map[string]bool{}
		return out, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && e.Name() != "CACHEDIR.TAG" {
				out[strings.TrimPrefix(name, dir)] = true
			}
			return err
		})
	}
	x, err := list(a)
	if err != nil {
		return err
	}
	y, err := list(b)
	if err != nil {
		return err
	}
	for name := range x {
		if !y[name] {
			return fmt.Errorf("%s is in %s and not in %s", name, a, b)
		}
	}
	if len(x) != len(y) {
		return fmt.Errorf("there are %d files in %s and %d in %s", len(x), a, len(y), b)
	}
	return nil
}

// linkedChannel writes the packages and a repodata.json of them.
func linkedChannel(ctx context.Context, channel string) ([]install.Package, error) {
	dir := filepath.Join(channel, linkedSubdir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	placeholder := ("/opt/" + strings.Repeat("placehold_", 30))[:255]
	var want []install.Package
	listed := map[string]any{}
	for n := range linkedPackages {
		name := fmt.Sprintf("linked-%03d", n)
		meta := archive.Meta{Index: archive.Index{Name: name, Version: "1.0", Build: "0", Subdir: linkedSubdir, Timestamp: 1_700_000_000_000}, About: &archive.About{Summary: archive.Text(name)}}
		var files []archive.Input
		for k := range linkedFiles {
			in := archive.Input{Path: fmt.Sprintf("lib/python3.12/site-packages/linked_%03d/part%02d/module%03d.py", n, k/20, k), Data: []byte(strings.Repeat(fmt.Sprintf("x%d = %d\n", k, n), 30))}
			if k%25 == 0 {
				in = archive.Input{Path: fmt.Sprintf("bin/linked-%03d-%03d", n, k), Data: []byte("#!" + placeholder + "/bin/python3.12\n"), Placeholder: placeholder, Mode: 0o755}
			}
			files = append(files, in)
		}
		var buf bytes.Buffer
		d, err := archive.Create(ctx, &buf, dist.Conda, meta, files, archive.CompressionLevel(1))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, d.Filename()), buf.Bytes(), 0o644); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(buf.Bytes())
		record := repodata.Record{Name: name, Version: "1.0", Build: "0", Subdir: linkedSubdir, SHA256: hex.EncodeToString(sum[:]), Size: uint64(buf.Len())}
		want = append(want, install.Package{Record: record, FileName: d.Filename(), URL: filepath.Join(dir, d.Filename()), Channel: "file://" + channel + "/"})
		listed[d.Filename()] = map[string]any{
			"name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": []string{}, "subdir": linkedSubdir, "sha256": record.SHA256, "size": buf.Len(),
		}
	}
	data, err := json.Marshal(map[string]any{"info": map[string]string{"subdir": linkedSubdir}, "packages": map[string]any{}, "packages.conda": listed})
	if err != nil {
		return nil, err
	}
	return want, os.WriteFile(filepath.Join(dir, "repodata.json"), data, 0o644)
}
