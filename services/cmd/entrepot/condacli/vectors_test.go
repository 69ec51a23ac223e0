package condacli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// vectors reads a file of tab-separated rows from the data folder beside the repository, or returns a few rows of the
// same form if there is none.
func vectors(t *testing.T, name string, few [][]string) (rows [][]string, real bool) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "shared", "data", "04-vectors", name))
	if errors.Is(err, os.ErrNotExist) {
		return few, false
	}
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	text, err := dec.DecodeAll(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, true
}

// ask runs a line command over the first fields of all rows.
func ask(t *testing.T, rows [][]string, fields int, args ...string) []string {
	t.Helper()
	var in strings.Builder
	for _, r := range rows {
		in.WriteString(strings.Join(r[:fields], "\t") + "\n")
	}
	out, errs, code := run(t, in.String(), args...)
	answers := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != 0 || len(answers) != len(rows) {
		t.Fatalf("%d answers to %d rows, exit code %d: %s", len(answers), len(rows), code, errs)
	}
	return answers
}

func TestLineCommandsAnswerVectorsAsCondaDoes(t *testing.T) {
	for _, c := range []struct {
		file   string
		args   []string
		fields int
		few    [][]string
	}{
		{"version_pairs.conda_vs_rattler.tsv.zst", []string{"version", "compare"}, 2, [][]string{{"1.0", "1.1", "-1"}, {"1.1", "1.1.0", "0"}, {"1.0.post1", "1.0", "1"}, {"1..2", "1", "E"}}},
		{"versionspec_match.conda_vs_rattler.tsv.zst", []string{"version", "match"}, 2, [][]string{{">=1.8,<2", "1.10", "1"}, {"1.2.*", "1.20", "0"}}},
		{"matchspec_canonical.conda-26.7.1.tsv.zst", []string{"spec", "canonical"}, 1, [][]string{{"pkg 1.8", "pkg==1.8"}, {"pkg=1.8", "pkg=1.8"}, {"pkg[", "!ERR"}}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			rows, real := vectors(t, c.file, c.few)
			wrong, lists := 0, 0
			for i, got := range ask(t, rows, c.fields, c.args...) {
				want := rows[i][c.fields]
				refused := strings.HasPrefix(got, "!ERR ")
				switch {
				case got == want, refused && (want == "E" || strings.HasPrefix(want, "!ERR")):
				case !refused && strings.HasPrefix(want, "!ERR") && strings.Contains(rows[i][0], "s=["):
					lists++ // extras=[…], flags=[…]: see docs/conda-conformance.md, M1
				default:
					if wrong++; wrong < 10 {
						t.Errorf("%q: got %q, want %q", rows[i][:c.fields], got, want)
					}
				}
			}
			if wrong > 0 || lists > 7 {
				t.Errorf("%d of %d rows are wrong, %d lists", wrong, len(rows), lists)
			}
			if real && len(rows) < 19_000 {
				t.Errorf("only %d rows", len(rows))
			}
		})
	}
}

func TestABatchTakesAnEnvironmentFileAndAnEncoding(t *testing.T) {
	dir := channel(t)
	file := filepath.Join(t.TempDir(), "environment.yml")
	if err := os.WriteFile(file, []byte("channels: [ignored]\ndependencies:\n- app\n- pip:\n  - x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := `{"specs": [], "file": "` + file + `", "virtual_packages": ["__glibc=2.28"], "encoding": "shared"}
{"specs": ["app"], "encoding": "neither"}
{"specs": [], "file": "` + file + `.missing"}
`
	out, errs, code := run(t, in, "solve", "--batch", "--no-cache", "-c", dir, "--platform", "linux-64")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 {
		t.Fatalf("exit code %d, %d lines: %s", code, len(lines), errs)
	}
	for i, want := range []string{`"name":"lib","version":"2"`, "encoding must be auto, plain or shared", "no such file"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d has no %s: %s", i, want, lines[i])
		}
	}
}

func TestAMissingPackageIsLookedForOnOtherPlatforms(t *testing.T) {
	dir := channel(t)
	if _, errs, code := run(t, "", "index", dir); code != 0 {
		t.Fatal(errs)
	}
	if err := os.MkdirAll(filepath.Join(dir, "win-64"), 0o755); err != nil {
		t.Fatal(err)
	}
	record := `{"packages.conda":{"shiny-1-0.conda":{"name":"shiny","version":"1","build":"0","build_number":0,"depends":[],"subdir":"win-64"}}}`
	if err := os.WriteFile(filepath.Join(dir, "win-64", "repodata.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := run(t, "", "solve", "--no-cache", "-c", dir, "--platform", "linux-64", "shiny")
	if code != 1 || !strings.Contains(errs, "it exists for win-64") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
