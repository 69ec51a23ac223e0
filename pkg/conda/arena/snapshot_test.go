package arena

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

var sourceOfTests = [32]byte{1, 2, 3}

func snapshot(t testing.TB, a *Arena) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := a.WriteSnapshot(&buf, sourceOfTests); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// open maps bytes as a snapshot, and verifies them if asked to.
func open(t testing.TB, data []byte, verify bool) (*Arena, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := OpenSnapshot(f, sourceOfTests)
	if err == nil && verify {
		err = a.Verify(f)
	}
	return a, err
}

func TestASnapshotIsTheArena(t *testing.T) {
	a := read(t, []byte(oddities))
	b, err := open(t, snapshot(t, a), true)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, b, []byte(oddities))
	if b.Subdir != a.Subdir || b.Info.BaseURL != a.Info.BaseURL || len(b.Info.Extra) != len(a.Info.Extra) || !slices.Equal(a.Problems, b.Problems) {
		t.Errorf("%+v %q, want %+v %q", b.Info, b.Problems, a.Info, a.Problems)
	}
	empty, err := open(t, snapshot(t, read(t, nil)), true)
	if err != nil || empty.Len() != 0 {
		t.Errorf("nothing became %v, %v", empty, err)
	}
}

func TestASnapshotOfSomethingElseIsStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(path, snapshot(t, read(t, []byte(oddities))), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := OpenSnapshot(f, [32]byte{9}); !errors.Is(err, ErrStale) {
		t.Errorf("got %v", err)
	}
}

func TestAnyWrongBitAndAnyCutAreNoticed(t *testing.T) {
	data := snapshot(t, read(t, []byte(oddities)))
	for i := range data {
		if i >= binary.Size(header{})+4 && i < headerSize {
			continue // unused
		}
		bad := slices.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if _, err := open(t, bad, true); !errors.Is(err, ErrStale) {
			t.Fatalf("byte %d of %d: %v", i, len(data), err)
		}
	}
	for n := 0; n < len(data); n += 1 + n/9 {
		if _, err := open(t, data[:n], false); !errors.Is(err, ErrStale) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := open(t, append(slices.Clone(data), 0), false); !errors.Is(err, ErrStale) {
		t.Errorf("with a byte more: %v", err)
	}
}

// reseal makes the checksums of a snapshot right.
func reseal(data []byte) {
	var h header
	n, err := binary.Decode(data, binary.NativeEndian, &h)
	if err != nil {
		return
	}
	h.Body = crc32.Checksum(data[headerSize:], castagnoli)
	head, _ := binary.Append(nil, binary.NativeEndian, h)
	copy(data, head)
	binary.NativeEndian.PutUint32(data[n:], crc32.Checksum(head, castagnoli))
}

// walk reads everything there is to read.
func walk(a *Arena) (n int) {
	for name := range a.Names {
		n += len(name) + len(a.Find(name))
	}
	for i := range a.All {
		r := a.Rec(i)
		n += len(a.FileName(r)) + len(a.Extension(r)) + int(a.BuildNumber(r)) + len(a.Depends(r)) + len(a.Constrains(r))
		for _, id := range a.Depends(r) {
			n += len(a.Str(id))
		}
		if rec, err := a.Record(r); err == nil {
			n += len(rec.Name)
		}
	}
	return n + a.Strings() + a.Len()
}

func TestASnapshotThatWasMadeToDeceiveDoesNotCrash(t *testing.T) {
	data := snapshot(t, read(t, []byte(oddities)))
	for i := headerSize; i < len(data); i++ {
		for _, x := range []byte{0xff} {
			bad := slices.Clone(data)
			bad[i] ^= x
			reseal(bad)
			if a, err := open(t, bad, true); err == nil {
				walk(a)
				runtime.KeepAlive(a)
			} else if !errors.Is(err, ErrStale) {
				t.Fatal(err)
			}
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	a, err := Read(bytes.NewReader([]byte(oddities)), Options{Subdir: "linux-64"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(snapshot(f, a), uint32(300), uint32(0xffffffff))
	f.Add([]byte("conda"), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, at, value uint32) {
		if len(data) >= headerSize+4 {
			at = headerSize + at%uint32(len(data)-headerSize-3)
			binary.NativeEndian.PutUint32(data[at:], value)
			reseal(data)
		}
		if a, err := open(t, data, true); err == nil {
			walk(a)
		}
	})
}

func BenchmarkOpenSnapshot(b *testing.B) {
	path := filepath.Join(b.TempDir(), "snapshot")
	a := read(b, large(255<<20))
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := a.WriteSnapshot(f, sourceOfTests); err != nil {
		b.Fatal(err)
	}
	for _, verify := range []bool{false, true} {
		name := "header"
		if verify {
			name = "whole"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				a, err := OpenSnapshot(f, sourceOfTests)
				if err == nil && verify {
					err = a.Verify(f)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
