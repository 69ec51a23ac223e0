package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestListsAreComparedWithContent(t *testing.T) {
	verify := func(name string, data []byte) error {
		_, err := Verify(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{})
		return err
	}
	for _, f := range dist.Formats {
		if err := verify(create(t, f)); err != nil {
			t.Error(err)
		}
	}
	const sum = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	for entry, want := range map[string]string{
		`{"_path":"a","path_type":"hardlink","sha256":"` + sum + `","size_in_bytes":1}`: "",
		`{"_path":"a"}`: "",
		`{"_path":"a","sha256":"` + strings.Replace(sum, "2d", "3d", 1) + `"}`: "sha256",
		`{"_path":"a","size_in_bytes":2}`:                                      "size_in_bytes",
		`{"_path":"a","path_type":"softlink"}`:                                 "path_type",
		`{"_path":"a"},{"_path":"b"}`:                                          "does not hold",
		``:                                                                     "does not list",
	} {
		data := zipOf(metaMember(), pkgZst(t, file("a", "x")), infoZst(t, file(indexFile, demoIndex),
			file(pathsFile, `{"paths_version":1,"paths":[`+entry+`]}`)))
		err := verify(demoConda, data)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", entry, err)
			}
			continue
		}
		refused(t, err, want)
	}
}

func TestRealPackagesHoldWhatTheyList(t *testing.T) {
	n := 0
	for _, path := range realPackages(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if knownBroken(path) != "" || strings.Contains(path, "/sparse/") || len(data) > 400_000 {
			continue
		}
		n++
		if strings.Contains(path, "conda_format_repo") && !strings.Contains(path, "/win-") {
			// Its links were lost when the fixture was made.
			_, err := Verify(t.Context(), bytes.NewReader(data), int64(len(data)), filepath.Base(path), Limits{})
			refused(t, err, "path_type")
			continue
		}
		if _, err := Verify(t.Context(), bytes.NewReader(data), int64(len(data)), filepath.Base(path), Limits{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n < 200 {
		t.Fatalf("only %d packages", n)
	}
}
