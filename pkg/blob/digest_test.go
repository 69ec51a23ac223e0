package blob_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// badDigests is what strangers send where a digest belongs.
var badDigests = map[string]string{
	"empty":           "",
	"short":           strings.Repeat("a", 63),
	"long":            strings.Repeat("a", 65),
	"upper case":      strings.Repeat("A", 64),
	"not hexadecimal": strings.Repeat("g", 64),
	"parent":          "../" + strings.Repeat("a", 61),
	"parents":         strings.Repeat("../", 21) + "a",
	"slash":           strings.Repeat("a", 32) + "/" + strings.Repeat("a", 31),
	"backslash":       strings.Repeat("a", 32) + `\` + strings.Repeat("a", 31),
	"NUL":             strings.Repeat("a", 63) + "\x00",
	"NUL first":       "\x00" + strings.Repeat("a", 63),
	"space":           " " + strings.Repeat("a", 63),
	"newline":         strings.Repeat("a", 63) + "\n",
	"prefix":          "sha256:" + strings.Repeat("a", 57),
	"percent":         "%2e%2e%2f" + strings.Repeat("a", 55),
	"full width":      strings.Repeat("\uff10", 21) + "a", // 64 bytes of full-width zeros
	"0x":              "0x" + strings.Repeat("a", 62),
}

func TestParseDigestTakesOneSpellingOnly(t *testing.T) {
	for name, s := range badDigests {
		if d, err := blob.ParseDigest(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %q became %v, error %v", name, s, d, err)
		}
	}
}

func TestDigestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := blob.Sum(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		if got, err := blob.ParseDigest(d.String()); err != nil || got != d {
			t.Fatalf("text: %v, %v", got, err)
		}
		var viaJSON, viaSQL blob.Digest
		b, err := json.Marshal(d)
		if err != nil || json.Unmarshal(b, &viaJSON) != nil || viaJSON != d {
			t.Fatalf("JSON: %s, %v", b, err)
		}
		v, err := d.Value()
		if err != nil || viaSQL.Scan(v) != nil || viaSQL != d {
			t.Fatalf("SQL: %v, %v", v, err)
		}
	})
}

func TestDigestScanRefusesWhatIsNone(t *testing.T) {
	for _, src := range []any{nil, "text", []byte{1, 2}, make([]byte, 33), 7} {
		var d blob.Digest
		if err := d.Scan(src); err == nil {
			t.Errorf("Scan took %v", src)
		}
	}
}
