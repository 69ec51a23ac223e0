package solve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
)

// answer is what a solve says, in one text.
func answer(t testing.TB, ix *Index, r Request) string {
	t.Helper()
	sol, err := ix.Solve(context.Background(), r)
	var unsolvable *UnsolvableError
	switch {
	case errors.As(err, &unsolvable):
		return err.Error()
	case err != nil:
		t.Fatal(err)
	}
	return strings.Join(files(sol), " ")
}

// mapped is a repo with its arena in a snapshot.
func mapped(t testing.TB, r Repo) Repo {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.Arena.WriteSnapshot(f, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	if r.Arena, err = arena.OpenSnapshot(f, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnArenaGivesTheAnswersOfItsPackages(t *testing.T) {
	repos, err := readReal("linux-64", "noarch")
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no real channel: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range repos {
		repos[i] = mapped(t, repos[i])
	}
	ix, packages := index(t, repos...), realChannel(t)
	for _, g := range goldens(t, rattlerGoldens) {
		r := Request{Specs: parseSpecs(t, g.Specs...), Virtual: goldenMachine}
		if diff := cmp.Diff(answer(t, packages, r), answer(t, ix, r)); diff != "" {
			t.Errorf("%v (-packages +arena):\n%s", g.Specs, diff)
		}
	}
	runtime.GC()
}

// arenaOf puts made packages into an arena.
func arenaOf(t *testing.T, r Repo) Repo {
	t.Helper()
	path := filepath.Join(t.TempDir(), "repodata.json")
	writeRepodata(t, path, r.Packages)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ReadRepo(r.Channel, r.Subdir, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMadeChannelsGiveTheSameAnswersFromArenas(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 9))
	for range 40 {
		repo := channel("https://h/c", randomChannel(rnd)...)
		packages, a := index(t, repo), index(t, mapped(t, arenaOf(t, repo)))
		for range 4 {
			r := Request{
				Specs:   parseSpecs(t, repo.Packages[rnd.IntN(len(repo.Packages))].Name, repo.Packages[rnd.IntN(len(repo.Packages))].Name+" >=2"),
				Virtual: goldenMachine, Strategy: Strategy(rnd.IntN(3)),
			}
			if diff := cmp.Diff(answer(t, packages, r), answer(t, a, r)); diff != "" {
				t.Errorf("%v (-packages +arena):\n%s", r.Specs, diff)
			}
		}
	}
}

const rareRecords = `{"packages":{
 "a-1-0.tar.bz2":{"name":"a","version":"1","build":"0","build_number":0,"depends":["b"],"license":"MIT","md5":"d7c89558ba9fa0495403155b64376d81"},
 "a-2-0.tar.bz2":{"name":"a","version":"2","build":"0","build_number":0,"depends":[],"revoked":true},
 "b-1-0.tar.bz2":{"name":"b","version":"1","build":"0","build_number":0,"depends":[],"track_features":"f","flags":["cpu"]}
},"packages.conda":{
 "a-1-0.conda":{"name":"a","version":"1","build":"0","build_number":0,"depends":["b"],"extra_depends":{"g":["c"]},"indexed_timestamp":1700000000000},
 "b-bad-0.conda":{"name":"b","version":"!","build":"0","build_number":0,"depends":[]},
 "c-1-0.conda":{"name":"c","version":"1","build":"0","build_number":0,"depends":[]}
},"v3":{"whl":{"w-1-0":{"name":"w","version":"1","build":"0","url":"w/w.whl","depends":[]}}}}`

func TestRareFieldsOfAnArenaCount(t *testing.T) {
	repo, err := ReadRepo("https://h/c", "linux-64", strings.NewReader(rareRecords), nil)
	if err != nil {
		t.Fatal(err)
	}
	repo.Resolve = func(ref string) string { return "https://w/" + ref }
	ix := index(t, repo)
	for specs, want := range map[string]string{
		"a":                   "a-1-0.conda b-1-0.tar.bz2",
		"a[extras=[g]]":       "a-1-0.conda b-1-0.tar.bz2 c-1-0.conda",
		"b[flags=[cpu]]":      "b-1-0.tar.bz2",
		"b[track_features=f]": "b-1-0.tar.bz2",
		"w":                   "w-1-0.whl",
	} {
		got := strings.ReplaceAll(answer(t, ix, Request{Specs: parseSpecs(t, specs)}), "linux-64/", "")
		if got != want {
			t.Errorf("%s: %s, want %s", specs, got, want)
		}
	}
	for _, specs := range []string{"a 2", "b[flags=[gpu]]", "a[license=GPL]"} {
		if got := answer(t, ix, Request{Specs: parseSpecs(t, specs)}); !strings.Contains(got, "cannot be met") {
			t.Errorf("%s: %s", specs, got)
		}
	}
	w := ix.Find(&parseSpecs(t, "w")[0])
	if len(w) != 1 || w[0].Location() != "https://w/w/w.whl" {
		t.Errorf("w is at %v", w)
	}
	sol, err := ix.Solve(t.Context(), Request{Specs: parseSpecs(t, "a"), Favoured: ix.Find(&parseSpecs(t, "a 1")[0])})
	if err != nil || sol.Packages[0] != ix.Find(&parseSpecs(t, "a 1")[0])[0] {
		t.Errorf("a package is another the second time: %v, %v", sol, err)
	}
	if len(ix.Problems()) != 1 || ix.Len() != 5 {
		t.Errorf("%d packages, problems %v", ix.Len(), ix.Problems())
	}
}

// TestManySolvesMakeCandidatesAtOnce is for the race detector, too: nothing of the index is there when they begin.
func TestManySolvesMakeCandidatesAtOnce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	repo := channel("https://h/c", randomChannel(rnd)...)
	a := mapped(t, arenaOf(t, repo))
	want := map[string]string{}
	alone := index(t, repo)
	for _, name := range alone.Names() {
		want[name] = answer(t, alone, Request{Specs: parseSpecs(t, name), Virtual: goldenMachine})
	}
	ix := index(t, a)
	var wg sync.WaitGroup
	for range 4 {
		for name := range want {
			wg.Go(func() {
				if got := answer(t, ix, Request{Specs: parseSpecs(t, name), Virtual: goldenMachine}); got != want[name] {
					t.Errorf("%s: %s, want %s", name, got, want[name])
				}
				if len(ix.Find(&parseSpecs(t, name)[0])) == 0 {
					t.Errorf("%s was not found", name)
				}
			})
		}
	}
	wg.Wait()
}

// TestASnapshotThatWasMadeToDeceiveDoesNotCrashASolve flips bytes of a mapped body that nobody verified.
func TestASnapshotThatWasMadeToDeceiveDoesNotCrashASolve(t *testing.T) {
	repo := arenaOf(t, channel("https://h/c", randomChannel(rand.New(rand.NewPCG(1, 1)))...))
	var good bytes.Buffer
	if err := repo.Arena.WriteSnapshot(&good, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		bad := slices.Clone(good.Bytes())
		for range 1 + rnd.IntN(20) {
			bad[256+rnd.IntN(len(bad)-256)] = byte(rnd.Uint32())
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := arena.OpenSnapshot(f, [32]byte{})
		if err == nil {
			ix := index(t, Repo{Channel: "https://h/c", Subdir: "linux-64", Arena: a})
			for i := range 5 {
				_, _ = ix.Solve(t.Context(), Request{Specs: parseSpecs(t, fmt.Sprintf("p%02d", i)), Virtual: goldenMachine})
			}
			ix.Len()
		}
		f.Close()
	}
}
