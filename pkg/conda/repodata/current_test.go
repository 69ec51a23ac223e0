package repodata

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// entriesOf is a document in memory as WriteCurrent takes it.
func entriesOf(doc []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range Records(bytes.NewReader(doc), ReadOptions{Trusted: true}) {
			if !yield(e, err) {
				return
			}
		}
	}
}

func currentOf(t testing.TB, doc []byte, opts CurrentOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, Info{Subdir: "linux-64"})
	if err := WriteCurrent(w, entriesOf(doc), opts); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func keysOf(t testing.TB, doc []byte) (out []string) {
	t.Helper()
	for e, err := range entriesOf(doc) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Key)
	}
	return out
}

// tiny makes a document from lines: file name, then what else the record says.
func tiny(t testing.TB, lines ...string) []byte {
	t.Helper()
	slices.SortFunc(lines, func(a, b string) int { // as an index orders them: .tar.bz2 first, then by name
		fa, _, _ := strings.Cut(a, " ")
		fb, _, _ := strings.Cut(b, " ")
		if x, y := strings.HasSuffix(fa, ".conda"), strings.HasSuffix(fb, ".conda"); x != y {
			return map[bool]int{false: -1, true: 1}[x]
		}
		return strings.Compare(fa, fb)
	})
	var out bytes.Buffer
	w := NewWriter(&out, Info{Subdir: "linux-64"})
	for _, line := range lines {
		fn, rest, _ := strings.Cut(line, " ")
		bucket := TarBz2
		if strings.HasSuffix(fn, ".conda") {
			bucket = Conda
		}
		parts := strings.Split(strings.TrimSuffix(fn, bucket.Extension()), "-")
		number := parts[2][strings.LastIndexByte(parts[2], '_')+1:]
		raw := fmt.Sprintf(`{"name":%q,"version":%q,"build":%q,"build_number":%s%s}`, parts[0], parts[1], parts[2], number, rest)
		if err := w.Record(bucket, fn, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTheCurrentIndexKeeps(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		pins  map[string][]string
		want  []string
	}{
		"all builds of the newest version of each name": {
			lines: []string{"a-1.0-h_0.conda", "a-1.10-h_0.conda", "a-1.10-h_1.conda", "a-1.9-h_0.conda", "b-2-h_0.tar.bz2"},
			want:  []string{"b-2-h_0.tar.bz2", "a-1.10-h_0.conda", "a-1.10-h_1.conda"},
		},
		"versions that are equal but spelled differently": {
			lines: []string{"a-1.0-h_0.conda", "a-1.0.0-h_0.conda"},
			want:  []string{"a-1.0-h_0.conda", "a-1.0.0-h_0.conda"},
		},
		"the newest of each pinned line": {
			lines: []string{"python-3.11.1-h_0.conda", "python-3.11.4-h_0.conda", "python-3.12.0-h_0.conda", "python-3.13.1-h_0.conda"},
			pins:  map[string][]string{"python": {"3.11", "3.13", "3.7", "what is this"}},
			want:  []string{"python-3.11.4-h_0.conda", "python-3.13.1-h_0.conda"},
		},
		"what the kept ones need, in the newest version that fits, with all its builds": {
			lines: []string{
				`app-1-h_0.conda ,"depends":["lib >=1,<2","gone","__glibc >=2.17","lib <2 h_0"]`,
				"lib-1.1-h_0.conda", "lib-1.2-h_0.conda", "lib-1.2-h_1.conda", "lib-2.0-h_0.conda",
			},
			want: []string{"app-1-h_0.conda", "lib-1.2-h_0.conda", "lib-1.2-h_1.conda", "lib-2.0-h_0.conda"},
		},
		"one round of these, no more": {
			lines: []string{
				`app-1-h_0.conda ,"depends":["lib 1"]`,
				`lib-1-h_0.conda ,"depends":["base 1"]`, "lib-2-h_0.conda", "base-1-h_0.conda", "base-2-h_0.conda",
			},
			want: []string{"app-1-h_0.conda", "base-2-h_0.conda", "lib-1-h_0.conda", "lib-2-h_0.conda"},
		},
		"a build that a dependency names": {
			lines: []string{`app-1-h_0.conda ,"depends":["blas * openblas_0"]`, "blas-1-openblas_0.conda", "blas-2-mkl_0.conda"},
			want:  []string{"app-1-h_0.conda", "blas-1-openblas_0.conda", "blas-2-mkl_0.conda"},
		},
		"the newest without features beside one with them": {
			lines: []string{
				`mkl-3-h_0.conda ,"features":"nomkl"`, "mkl-2-h_0.conda", "mkl-2-h_1.conda", "mkl-1-h_0.conda",
				`tf-2-gpu_0.conda ,"track_features":["gpu"]`, "tf-1-cpu_0.conda",
				`old-2-h_0.conda ,"track_features":"","features":""`, "old-1-h_0.conda",
			},
			want: []string{"mkl-2-h_1.conda", "mkl-3-h_0.conda", "old-2-h_0.conda", "tf-1-cpu_0.conda", "tf-2-gpu_0.conda"},
		},
		"a version without place in the order only if there is no other": {
			lines: []string{"a-1-h_0.conda", "a-1!2!3-h_0.conda", "b-1!2!3-h_0.conda"},
			want:  []string{"a-1-h_0.conda", "b-1!2!3-h_0.conda"},
		},
		"dependencies that cannot be read ask for nothing": {
			lines: []string{`app-1-h_0.conda ,"depends":["lib >=1,<","lib[","*"]`, "lib-1-h_0.conda"},
			want:  []string{"app-1-h_0.conda", "lib-1-h_0.conda"},
		},
		"nothing of nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			diff(t, tt.want, keysOf(t, currentOf(t, tiny(t, tt.lines...), CurrentOptions{Pins: tt.pins})))
		})
	}
}

func TestTheCurrentIndexNamesTwins(t *testing.T) {
	doc := tiny(t, `a-1-h_0.tar.bz2 ,"md5":"0123456789abcdef0123456789abcdef"`, `a-1-h_0.conda ,"odd":1.50`, `a-1-h_1.conda`)
	want := `{"info":{"subdir":"linux-64"},"packages":{"a-1-h_0.tar.bz2":{"name":"a","version":"1","build":"h_0","build_number":0,"md5":"0123456789abcdef0123456789abcdef"}},` +
		`"packages.conda":{"a-1-h_0.conda":{"name":"a","version":"1","build":"h_0","build_number":0,"odd":1.50,"legacy_bz2_md5":"0123456789abcdef0123456789abcdef"},` +
		`"a-1-h_1.conda":{"name":"a","version":"1","build":"h_1","build_number":1}},"removed":[],"repodata_version":1}`
	diff(t, want, string(currentOf(t, doc, CurrentOptions{})))
}

func TestTheCurrentIndexLeavesOutV3(t *testing.T) {
	var doc bytes.Buffer
	w := NewWriter(&doc, Info{Subdir: "linux-64"})
	for _, e := range []Entry{
		{Conda, "a-1-h_0.conda", []byte(`{"name":"a","version":"1","build":"h_0","build_number":0}`)},
		{V3Conda, "a-2-h_0", []byte(`{"name":"a","version":"2","build":"h_0","build_number":0}`)},
	} {
		if err := w.Record(e.Bucket, e.Key, e.Raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	diff(t, []string{"a-1-h_0.conda"}, keysOf(t, currentOf(t, doc.Bytes(), CurrentOptions{})))
}

func TestTheCurrentIndexPassesErrorsOn(t *testing.T) {
	good := []byte(`{"name":"a","version":"1","build":"h_0","build_number":0}`)
	for i := range 3 { // in each of its rounds
		round := 0
		err := WriteCurrent(NewWriter(&bytes.Buffer{}, Info{}), func(yield func(Entry, error) bool) {
			round++
			if !yield(Entry{Conda, "a-1-h_0.conda", good}, nil) || round <= i {
				return
			}
			yield(Entry{}, fmt.Errorf("round %d", round))
		}, CurrentOptions{})
		if want := fmt.Sprintf("round %d", i+1); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	once := Records(bytes.NewReader(tiny(t, "a-1-h_0.conda")), ReadOptions{})
	if err := WriteCurrent(NewWriter(&bytes.Buffer{}, Info{}), once, CurrentOptions{}); err == nil {
		t.Error("a sequence that can be ranged over only once is taken")
	}
	for _, raw := range []string{`{"version":"1"}`, `[]`, `{"name":"a","depends":{}}`} {
		err := WriteCurrent(NewWriter(&bytes.Buffer{}, Info{}), func(yield func(Entry, error) bool) {
			yield(Entry{Conda, "a-1-h_0.conda", []byte(raw)}, nil)
		}, CurrentOptions{})
		if err == nil {
			t.Errorf("%s is taken", raw)
		}
	}
}

// checkCurrent verifies the rules against a plain reading of them.
func checkCurrent(t fataler, whole, current []byte) {
	type rec struct {
		Record
		key    string
		parsed version.Version
	}
	read := func(doc []byte) map[string][]rec {
		out := map[string][]rec{}
		for e, err := range entriesOf(doc) {
			if err != nil {
				t.Fatalf("%v", err)
			}
			r, err := ParseRecord(bytes.Clone(e.Raw))
			if err != nil {
				t.Fatalf("%v", err)
			}
			v, err := version.Parse(r.Version)
			if err != nil {
				t.Fatalf("%v", err)
			}
			out[r.Name] = append(out[r.Name], rec{r, e.Key, v})
		}
		return out
	}
	all, kept := read(whole), read(current)
	satisfied := func(in map[string][]rec, spec *matchspec.Spec, name string) bool {
		return slices.ContainsFunc(in[name], func(r rec) bool {
			return spec.Match(&matchspec.Candidate{Name: r.Name, Version: r.parsed, Build: r.Build, BuildNumber: r.BuildNumber})
		})
	}
	for name, list := range all {
		newest := list[0].parsed
		for _, r := range list {
			if version.Compare(r.parsed, newest) > 0 {
				newest = r.parsed
			}
		}
		for _, r := range list {
			if version.Compare(r.parsed, newest) != 0 {
				continue
			}
			if !slices.ContainsFunc(kept[name], func(k rec) bool { return k.key == r.key }) {
				t.Fatalf("%s is of the newest version and not kept", r.key)
			}
			for _, d := range r.Depends {
				spec, err := matchspec.Parse(d, matchspec.Options{})
				if err != nil {
					continue
				}
				name, _ := spec.ExactName()
				if satisfied(all, &spec, name) && !satisfied(kept, &spec, name) {
					t.Fatalf("%s needs %s, which is there and not kept", r.key, d)
				}
			}
		}
	}
}

type fataler interface {
	Fatalf(format string, args ...any)
}

func TestTheCurrentIndexHasWhatItsNewestNeed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := map[string]string{}
		for range rapid.IntRange(1, 30).Draw(rt, "n") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
			fn := fmt.Sprintf("%s-%d.%d-h_%d.conda", name, rapid.IntRange(1, 3).Draw(rt, "major"), rapid.IntRange(0, 12).Draw(rt, "minor"), rapid.IntRange(0, 1).Draw(rt, "build"))
			var deps []string
			for range rapid.IntRange(0, 2).Draw(rt, "deps") {
				deps = append(deps, fmt.Sprintf("%q", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "dep")+
					rapid.SampledFrom([]string{"", " <2", " >=2,<3", " 1.*", " * h_1"}).Draw(rt, "spec")))
			}
			files[fn] = fmt.Sprintf(`%s ,"depends":[%s]`, fn, strings.Join(deps, ","))
		}
		var lines []string
		for _, l := range files {
			lines = append(lines, l)
		}
		doc := tiny(t, lines...)
		checkCurrent(rt, doc, currentOf(t, doc, CurrentOptions{}))
	})
}

func TestTheCurrentIndexOfRealChannels(t *testing.T) {
	for _, f := range realIndexes(t, "02-real-repodata") {
		if !strings.Contains(f.path, "subchannel") || !strings.HasSuffix(f.path, ".zst") {
			continue
		}
		doc := f.load(t)
		out := currentOf(t, doc, CurrentOptions{Pins: map[string][]string{"python": {"3.8"}}})
		checkCurrent(t, doc, out)
		if again := currentOf(t, doc, CurrentOptions{Pins: map[string][]string{"python": {"3.8"}}}); !bytes.Equal(out, again) {
			t.Errorf("%s: two builds differ", f.path)
		}
		if len(out) >= len(doc) {
			t.Errorf("%s: %d of %d bytes are left", f.path, len(out), len(doc))
		}
	}
}
