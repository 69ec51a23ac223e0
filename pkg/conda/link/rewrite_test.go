package link

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
)

const oldPrefix = "/opt/placehold_placehold_placehold"

// long makes a file of several windows with placeholders, some across the border of two.
func long(rng *rand.Rand, dense bool) []byte {
	data := make([]byte, 3*window+rng.IntN(1000))
	for i := range data {
		if data[i] = byte('a' + rng.IntN(26)); dense && rng.IntN(50) == 0 {
			data[i] = 0
		}
	}
	for range 200 {
		at := rng.IntN(len(data) - len(oldPrefix))
		if rng.IntN(4) == 0 {
			at = (1+rng.IntN(2))*window - rng.IntN(len(oldPrefix))
		}
		copy(data[at:], oldPrefix)
	}
	copy(data[len(data)-len(oldPrefix):], oldPrefix)
	return data
}

func TestStreamedLikeInMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	target := &Target{Platform: "linux-64"}
	for round := range 20 {
		data := long(rng, round%2 == 0)
		prefix := []string{"/a", oldPrefix, "/opt/env"}[round%3]
		codes := encodings(oldPrefix, prefix)[:1]
		s := func(w io.Writer) *stream {
			return &stream{w: w, r: bytes.NewReader(data), old: []byte(oldPrefix), new: []byte(prefix)}
		}
		var want, got bytes.Buffer
		if err := errors.Join(replaceBinary(&want, data, codes), s(&got).binary()); err != nil {
			t.Fatal(err)
		}
		if want.Len() != len(data) || !bytes.Equal(want.Bytes(), got.Bytes()) {
			t.Fatalf("round %d: binary: %d bytes became %d and %d, or they differ", round, len(data), want.Len(), got.Len())
		}
		want.Reset()
		got.Reset()
		if round%4 == 0 {
			copy(data, "#!"+oldPrefix+"/bin/perl\n")
		}
		if err := errors.Join(replaceText(&want, data, codes, target), s(&got).text(target)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Bytes(), got.Bytes()) {
			t.Fatalf("round %d: text differs", round)
		}
	}
}

func TestRewriteOfLongFiles(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcde\x00"), inMemory/16)
	target := &Target{Prefix: "/opt/e", Platform: "linux-64"}
	entry := &Entry{Placeholder: oldPrefix, FileMode: archive.ModeBinary}
	wide := string(utf32Bytes(bigEndian, oldPrefix))
	for _, tail := range []string{oldPrefix + "/x\x00", wide + "\x00\x00\x00\x00", oldPrefix} {
		data := append(bytes.Clone(body), tail...)
		var want bytes.Buffer
		if err := replaceBinary(&want, data, encodings(oldPrefix, target.Prefix)); err != nil {
			t.Fatal(err)
		}
		for name, src := range map[string]io.Reader{"a file": bytes.NewReader(data), "a pipe": io.MultiReader(bytes.NewReader(data))} {
			var got bytes.Buffer
			sum, n, err := Rewrite(&got, src, entry, target)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.Sum256(want.Bytes())
			if !bytes.Equal(got.Bytes(), want.Bytes()) || n != int64(len(data)) || sum != hex.EncodeToString(h[:]) {
				t.Errorf("%s ending in %.20q: differs", name, tail)
			}
		}
	}
	target.Prefix = oldPrefix + "x"
	if _, _, err := Rewrite(io.Discard, bytes.NewReader(append(body, oldPrefix...)), entry, target); !errors.Is(err, ErrPrefixTooLong) {
		t.Errorf("%v", err)
	}
}

func TestWindows(t *testing.T) {
	target := &Target{Prefix: `C:\envs\e`, Platform: "win-64"}
	for mode, want := range map[archive.FileMode]string{archive.ModeText: "#!C:/envs/e/python.exe", archive.ModeBinary: "#!" + oldPrefix + "/python.exe"} {
		var out strings.Builder
		if _, _, err := Rewrite(&out, strings.NewReader("#!"+oldPrefix+"/python.exe"), &Entry{Placeholder: oldPrefix, FileMode: mode}, target); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s: %q, want %q", mode, out.String(), want)
		}
	}
}

// FuzzRewrite checks what holds for any file: a binary keeps its length, and no placeholder stays in plain bytes.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte("#!"+oldPrefix+"/bin/python -E\n"+oldPrefix), "/e", true)
	f.Add([]byte("\x00"+oldPrefix+":"+oldPrefix), "/opt/e", false)
	f.Add([]byte(string(utf16Bytes(littleEndian, oldPrefix))+"\x00\x00\x00"+string(utf32Bytes(bigEndian, oldPrefix))), "/e", false)
	f.Add([]byte("#!/\xff\xf0"), "/with space", true)
	f.Fuzz(func(t *testing.T, data []byte, prefix string, text bool) {
		if len(prefix) > len(oldPrefix) || strings.Contains(oldPrefix+prefix+oldPrefix, prefix+oldPrefix) && prefix == "" {
			return
		}
		e := &Entry{Placeholder: oldPrefix, FileMode: archive.ModeBinary}
		if text {
			e.FileMode = archive.ModeText
		}
		var out bytes.Buffer
		_, n, err := Rewrite(&out, bytes.NewReader(data), e, &Target{Prefix: prefix, Platform: "linux-64"})
		if errors.Is(err, ErrPrefixTooLong) {
			return // in another encoding
		}
		if err != nil || n != int64(out.Len()) {
			t.Fatal(err, n, out.Len())
		}
		if !text && out.Len() != len(data) {
			t.Fatalf("%d bytes became %d", len(data), out.Len())
		}
		if !bytes.Contains(data, []byte("placehold")) && !bytes.HasPrefix(data, []byte("#!")) && !bytes.Equal(data, out.Bytes()) {
			if !bytes.Contains(data, utf16Bytes(littleEndian, "place")) && !bytes.Contains(data, utf16Bytes(bigEndian, "place")) &&
				!bytes.Contains(data, utf32Bytes(littleEndian, "place")) && !bytes.Contains(data, utf32Bytes(bigEndian, "place")) {
				t.Fatalf("%q became %q", data, out.Bytes())
			}
		}
	})
}
