package attacktest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	dsbzip2 "github.com/dsnet/compress/bzip2"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

const (
	stem      = "demo-1.0-0"
	demoConda = stem + ".conda"
)

// crafted is a package that may not be what it seems.
type crafted struct {
	what string
	file string
	data []byte
}

// linkOut and its kin are tar entries that no package may have, in either part.
func hostileEntries() map[string][]entry {
	link := func(name, to string) entry {
		return entry{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}, ""}
	}
	hard := func(name, to string) entry {
		return entry{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink, Mode: 0o644}, ""}
	}
	kind := func(flag byte) entry {
		return entry{tar.Header{Name: "share/dev", Typeflag: flag, Mode: 0o666, Devmajor: 1, Devminor: 3, Format: tar.FormatGNU}, ""}
	}
	mode := func(m int64) entry {
		return entry{tar.Header{Name: "bin/x", Typeflag: tar.TypeReg, Mode: m}, "x"}
	}
	all := map[string][]entry{
		"symlink up": {link("share/l", "../../"+moo)}, "symlink absolute": {link("share/l", "/"+moo)}, "symlink to root": {link("l", "/")}, "symlink to dot dot": {link("l", "..")},
		"symlink by a detour": {link("cur", "."), link("par", "cur/..")}, "write through a symlink": {link("d", "/tmp"), file("d/"+moo, "x")}, "write through an inner symlink": {link("d", "e"), file("d/x", "x")},
		"symlink chain": {link("a", "b"), link("b", "../c")}, "symlink drive": {link("l", "C:\\"+moo)}, "symlink backslash": {link("l", "..\\..\\"+moo)}, "symlink over a file": {file("x", "x"), link("x", "y")},
		"empty symlink": {link("l", "")}, "hard link up": {hard("h", "../"+moo)}, "hard link absolute": {hard("h", "/etc/passwd")}, "hard link to nothing": {hard("h", "nothing")},
		"hard link to a symlink": {link("s", "t"), hard("h", "s")}, "hard link to itself": {hard("h", "h")}, "hard link to a later file": {hard("h", "z"), file("z", "x")},
		"character device": {kind(tar.TypeChar)}, "block device": {kind(tar.TypeBlock)}, "FIFO": {kind(tar.TypeFifo)}, "reserved type": {kind('7')}, "vendor type": {kind('V')},
		"setuid": {mode(0o4755)}, "setgid": {mode(0o2755)}, "both": {mode(0o6755)}, "sticky": {mode(0o1755)},
		"twice": {file("a", "1"), file("a", "2")}, "twice by dot": {file("a", "1"), file("./a", "2")}, "file and directory": {file("a", "1"), file("a/b", "2")}, "directory and file": {file("a/b", "1"), file("a", "2")},
		"by case": {file("a/File", "1"), file("a/file", "2")}, "by the case of a directory": {file("P/x", "1"), file("p/y", "2")}, "kelvin": {file("k", "1"), file("\u212a", "2")}, "long s": {file("stra\u017fe", "1"), file("STRASE", "2")},
		"conda-meta": {file("conda-meta/history", "x")}, "conda-meta by case": {file("Conda-Meta/"+moo+".json", "{}")}, "installer's record": {file("info/repodata_record.json", "{}")}, "info by case": {file("INFO/index.json", index(nil))},
		"second index.json": {file("info/index.json", index(map[string]any{"name": moo}))},
		"global header":     {{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "../" + moo}}, ""}},
		"pax path":          {{tar.Header{Name: "ok", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"GNU.sparse.name": "../" + moo}}, "x"}},
	}
	for i, bad := range climbs {
		if bad == "" || len(bad) > 4500 || strings.ContainsRune(bad, 0) || strings.HasSuffix(bad, "/") {
			continue // which the writer of tars cannot say
		}
		all[fmt.Sprintf("name %d %.40q", i, bad)] = []entry{file(bad, "x")}
	}
	return all
}

// corpus makes every package of the test.
func corpus(t *testing.T) (all []crafted) {
	t.Helper()
	add := func(what string, data []byte) { all = append(all, crafted{what, demoConda, data}) }
	meta, ix := member{"metadata.json", []byte(metadataJSON)}, file("info/index.json", index(nil))
	paths := file("info/paths.json", `{"paths_version": 1, "paths": []}`)
	info := member{"info-" + stem + ".tar.zst", zst(tarred(ix, paths))}
	pkg := member{"pkg-" + stem + ".tar.zst", zst(tarred(file("share/x", "x")))}
	good := zipped(meta, pkg, info)

	entries := hostileEntries()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		add("pkg: "+name, conda(stem, index(nil), nil, entries[name]))
		if !strings.HasPrefix(name, "name ") {
			add("info: "+name, conda(stem, index(nil), entries[name], nil))
		}
	}
	// Each field of each header, one at a time, changed on one side or on both.
	type field struct {
		name           string
		local, central int
	}
	for _, f := range []field{
		{"signature", 0, 0},
		{"version", 4, 6},
		{"flags", 6, 8},
		{"method", 8, 10},
		{"time", 10, 12},
		{"date", 12, 14},
		{"checksum", 14, 16},
		{"size", 18, 20},
		{"unpacked size", 22, 24},
		{"name length", 26, 28},
		{"extra length", 28, 30},
		{"name", 30, 46},
	} {
		for m := range 3 {
			for _, side := range []string{"local", "central", "both"} {
				b := bytes.Clone(good)
				l, c := headers(b, m)
				if side != "central" {
					b[l+f.local] ^= 1
				}
				if side != "local" {
					b[c+f.central] ^= 1
				}
				add(fmt.Sprintf("zip: %s %s of member %d", side, f.name, m), b)
			}
		}
	}
	_, central := headers(good, 0)
	end := len(good) - 22
	edit := func(what string, f func(b []byte) []byte) { add("zip: "+what, f(bytes.Clone(good))) }
	put := func(what string, at int, v uint32, n int) {
		edit(what, func(b []byte) []byte {
			if n == 2 {
				binary.LittleEndian.PutUint16(b[at:], uint16(v))
			} else {
				binary.LittleEndian.PutUint32(b[at:], v)
			}
			return b
		})
	}
	put("fewer entries", end+10, 2, 2)
	put("more entries", end+10, 4, 2)
	put("fewer on this disk", end+8, 2, 2)
	put("another disk", end+4, 1, 2)
	put("directory on another disk", end+6, 1, 2)
	put("directory too small", end+12, 10, 4)
	put("directory elsewhere", end+16, uint32(central-1), 4)
	put("zip64 lies about the directory", end+16, 0xffffffff, 4)
	put("zip64 lies about its size", end+12, 0xffffffff, 4)
	put("zip64 lies about the entries", end+10, 0xffff, 2)
	put("zip64 lies about a member", central+20, 0xffffffff, 4)
	put("zip64 lies about a place", central+42, 0xffffffff, 4)
	put("comment that is not there", end+20, 9, 2)
	put("member on another disk", central+34, 1, 2)
	put("external attributes of a link", central+38, 0xa1ff0000, 4)
	edit("data behind", func(b []byte) []byte { return append(b, moo...) })
	edit("data before", func(b []byte) []byte { return append([]byte(moo), b...) })
	edit("a ZIP behind", func(b []byte) []byte { return append(b, good...) })
	edit("another ZIP behind", func(b []byte) []byte {
		return append(b, conda(stem, index(nil), nil, []entry{file("bin/"+moo, "x")})...)
	})
	edit("a comment that is a ZIP", func(b []byte) []byte {
		inner := zipped(meta, info)
		binary.LittleEndian.PutUint16(b[end+20:], uint16(len(inner)))
		return append(b, inner...)
	})
	edit("two members at one place", func(b []byte) []byte {
		_, c1 := headers(b, 1)
		_, c2 := headers(b, 2)
		copy(b[c2+42:c2+46], b[c1+42:c1+46])
		return b
	})
	for at := 1; at < len(good); at += len(good)/24 + 1 {
		edit(fmt.Sprintf("cut at %d", at), func(b []byte) []byte { return b[:at] })
	}
	for name, members := range map[string][]member{
		"no metadata": {pkg, info}, "no info": {meta, pkg}, "no pkg": {meta, info}, "info twice": {meta, pkg, info, info}, "pkg twice": {meta, pkg, pkg, info}, "metadata twice": {meta, meta, pkg, info},
		"a foreign member": {meta, pkg, info, {moo, []byte("x")}}, "a member that climbs": {meta, pkg, info, {"../" + moo, []byte("x")}}, "an absolute member": {meta, pkg, info, {"/" + moo, []byte("x")}},
		"a directory": {meta, pkg, info, {moo + "/", nil}}, "another stem": {meta, {"pkg-demo-1.1-0.tar.zst", pkg.data}, {"info-demo-1.1-0.tar.zst", info.data}}, "info by case": {meta, pkg, {"INFO-" + stem + ".tar.zst", info.data}},
		"metadata v1": {{"metadata.json", []byte(`{"conda_pkg_format_version": 1}`)}, pkg, info}, "metadata is no JSON": {{"metadata.json", []byte("{")}, pkg, info}, "metadata is huge": {{"metadata.json", bytes.Repeat([]byte(" "), 4<<20)}, pkg, info},
		"gzip inside": {meta, pkg, {info.name, []byte("\x1f\x8b\x08\x00")}}, "no zstd": {meta, pkg, {info.name, []byte(moo)}}, "empty info": {meta, pkg, {info.name, nil}}, "two frames": {meta, pkg, {info.name, slices.Concat(info.data, info.data)}},
		"skippable frame": {meta, pkg, {info.name, append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'm', 'o', 'o', '!'}, info.data...)}}, "frame with rest": {meta, pkg, {info.name, append(bytes.Clone(info.data), 0)}},
		"cut frame": {meta, pkg, {info.name, info.data[:len(info.data)-3]}}, "huge window": {meta, pkg, {info.name, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0}}}, "a terabyte announced": {meta, pkg, {info.name, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0}}},
		"a dictionary": {meta, pkg, {info.name, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 9, 1, 0, 0}}}, "two tars": {meta, {pkg.name, zst(slices.Concat(tarred(file("a", "1")), tarred(file("a", "2"))))}, info},
		"tar without end": {meta, {pkg.name, zst(tarred(file("a", "1"))[:1024])}, info}, "tar with rest": {meta, {pkg.name, zst(append(tarred(file("a", "1")), moo...))}, info}, "no tar": {meta, {pkg.name, zst([]byte(strings.Repeat(moo, 200)))}, info},
		"bad tar checksum": {meta, {pkg.name, zst(bytes.Replace(tarred(file("aaa", "1")), []byte("aaa"), []byte("aab"), 1))}, info},
	} {
		add("members: "+name, zipped(members...))
	}
	// Bombs. They are made as streams, so that the test is not larger than what it asks for.
	add("bomb: zeros in pkg", zipped(meta, member{pkg.name, bomb(t, "share/zeros", 1<<30)}, info))
	add("bomb: zeros in info", zipped(meta, pkg, member{info.name, bomb(t, "info/zeros", 1<<30)}))
	add("bomb: a long JSON string", zipped(meta, pkg, member{info.name, longIndex(t, 512<<20)}))
	add("bomb: millions of entries", zipped(meta, member{pkg.name, manyEntries(t, 2_500_000)}, info))
	add("bomb: deep nesting", conda(stem, strings.Repeat(`[`, 3_000_000), nil, nil))
	add("bomb: many names", conda(stem, index(map[string]any{"depends": slices.Repeat([]string{strings.Repeat("d", 1000)}, 20_000)}), nil, nil))
	add("bomb: many keys", conda(stem, "{"+strings.Repeat(`"a":0,`, 1_000_000)+`"b":0}`, nil, nil))

	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if !strings.HasPrefix(name, "name ") {
			all = append(all, crafted{"bz2: " + name, stem + ".tar.bz2", bz2(tarred(append([]entry{ix, paths}, entries[name]...)...))})
		}
	}
	plain := bz2(tarred(ix, paths, file("share/x", "x")))
	all = append(all, crafted{"bz2: a second tar", stem + ".tar.bz2", bz2(slices.Concat(tarred(ix, paths), tarred(file("a", "1"))))},
		crafted{"bz2: data behind", stem + ".tar.bz2", append(bytes.Clone(plain), moo...)}, crafted{"bz2: cut", stem + ".tar.bz2", plain[:len(plain)-9]},
		crafted{"bz2: twice", stem + ".tar.bz2", slices.Concat(plain, plain)})
	// What is not a bzip2 stream of one tar.
	for name, data := range map[string][]byte{
		"nothing": nil, "a ZIP": good, "a tar": tarred(ix), "garbage": []byte(strings.Repeat(moo, 500)), "a header alone": []byte("BZh9"), "an empty stream": {'B', 'Z', 'h', '9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, 0, 0, 0, 0},
		"many empty streams": bytes.Repeat([]byte{'B', 'Z', 'h', '9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, 0, 0, 0, 0}, 100_000), "zstd": zst(tarred(ix)), "a wrong magic": []byte("BZh91AY&SY\x00\x00\x00\x00"),
	} {
		all = append(all, crafted{"bz2: " + name, stem + ".tar.bz2", data})
	}
	return all
}

func bz2(data []byte) []byte {
	var buf bytes.Buffer
	w, err := dsbzip2.NewWriter(&buf, nil)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// headers returns where the local and the central header of a member are, in a ZIP without comment.
func headers(b []byte, m int) (local, central int) {
	end := len(b) - 22
	central = int(binary.LittleEndian.Uint32(b[end+16:]))
	for range m {
		central += 46 + int(binary.LittleEndian.Uint16(b[central+28:])) + int(binary.LittleEndian.Uint16(b[central+30:])) + int(binary.LittleEndian.Uint16(b[central+32:]))
	}
	return int(binary.LittleEndian.Uint32(b[central+42:])), central
}

// streamed compresses what write makes, piece by piece.
func streamed(t *testing.T, write func(w io.Writer) error) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err == nil {
		err = write(enc)
	}
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func bomb(t *testing.T, name string, size int64) []byte {
	return streamed(t, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		return repeat(tw, make([]byte, 1<<20), size)
	})
}

func repeat(w io.Writer, chunk []byte, size int64) error {
	for ; size > 0; size -= int64(len(chunk)) {
		if _, err := w.Write(chunk[:min(size, int64(len(chunk)))]); err != nil {
			return err
		}
	}
	return nil
}

func longIndex(t *testing.T, size int64) []byte {
	return streamed(t, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		if err := tw.WriteHeader(&tar.Header{Name: "info/index.json", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, `{"name":"`); err != nil {
			return err
		}
		return repeat(tw, bytes.Repeat([]byte("a"), 1<<20), size-9)
	})
}

// manyEntries is a tar of n empty files with a name each, without its end. Only the number and the checksum of the first
// header change, so that it costs no more to make than to compress.
func manyEntries(t *testing.T, n int) []byte {
	var first bytes.Buffer
	if err := tar.NewWriter(&first).WriteHeader(&tar.Header{Name: "share/00000000", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	header := first.Bytes()[:512]
	const number, digits, checksum = 6, 8, 148 // where they stand
	block := make([]byte, 0, 512*1000)
	return streamed(t, func(w io.Writer) error {
		for i := range n {
			copy(header[number:], fmt.Appendf(nil, "%0*x", digits, i))
			copy(header[checksum:], "        ")
			sum := 0
			for _, b := range header {
				sum += int(b)
			}
			copy(header[checksum:], fmt.Appendf(nil, "%06o\x00 ", sum))
			if block = append(block, header...); len(block) == cap(block) || i == n-1 {
				if _, err := w.Write(block); err != nil {
					return err
				}
				block = block[:0]
			}
		}
		return nil
	})
}

// independent lists what the standard library and a decompressor that knows nothing of packages see in a file: paths with
// kind, permissions, link and content.
func independent(file string, data []byte) (tree map[string]string, err error) {
	tree = map[string]string{}
	list := func(r io.Reader) error {
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Typeflag == tar.TypeDir {
				continue
			}
			body, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(h.Name, "./")
			if _, twice := tree[name]; twice {
				return fmt.Errorf("%s twice", name)
			}
			tree[name] = fmt.Sprintf("%c %o %s %x", h.Typeflag, h.Mode&0o777, h.Linkname, body)
		}
	}
	if !strings.HasSuffix(file, ".conda") {
		return tree, list(bzip2.NewReader(bytes.NewReader(data)))
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	for _, f := range z.File {
		if f.Name == "metadata.json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		err = list(dec)
		dec.Close()
		r.Close()
		if err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// ours lists what our reader sees, in the same words.
func ours(t *testing.T, file string, data []byte) (tree map[string]string, err error) {
	tree = map[string]string{}
	flags := map[archive.Kind]byte{archive.File: '0', archive.Symlink: '2', archive.HardLink: '1'}
	_, err = archive.Walk(t.Context(), bytes.NewReader(data), int64(len(data)), file, archive.Limits{}, func(e *archive.Entry, r io.Reader) error {
		flag, ok := flags[e.Kind]
		if !ok {
			return nil // a directory
		}
		body, err := io.ReadAll(r)
		tree[e.Path] = fmt.Sprintf("%c %o %s %x", flag, e.Mode.Perm(), e.Link, body)
		return err
	})
	return tree, err
}

// peakMemory returns the largest resident size that this process has had, in bytes.
func peakMemory(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("the peak is not told")
	return 0
}

// TestArchives uploads packages that are not what they seem. Each is refused, fast and in little memory; or it is taken,
// and then every reader sees the same in it.
func TestArchives(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin().In(t)
	before := disk(t, s)
	all := corpus(t)
	if len(all) < 200 {
		t.Errorf("only %d packages", len(all))
	}
	was := peakMemory(t)
	var taken int
	var slowest time.Duration
	for i, c := range all {
		channel := "channel2"
		path, method := "/api/channels/"+channel+"/upload/"+c.file+"?sha256=", "POST"
		if i%2 == 0 {
			path, method = "/entrepot/v1/channels/"+channel+"/uploads/"+c.file, "PUT"
		}
		began := time.Now()
		resp := admin.Do(method, path, c.data)
		took := time.Since(began)
		slowest = max(slowest, took)
		if strings.HasPrefix(c.what, "bomb") {
			t.Logf("%s: %d bytes: %d after %v", c.what, len(c.data), resp.Status, took)
		}
		if limit := patience(); took > limit {
			t.Errorf("%s took %v", c.what, took)
		}
		if resp.Status/100 != 2 {
			refused(t, c.what, resp)
			continue
		}
		taken++
		others, err := independent(c.file, c.data)
		if err != nil {
			t.Errorf("%s is taken, and others cannot read it: %v", c.what, err)
			continue
		}
		mine, err := ours(t, c.file, c.data)
		if err != nil {
			t.Errorf("%s is taken, and we cannot read it: %v", c.what, err)
			continue
		}
		if diff := cmp.Diff(others, mine); diff != "" {
			t.Errorf("%s is taken, and is not the same to all: %s", c.what, diff)
		}
		for path, e := range mine {
			if strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "..") || strings.Contains(e, "/etc/") {
				t.Errorf("%s is taken with %s %s", c.what, path, e)
			}
		}
		admin.Must(200, "DELETE", "/entrepot/v1/channels/"+channel+"/files/noarch/"+c.file, nil)
	}
	if grown := peakMemory(t) - was; grown > 256<<20 {
		t.Errorf("the peak of memory grew by %d MB", grown>>20)
	}
	if diff := cmp.Diff(before, disk(t, s)); diff != "" {
		t.Errorf("the data directory has changed outside of blobs: %s", diff)
	}
	whole(t, s)
	t.Logf("%d packages, %d taken, the slowest took %v", len(all), taken, slowest)
}

// patience is how long an upload may take: far above the fraction of a second that a refusal needs, far below what
// unpacking a bomb would take, on a machine with other work.
func patience() time.Duration { return 10 * time.Second }
