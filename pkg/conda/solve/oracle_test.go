package solve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// oracle solves problems with py-rattler, if there is a Python that has it.
func oracle(t *testing.T, problems []map[string]any) []golden {
	t.Helper()
	python := os.Getenv("ENTREPOT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import rattler").Run(); err != nil {
		t.Skipf("no oracle: %s has no py-rattler (%v); pip install py-rattler==0.28.0 and set ENTREPOT_TEST_PYTHON", python, err)
	}
	var in, out, stderr bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, p := range problems {
		if err := enc.Encode(p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, filepath.Join("testdata", "oracle.py"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers []golden
	sc := bufio.NewScanner(&out)
	sc.Buffer(nil, 8<<20)
	for sc.Scan() {
		var g golden
		if err := json.Unmarshal(sc.Bytes(), &g); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, g)
	}
	if len(answers) != len(problems) {
		t.Fatalf("%d answers to %d problems", len(answers), len(problems))
	}
	return answers
}

// randomChannel makes a channel that is harder than real ones: many names that depend on each other back and forth,
// pins, constraints, features, and builds that differ in nothing but their dependencies.
func randomChannel(rnd *rand.Rand) []*Package {
	names := 6 + rnd.IntN(12)
	name := func() string { return fmt.Sprintf("p%02d", rnd.IntN(names)) }
	limit := func() string {
		v := 1 + rnd.IntN(5)
		return []string{"", "", fmt.Sprintf(" >=%d", v), fmt.Sprintf(" <%d", v+1), fmt.Sprintf(" %d.*", v), fmt.Sprintf(" !=%d.0", v), fmt.Sprintf(" >=%d,<%d", v, v+2)}[rnd.IntN(7)]
	}
	var packages []*Package
	for n := range names {
		for v := range 1 + rnd.IntN(5) {
			for b := range 1 + rnd.IntN(3) {
				var depends, forbids []string
				for range rnd.IntN(6) {
					depends = append(depends, name()+limit())
				}
				if rnd.IntN(8) == 0 {
					depends = append(depends, fmt.Sprintf("__glibc >=2.%d", 10+rnd.IntN(25)))
				}
				// A package that constrains itself away is left out: the oracle finds that out when it has chosen it, and
				// goes on elsewhere for that; here it never was a choice.
				if other := name(); rnd.IntN(3) == 0 && other != fmt.Sprintf("p%02d", n) {
					forbids = append(forbids, other+fmt.Sprintf(" >=%d", 1+rnd.IntN(4)))
				}
				p := pkg(fmt.Sprintf("p%02d %d.0", n, v+1), depends, build(fmt.Sprintf("h%d_%d", b, b/2), uint64(b/2)), constrains(forbids...))
				if rnd.IntN(12) == 0 {
					p.TrackFeatures = []string{"f"}
				}
				if rnd.IntN(3) > 0 {
					p.Timestamp = 1_500_000_000_000 + rnd.Int64N(1e11)
				}
				packages = append(packages, p)
			}
		}
	}
	slices.SortFunc(packages, func(a, b *Package) int { return strings.Compare(a.FileName, b.FileName) })
	return packages
}

func writeRepodata(t *testing.T, path string, packages []*Package) {
	t.Helper()
	records := map[string]any{}
	for _, p := range packages {
		r := map[string]any{
			"name": p.Name, "version": p.Version, "build": p.Build, "build_number": p.BuildNumber,
			"depends": append([]string{}, p.Depends...), "constrains": append([]string{}, p.Constrains...), "subdir": "linux-64",
		}
		if p.Timestamp > 0 {
			r["timestamp"] = p.Timestamp
		}
		if len(p.TrackFeatures) > 0 {
			r["track_features"] = strings.Join(p.TrackFeatures, " ")
		}
		records[p.FileName] = r
	}
	data, err := json.Marshal(map[string]any{"info": map[string]any{"subdir": "linux-64"}, "packages": map[string]any{}, "packages.conda": records})
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHardProblemsAreSolvedAsTheOracleDoes compares whole answers with the solver that this package follows.
func TestHardProblemsAreSolvedAsTheOracleDoes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	var problems []map[string]any
	var indexes []*Index
	strategies := []string{"highest", "lowest", "lowest-direct"}
	machine := [][3]string{}
	for _, v := range goldenMachine {
		machine = append(machine, [3]string{v.Name, v.Version, v.Build})
	}
	for i := range 120 {
		packages := randomChannel(rnd)
		path := filepath.Join(dir, fmt.Sprintf("%d.json", i))
		writeRepodata(t, path, packages)
		ix := index(t, channel("https://h/c", packages...))
		for k := range 4 {
			var specs []string
			for range 1 + rnd.IntN(3) {
				specs = append(specs, packages[rnd.IntN(len(packages))].Name+[]string{"", "", " >=2", " <3"}[rnd.IntN(4)])
			}
			problems = append(problems, map[string]any{
				"channel": "https://h/c", "repodata": path, "specs": specs, "virtual": machine, "strategy": strategies[k%3],
			})
			indexes = append(indexes, ix)
		}
	}
	answers := oracle(t, problems)
	solved, conflicts, wrong := 0, 0, 0
	for i, g := range answers {
		r := Request{
			Specs: parseSpecs(t, problems[i]["specs"].([]string)...), Virtual: goldenMachine,
			Encoding: Shared, // as py-rattler 0.28 has it
			Strategy: Strategy(slices.Index(strategies, problems[i]["strategy"].(string))),
		}
		sol, err := indexes[i].Solve(t.Context(), r)
		var unsolvable *UnsolvableError
		if err != nil {
			if !errors.As(err, &unsolvable) || g.Error == nil {
				t.Errorf("problem %d %v: %v, the oracle says %v %v", i, problems[i]["specs"], err, g.Packages, g.Error)
			}
			continue
		}
		solved++
		conflicts += sol.Stats.Conflicts
		if problem := check(sol, &r); problem != "" {
			t.Errorf("problem %d: not valid: %s", i, problem)
		}
		if ours := files(sol); !slices.Equal(ours, g.Packages) {
			if wrong++; wrong < 5 {
				t.Errorf("problem %d %v %s:\n  ours    %v\n  theirs  %v %v", i, problems[i]["specs"], problems[i]["strategy"],
					except(ours, g.Packages), except(g.Packages, ours), g.Error)
			}
		}
	}
	t.Logf("%d problems, %d solved with %d conflicts, %d answers differ", len(answers), solved, conflicts, wrong)
}
