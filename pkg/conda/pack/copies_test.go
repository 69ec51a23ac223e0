package pack_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

func TestAValueMayContainTheWordsThatAreReplaced(t *testing.T) {
	k := segmenttest.New(t)
	const value = "@UNSET@ @EXPORT@ @RECORDS@"
	packages := k.Fetch(k.Package(archive.Index{Name: "x"}, []archive.Input{
		segmenttest.Plain("etc/conda/env_vars.d/x.json", `{"X": "`+value+`"}`), segmenttest.Text("share/@VERSION@", segmenttest.Placeholder),
	}))
	dir := t.TempDir()
	unpackTar(t, write(t, packages, options(t, pack.Tar)), pack.Tar, dir)
	for name, lines := range map[string][]string{
		"bin/activate": {"    export X='" + value + "'"}, "bin/activate.fish": {"set -gx X '" + value + "'", "    set -e X"},
		"bin/deactivate": {"    unset X"}, "bin/conda-unpack": {"_version = 'entrepot test'", "    ('share/@VERSION@', '" + segmenttest.Placeholder + "', 'text'),"},
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if strings.Count("\n"+string(data), "\n"+line+"\n") != 1 {
				t.Errorf("%s does not have the line %q once", name, line)
			}
		}
	}
}

// links makes directories of which each has two links to the next, so that a file at the end has 2ⁿ copies.
func links(n int, data string) []archive.Input {
	inputs := []archive.Input{segmenttest.Plain(fmt.Sprintf("d%d/file", n), data)}
	for i := range n {
		for _, name := range []string{"a", "b"} {
			inputs = append(inputs, archive.Input{Path: fmt.Sprintf("d%d/%s", i, name), Kind: archive.Symlink, Link: fmt.Sprintf("../d%d", i+1)})
		}
	}
	return inputs
}

func TestCopiesInTheZipDoNotMultiply(t *testing.T) {
	k := segmenttest.New(t)
	few := k.Fetch(k.Package(archive.Index{Name: "few"}, links(4, "x")))
	write(t, few, options(t, pack.Zip))
	for name, inputs := range map[string][]archive.Input{"files": links(15, "x"), "bytes": links(9, strings.Repeat("x", 1<<20))} {
		many := k.Fetch(k.Package(archive.Index{Name: name}, inputs))
		_, err := pack.Write(t.Context(), io.Discard, many, options(t, pack.Zip))
		if err == nil || !strings.Contains(err.Error(), "several times as large") {
			t.Errorf("%s: %v", name, err)
		}
		o := options(t, pack.Zip)
		o.ZipLinks = true
		if _, err := pack.Write(t.Context(), io.Discard, many, o); err != nil {
			t.Errorf("%s, as links: %v", name, err)
		}
	}
}
