package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

const demoIndex = `{"name":"demo","version":"1.0","build":"0","build_number":0,"subdir":"linux-64","depends":[]}`

// tarOf makes a tar of raw headers; a header's content is in body.
type rawEntry struct {
	tar.Header
	body string
}

func file(name, body string) rawEntry {
	return rawEntry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(body))}, body}
}

func symlink(name, target string) rawEntry {
	return rawEntry{tar.Header{Name: name, Mode: 0o777, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

func tarOf(t testing.TB, entries ...rawEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(data, nil)
}

func bz2(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := bzip2.NewWriter(&b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// zipMember is one member of a hand-made ZIP; tweaks may change its headers.
type zipMember struct {
	name           string
	data           []byte
	local, central func([]byte)
}

func zipOf(members ...zipMember) []byte {
	var out bytes.Buffer
	z := &zipWriter{w: &out}
	type span struct{ from, to int }
	var centrals []span
	var locals []int
	for _, m := range members {
		from := len(z.central)
		locals = append(locals, int(z.at))
		if err := z.member(m.name, int64(len(m.data)), crc32.ChecksumIEEE(m.data), bytes.NewReader(m.data)); err != nil {
			panic(err)
		}
		centrals = append(centrals, span{from, len(z.central)})
	}
	for i, m := range members {
		if m.central != nil {
			m.central(z.central[centrals[i].from:centrals[i].to])
		}
	}
	if err := z.close(); err != nil {
		panic(err)
	}
	b := out.Bytes()
	for i, m := range members {
		if m.local != nil {
			m.local(b[locals[i]:])
		}
	}
	return b
}

func metaMember() zipMember {
	return zipMember{name: metadataJSON, data: []byte(`{"conda_pkg_format_version": 2}`)}
}

func infoZst(t testing.TB, entries ...rawEntry) zipMember {
	if len(entries) == 0 {
		entries = []rawEntry{file("info/index.json", demoIndex)}
	}
	return zipMember{name: "info-demo-1.0-0.tar.zst", data: zst(t, tarOf(t, entries...))}
}

func pkgZst(t testing.TB, entries ...rawEntry) zipMember {
	return zipMember{name: "pkg-demo-1.0-0.tar.zst", data: zst(t, tarOf(t, entries...))}
}

const demoConda, demoBz2 = "demo-1.0-0.conda", "demo-1.0-0.tar.bz2"

func inspect(t testing.TB, name string, data []byte, opts ...Option) (*Info, error) {
	t.Helper()
	return Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, opts...)
}

// refused checks that err is an *Error which mentions want.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), want) {
		t.Errorf("got %v, want a refusal that says %q", err, want)
	}
}

func demoInputs() []Input {
	return []Input{
		{Path: "lib/python3.12/site-packages/demo.py", Data: []byte("print('hi')\n")},
		{Path: "bin/demo", Data: []byte("#!/opt/placeholder/bin/python\n"), Mode: 0o755, Placeholder: "/opt/placeholder", NoLink: true},
		{Path: "lib/libdemo.so", Kind: Symlink, Link: "libdemo.so.1"},
		{Path: "lib/libdemo.so.1", Data: bytes.Repeat([]byte("elf"), 10_000), FileMode: ModeBinary, Placeholder: "/opt/placeholder"},
		{Path: "var/empty", Kind: Dir},
	}
}

func demoMeta() Meta {
	return Meta{
		Index: Index{
			Name: "demo", Version: "1.0", Build: "py_0", Subdir: "noarch", Noarch: NoarchPython,
			Depends: StringList{"python >=3.9"}, Timestamp: 1700000000123, License: "MIT",
		},
		About:      &About{Summary: "A demonstration", Home: "https://example.org"},
		RunExports: &RunExports{Weak: StringList{"demo >=1"}},
		Link:       &Link{Version: 1, Noarch: LinkNoarch{Type: NoarchPython, EntryPoints: StringList{"demo = demo:main"}}},
		Extra:      map[string][]byte{"info/licenses/LICENSE": []byte("MIT\n")},
	}
}

func create(t testing.TB, f dist.Format, opts ...WriteOption) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	d, err := Create(t.Context(), &b, f, demoMeta(), demoInputs(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return d.Filename(), b.Bytes()
}
