package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestMalformedZipsAreRefused(t *testing.T) {
	meta, info := metaMember(), infoZst(t)
	pkg := pkgZst(t, file("bin/demo", "x"))
	good := zipOf(meta, pkg, info)
	if _, err := inspect(t, demoConda, good, Full()); err != nil {
		t.Fatal(err)
	}
	with := func(m zipMember, local, central func([]byte)) zipMember {
		m.local, m.central = local, central
		return m
	}
	put16 := func(at int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], v) } }
	put32 := func(at int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], v) } }
	rename := func(at int) func([]byte) { return func(b []byte) { b[at] ^= 0x20 } }
	other := meta
	other.name = "other.json"
	wrongStem := info
	wrongStem.name = "info-demo-1.1-0.tar.zst"
	version1 := meta
	version1.data = []byte(`{"conda_pkg_format_version": 1}`)
	gap := func() []byte { // bytes between a member and the directory
		b := bytes.Clone(good)
		end := b[len(b)-lenEnd:]
		dir := int(le.Uint32(end[16:]))
		out := append(bytes.Clone(b[:dir]), "hidden"...)
		out = append(out, b[dir:]...)
		le.PutUint32(out[len(out)-lenEnd+16:], uint32(dir+6))
		return out
	}
	overlap := func() []byte { // pkg and info share one local header
		b := zipOf(meta, info)
		dir := int(le.Uint32(b[len(b)-lenEnd+16:]))
		first := dir + lenCentral + len(metadataJSON)
		second := bytes.Clone(b[first : len(b)-lenEnd])
		copy(second[lenCentral:], "pkg-")
		out := append(bytes.Clone(b[:len(b)-lenEnd]), second...)
		end := bytes.Clone(b[len(b)-lenEnd:])
		le.PutUint16(end[8:], 3)
		le.PutUint16(end[10:], 3)
		le.PutUint32(end[12:], uint32(len(out)-dir))
		return append(out, end...)
	}
	comment := func() []byte {
		b := bytes.Clone(good)
		le.PutUint16(b[len(b)-2:], 3)
		return append(b, "hey"...)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"no ZIP":                   {[]byte(strings.Repeat("x", 100)), "not a ZIP"},
		"empty":                    {nil, "too short"},
		"half a ZIP":               {good[:len(good)/2], "not a ZIP"},
		"trailing data":            {append(bytes.Clone(good), 0), "trailing data"},
		"leading data":             {append([]byte("#!"), good...), "does not end where"},
		"comment":                  {comment(), "comment"},
		"compressed member":        {zipOf(meta, pkg, with(info, put16(8, 8), put16(10, 8))), "compressed"},
		"encrypted":                {zipOf(meta, pkg, with(info, put16(6, 1), put16(8, 1))), "flags"},
		"data descriptor":          {zipOf(meta, pkg, with(info, put16(6, 8), put16(8, 8))), "flags"},
		"duplicate":                {zipOf(meta, info, info), "twice"},
		"overlap":                  {overlap(), "overlap"},
		"gap":                      {gap(), "data between"},
		"local name":               {zipOf(meta, pkg, with(info, rename(lenLocal), nil)), "name"},
		"local size":               {zipOf(meta, pkg, with(info, put32(18, 7), nil)), "size"},
		"local unpacked size":      {zipOf(meta, pkg, with(info, put32(22, 7), nil)), "size"},
		"local checksum":           {zipOf(meta, pkg, with(info, put32(14, 7), nil)), "checksum"},
		"local method":             {zipOf(meta, pkg, with(info, put16(8, 8), nil)), "method"},
		"local time":               {zipOf(meta, pkg, with(info, put16(10, 8), nil)), "time"},
		"local signature":          {zipOf(meta, pkg, with(info, put32(0, 8), nil)), "no local header"},
		"size beyond the end":      {zipOf(meta, pkg, with(info, func(b []byte) { le.PutUint32(b[18:], 1<<30); le.PutUint32(b[22:], 1<<30) }, func(b []byte) { le.PutUint32(b[20:], 1<<30); le.PutUint32(b[24:], 1<<30) })), "overlaps"},
		"sizes differ":             {zipOf(meta, pkg, with(info, nil, put32(20, 3))), "two sizes"},
		"wrong checksum":           {zipOf(meta, pkg, with(info, put32(14, 7), put32(16, 7))), "checksum"},
		"central signature":        {zipOf(meta, pkg, with(info, nil, put32(0, 7))), "malformed"},
		"offset":                   {zipOf(meta, pkg, with(info, nil, put32(42, 7))), "gap or an overlap"},
		"foreign member":           {zipOf(other, pkg, info), "does not belong"},
		"path in a member":         {zipOf(meta, zipMember{name: "../pkg-demo-1.0-0.tar.zst", data: pkg.data}, info), "does not belong"},
		"stem of another package":  {zipOf(meta, wrongStem), "does not belong"},
		"four members":             {zipOf(meta, pkg, info, other), "4 members"},
		"no info":                  {zipOf(meta, pkg), "missing"},
		"no metadata":              {zipOf(pkg, info), "missing"},
		"format version 1":         {zipOf(version1, pkg, info), "conda_pkg_format_version"},
		"metadata is no JSON":      {zipOf(zipMember{name: metadataJSON, data: []byte("{")}, info), "cannot be read"},
		"bit in metadata.json":     {flip(lenLocal + len(metadataJSON) + 5), "checksum"},
		"not a zstd frame":         {zipOf(meta, zipMember{name: info.name, data: []byte("PK not zstd at all")}), "not a zstd frame"},
		"skippable frame first":    {zipOf(meta, zipMember{name: info.name, data: append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, info.data...)}), "not a zstd frame"},
		"second zstd frame":        {zipOf(meta, zipMember{name: info.name, data: append(bytes.Clone(info.data), info.data...)}), "exactly one zstd frame"},
		"garbage behind the frame": {zipOf(meta, zipMember{name: info.name, data: append(bytes.Clone(info.data), 0)}), "exactly one zstd frame"},
		"truncated frame":          {zipOf(meta, zipMember{name: info.name, data: info.data[:len(info.data)-6]}), "frame"},
		"second frame in pkg":      {zipOf(meta, zipMember{name: pkg.name, data: append(bytes.Clone(pkg.data), pkg.data...)}, info), "exactly one zstd frame"},
		"huge window":              {zipOf(meta, zipMember{name: info.name, data: []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0}}), "window"},
		"announces a terabyte":     {zipOf(meta, zipMember{name: info.name, data: []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0}}), "announces"},
		"needs a dictionary":       {zipOf(meta, zipMember{name: info.name, data: []byte{0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 9, 1, 0, 0}}), "dictionary"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := inspect(t, demoConda, c.data, Full())
			refused(t, err, c.want)
		})
	}
	t.Run("metadata.json may be missing for a lenient reader", func(t *testing.T) {
		if _, err := inspect(t, demoConda, zipOf(pkg, info), Full(), Lenient()); err != nil {
			t.Error(err)
		}
	})
	t.Run("every flipped bit of the headers is noticed or harmless", func(t *testing.T) {
		want := listing(t, demoConda, good)
		for i := range good {
			data := flip(i)
			got := map[string]string{}
			_, err := Walk(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{}, func(e *Entry, r io.Reader) error {
				b, err := io.ReadAll(r)
				got[e.Path] = e.Kind.String() + " " + e.Mode.String() + " " + e.Link + string(b)
				return err
			})
			if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("byte %d changes the tree and passes", i)
			}
		}
	})
}

// hostile are entries that no package may have, with the reason expected.
var hostile = map[string]struct {
	entries []rawEntry
	want    string
}{
	"dot dot":                    {[]rawEntry{file("../moo", "x")}, "'..'"},
	"dot dot inside":             {[]rawEntry{file("tmp/../../moo", "x")}, "'..'"},
	"dot dot at the end":         {[]rawEntry{file("tmp/..", "x")}, "'..'"},
	"absolute":                   {[]rawEntry{file("/tmp/moo", "x")}, "absolute"},
	"absolute twice":             {[]rawEntry{file("//tmp/moo", "x")}, "absolute"},
	"backslash":                  {[]rawEntry{file(`a\..\..\moo`, "x")}, "backslash"},
	"absolute backslash":         {[]rawEntry{file(`\moo`, "x")}, "absolute"},
	"drive":                      {[]rawEntry{file(`C:/moo`, "x")}, "drive"},
	"empty component":            {[]rawEntry{file("a//b", "x")}, "not clean"},
	"dot component":              {[]rawEntry{file("a/./b", "x")}, "not clean"},
	"control character":          {[]rawEntry{file("a\nb", "x")}, "control"},
	"long component":             {[]rawEntry{file(strings.Repeat("a", 256), "x")}, "255"},
	"long path":                  {[]rawEntry{file(strings.Repeat("a/", 2100)+"x", "x")}, "too long"},
	"deep path":                  {[]rawEntry{file(strings.Repeat("a/", 200)+"x", "x")}, "too many components"},
	"not UTF-8":                  {[]rawEntry{file("a\xff", "x")}, "UTF-8"},
	"duplicate":                  {[]rawEntry{file("a", "x"), file("a", "y")}, "twice"},
	"duplicate by dot slash":     {[]rawEntry{file("a", "x"), file("./a", "y")}, "twice"},
	"file as directory":          {[]rawEntry{file("a", "x"), file("a/b", "y")}, "lies below"},
	"directory as file":          {[]rawEntry{file("a/b", "x"), file("a", "y")}, "twice"},
	"through a symlink":          {[]rawEntry{symlink("tmp", "sub"), file("tmp/moo", "x")}, "through the symbolic link"},
	"over a symlink":             {[]rawEntry{symlink("moo", "other"), file("moo", "x")}, "twice"},
	"absolute symlink":           {[]rawEntry{symlink("tmp", "/tmp")}, "absolute"},
	"symlink out":                {[]rawEntry{symlink("a/b", "../../x")}, "leaves the package"},
	"symlink out by a detour":    {[]rawEntry{symlink("cur", "."), symlink("par", "cur/..")}, "leaves the package"},
	"symlink out by a later one": {[]rawEntry{symlink("a/x", "d/../../y"), symlink("a/d", "../..")}, "leaves the package"},
	"empty symlink":              {[]rawEntry{symlink("a", "")}, "empty"},
	"hard link out":              {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../etc/passwd"}, ""}}, "'..'"},
	"absolute hard link":         {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, ""}}, "absolute"},
	"hard link to nothing":       {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}, ""}}, "earlier file"},
	"hard link to a symlink":     {[]rawEntry{symlink("b", "c"), {tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}, ""}}, "earlier file"},
	"character device":           {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeChar}, ""}}, "device"},
	"block device":               {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeBlock}, ""}}, "device"},
	"FIFO":                       {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeFifo}, ""}}, "FIFO"},
	"global header":              {[]rawEntry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "evil"}}, ""}}, "global header"},
	"setuid":                     {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o4755}, ""}}, "setuid"},
	"setgid":                     {[]rawEntry{{tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o2755}, ""}}, "setuid"},
	"conda-meta":                 {[]rawEntry{file("conda-meta/history", "x")}, "conda-meta"},
	"Conda-Meta":                 {[]rawEntry{file("Conda-Meta/history", "x")}, "conda-meta"},
	"INFO":                       {[]rawEntry{file("INFO/index.json", "x")}, "info"},
	"record of the installer":    {[]rawEntry{file("info/repodata_record.json", "{}")}, "info"},
}

func TestHostileEntriesAreRefusedInBothFormats(t *testing.T) {
	index := file("info/index.json", demoIndex)
	for name, c := range hostile {
		for _, p := range []struct {
			file string
			data []byte
		}{
			{demoConda, zipOf(metaMember(), pkgZst(t, c.entries...), infoZst(t))},
			{demoBz2, bz2(t, tarOf(t, append([]rawEntry{index}, c.entries...)...))},
		} {
			t.Run(name+" "+p.file, func(t *testing.T) {
				_, err := inspect(t, p.file, p.data, Full())
				refused(t, err, c.want)

				outer := t.TempDir()
				root, err := os.OpenRoot(mkdir(t, filepath.Join(outer, "a", "root")))
				if err != nil {
					t.Fatal(err)
				}
				defer root.Close()
				_, err = Extract(t.Context(), bytes.NewReader(p.data), int64(len(p.data)), p.file, root, Limits{})
				refused(t, err, c.want)
				_ = filepath.WalkDir(outer, func(path string, d os.DirEntry, err error) error {
					if !d.IsDir() && !strings.HasPrefix(path, root.Name()) {
						t.Errorf("%s was written", path)
					}
					return err
				})
			})
		}
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTarTricksAreRefused(t *testing.T) {
	index := file("info/index.json", demoIndex)
	plain := tarOf(t, index, file("bin/x", "x"))
	second := append(bytes.Clone(plain), tarOf(t, file("bin/y", "y"))...)
	_, err := inspect(t, demoBz2, bz2(t, second), Full())
	refused(t, err, "behind the end")

	pax := tarOf(t, index, rawEntry{tar.Header{Name: "bin/x", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"VENDOR.pad": "12"}}, "x"})
	pax = bytes.Replace(pax, []byte("17 VENDOR.pad=12\n"), []byte("17 size=00000001\n"), 1)
	_, err = inspect(t, demoBz2, bz2(t, pax), Full())
	refused(t, err, "given twice")

	nulPath := tarOf(t, index, rawEntry{tar.Header{Name: "bin/x", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"VENDOR.pad": "12"}}, "x"})
	nulPath = bytes.Replace(nulPath, []byte("17 VENDOR.pad=12\n"), []byte("17 path=a\x00/../bb\n"), 1)
	_, err = inspect(t, demoBz2, bz2(t, nulPath), Full())
	refused(t, err, "tar")

	_, err = inspect(t, demoConda, zipOf(metaMember(), infoZst(t, index, file("bin/x", "x"))))
	refused(t, err, "only info/")

	_, err = inspect(t, demoBz2, bz2(t, tarOf(t, index, file("bin/x", ""), file("info/index.json", demoIndex))), Full())
	refused(t, err, "twice")

	_, err = inspect(t, demoBz2, append(bz2(t, plain), "garbage"...), Full())
	refused(t, err, "decompress")

	// Cut off in the middle.
	cut := bz2(t, tarOf(t, index, file("bin/x", strings.Repeat("data", 1000))))
	_, err = inspect(t, demoBz2, cut[:len(cut)-20], Full())
	refused(t, err, "unexpected EOF")
}

func TestCaseCollisionsFollowTheSubdir(t *testing.T) {
	for subdir, ok := range map[string]bool{"linux-64": true, "linux-aarch64": true, "win-64": false, "osx-arm64": false, "noarch": false} {
		index := strings.Replace(demoIndex, "linux-64", subdir, 1)
		for _, pair := range [][2]string{{"a/File", "a/file"}, {"p/x", "P/y"}, {"k", "\u212a"}, {"stra\u017fe", "STRASE"}} {
			data := zipOf(metaMember(), pkgZst(t, file(pair[0], ""), file(pair[1], "")), infoZst(t, file("info/index.json", index)))
			_, err := inspect(t, demoConda, data, Full())
			if (err == nil) != ok {
				t.Errorf("%s, %q: %v", subdir, pair, err)
			}
			for policy, ok := range map[CasePolicy]bool{CaseAllow: true, CaseRefuse: false} {
				_, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{Case: policy}, Full())
				if (err == nil) != ok {
					t.Errorf("policy %d, %q: %v", policy, pair, err)
				}
			}
		}
	}
	_, err := inspect(t, demoConda, zipOf(metaMember(), infoZst(t, file("info/index.json", demoIndex), file("info/Index.json", "{}"))))
	refused(t, err, "only by case")
}

func TestLinksMayBeKeptVerbatim(t *testing.T) {
	data := zipOf(metaMember(), pkgZst(t, symlink("lib", "/usr/lib"), symlink("up", "../..")), infoZst(t))
	if _, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{Links: LinksVerbatim}, Full()); err != nil {
		t.Error(err)
	}
	data = zipOf(metaMember(), pkgZst(t, symlink("lib", "/usr/lib"), file("lib/x", "x")), infoZst(t))
	_, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{Links: LinksVerbatim}, Full())
	refused(t, err, "through the symbolic link")
}

// zeros makes a tar with one file of n zero bytes, compressed.
func zeros(t *testing.T, name string, n int64, w io.WriteCloser, before ...rawEntry) {
	t.Helper()
	tw := tar.NewWriter(w)
	for _, e := range before {
		_ = tw.WriteHeader(&e.Header)
		_, _ = io.WriteString(tw, e.body)
	}
	if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: n, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for ; n > 0; n -= int64(len(chunk)) {
		_, _ = tw.Write(chunk[:min(n, int64(len(chunk)))])
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// tooLong is far above the fraction of a second that a refusal takes, so that a
// busy machine under the race detector passes, and far below what unpacking
// would take.
const tooLong = 20 * time.Second

func TestBombsAreRefusedQuickly(t *testing.T) {
	const size = 200 << 20
	var z bytes.Buffer
	enc, _ := zstd.NewWriter(&z, zstd.WithEncoderConcurrency(1))
	zeros(t, "info/big", size, enc)
	check := func(name, file string, data []byte, want string) {
		t.Helper()
		start := time.Now()
		_, err := inspect(t, file, data, Full())
		refused(t, err, want)
		if d := time.Since(start); d > tooLong {
			t.Errorf("%s took %v", name, d)
		}
	}
	check("zstd info", demoConda, zipOf(metaMember(), zipMember{name: "info-demo-1.0-0.tar.zst", data: z.Bytes()}), "more than the limit")
	check("zstd pkg", demoConda, zipOf(metaMember(), zipMember{name: "pkg-demo-1.0-0.tar.zst", data: bytes.Clone(z.Bytes())}, infoZst(t)), "info/ belongs")

	z.Reset()
	enc.Reset(&z)
	zeros(t, "share/big", size, enc)
	check("zstd pkg", demoConda, zipOf(metaMember(), zipMember{name: "pkg-demo-1.0-0.tar.zst", data: z.Bytes()}, infoZst(t)), "more than the limit")

	// bzip2 packs 45 MB of zeros into about 40 bytes per stream, and streams
	// may be strung together.
	head := bz2(t, tarOf(t, file("info/index.json", demoIndex), rawEntry{tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644}, ""})[:512*3])
	big := append(head, bytes.Repeat(bz2(t, make([]byte, 8<<20)), 20)...)
	check("bzip2", demoBz2, big, "more than the limit")

	many := Limits{MaxEntries: 1000}
	var entries []rawEntry
	for i := range 1001 {
		entries = append(entries, file(fmt.Sprintf("f%d", i), ""))
	}
	data := zipOf(metaMember(), pkgZst(t, entries...), infoZst(t))
	_, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, many, Full())
	refused(t, err, "more than 1000 entries")

	_, err = Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{MaxNames: 500}, Full())
	refused(t, err, "names of the entries")

	_, err = Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), demoConda, Limits{MaxUnpacked: 100_000}, Full())
	refused(t, err, "limit")

	long := file("info/index.json", strings.Replace(demoIndex, "{", `{"pad":"`+strings.Repeat("x", 5<<20)+`",`, 1))
	_, err = inspect(t, demoConda, zipOf(metaMember(), infoZst(t, long)))
	refused(t, err, "size")
}

func TestAKnotOfLinksEndsInTime(t *testing.T) {
	var entries []rawEntry
	for i := range 2000 {
		entries = append(entries, symlink(fmt.Sprintf("l%d", i), strings.Repeat(fmt.Sprintf("l%d/", (i+1)%2000), 300)))
	}
	entries = append(entries, symlink("loop", "loop"))
	start := time.Now()
	_, _ = inspect(t, demoConda, zipOf(metaMember(), pkgZst(t, entries...), infoZst(t)), Full())
	if d := time.Since(start); d > tooLong {
		t.Errorf("took %v", d)
	}
	if _, err := inspect(t, demoConda, zipOf(metaMember(), pkgZst(t, symlink("loop", "loop")), infoZst(t)), Full()); err != nil {
		t.Errorf("a plain loop is odd but harmless: %v", err)
	}
}

func TestACancelledContextEndsTheWalk(t *testing.T) {
	name, data := create(t, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the client left")
	_, err := Walk(ctx, bytes.NewReader(data), int64(len(data)), name, Limits{}, func(*Entry, io.Reader) error {
		cancel(cause)
		return nil
	})
	if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	stop := errors.New("enough")
	_, err = Walk(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, func(*Entry, io.Reader) error { return stop })
	if err != stop {
		t.Errorf("the visitor's error came back as %v", err)
	}
}
