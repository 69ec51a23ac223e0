package repodata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawJSON draws a JSON value as text, with all the spellings a stranger may use.
func drawJSON(t *rapid.T, depth int) string {
	kinds := 6
	if depth <= 0 {
		kinds = 4
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "literal")
	case 1:
		return drawString(t)
	case 2:
		return strconv.FormatInt(rapid.Int64().Draw(t, "int"), 10)
	case 3:
		return rapid.SampledFrom([]string{
			"0", "-0", "-1", "127", "128", "-32", "-33", "-128", "-129", "255", "256", "65535", "65536",
			"-32768", "-32769", "4294967295", "4294967296", "-2147483648", "-2147483649", "9223372036854775807", "9223372036854775808",
			"-9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1.0", "1.50", "1e2", "1E-7", "-0.0", "0.1",
			"0.1000000000000000055511151231257827", "1.7976931348623157e308", "5e-324", "123456789012345678901234567890",
		}).Draw(t, "number")
	case 4:
		var elems []string
		for range rapid.IntRange(0, 20).Draw(t, "len") {
			elems = append(elems, drawJSON(t, depth-1))
		}
		return "[" + strings.Join(elems, " , ") + "]"
	}
	return drawObject(t, depth-1, nil)
}

func drawString(t *rapid.T) string {
	s := rapid.OneOf(rapid.String(), rapid.StringN(30, 300, -1)).Draw(t, "string")
	quoted, _ := json.Marshal(strings.ToValidUTF8(s, "?")) // escapes <, > and & as well
	return string(quoted)
}

func drawObject(t *rapid.T, depth int, members []string) string {
	seen := map[string]bool{}
	for range rapid.IntRange(0, 18).Draw(t, "keys") {
		k := drawString(t)
		if seen[k] || k == `"md5"` || k == `"sha256"` {
			continue
		}
		seen[k] = true
		members = append(members, k+" : "+drawJSON(t, depth))
	}
	members = rapid.Permutation(members).Draw(t, "order")
	return "{" + strings.Join(members, ",") + "}"
}

func drawRecord(t *rapid.T) string {
	return drawObject(t, 3, []string{
		`"name":"a"`, `"version":"1"`, `"build":"0"`,
		fmt.Sprintf(`"md5":"%x"`, rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "md5")),
		fmt.Sprintf(`"sha256":"%x"`, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "sha256")),
	})
}

// meaning is a JSON value as every reader understands it: 64-bit integers exactly, other numbers as doubles.
func meaning(t *rapid.T, text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return plainNumbers(v)
}

func plainNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = plainNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = plainNumbers(e)
		}
	case json.Number:
		if n, ok := new(big.Int).SetString(v.String(), 10); ok && (n.IsInt64() || n.IsUint64()) {
			return n.String()
		}
		f, _ := strconv.ParseFloat(v.String(), 64)
		return f
	}
	return v
}

func TestARecordSurvivesItsShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawRecord(t)
		data, _, err := BuildShard(Shard{Records: []ShardRecord{{Bucket: Conda, Key: "a-1-0.conda", Raw: []byte(raw)}}})
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		s, err := ParseShard(data, ParseOptions{})
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		want, got := fmt.Sprintf("%#v", meaning(t, raw)), fmt.Sprintf("%#v", meaning(t, string(s.Records[0].Raw)))
		if want != got {
			t.Fatalf("\nput %s\ngot %s", want, got)
		}
		again, _, err := BuildShard(*s)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("a shard built from its parse differs: %v", err)
		}
	})
}

func TestEditsUndoThemselves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawRecord(t)
		value := drawJSON(t, 2)
		set, err := SetKey([]byte(raw), "md5", []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		back, err := SetKey(set, "md5", Key([]byte(raw), "md5"))
		if err != nil || string(back) != raw {
			t.Fatalf("replaced and replaced back: %v\n%s\n%s", err, raw, back)
		}
		added, err := SetKey([]byte(raw), "a key that was not there", []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		back, err = DeleteKey(added, "a key that was not there")
		if err != nil || string(back) != raw {
			t.Fatalf("added and deleted: %v\n%s\n%s", err, raw, back)
		}
	})
}

func TestReadDeliversTheBytesItGot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawRecord(t)
		var got string
		_, err := Read(strings.NewReader(`{"packages.conda": {"a-1-0.conda" :`+raw+` } }`),
			ReadOptions{Record: func(_ Bucket, _ string, raw []byte) error { got = string(raw); return nil }})
		if err != nil || got != raw {
			t.Fatalf("%v\nput %s\ngot %s", err, raw, got)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"info":{"subdir":"noarch"},"packages":{"a-1-0.tar.bz2":{"name":"a","version":"1","build":"0","depends":["b"]}},"removed":["x"]}`))
	f.Add([]byte(`{"v3":{"conda":{"a-1-0":{"name":"\u0061","version":"1","build":"0","x":[{}]}}}}`))
	f.Add([]byte(`{"packages":{"a-1-0.tar.bz2":{"name":"a","name":"b"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		w := NewWriter(&out, Info{})
		_, err := Read(bytes.NewReader(data), ReadOptions{
			Problem: func(*Error) error { return nil },
			Record: func(b Bucket, key string, raw []byte) error {
				if !json.Valid(raw) {
					t.Errorf("delivered %q", raw)
				}
				ParseRecord(raw)
				if edited, err := SetKey(raw, "sha256", []byte(`null`)); err != nil || !json.Valid(edited) {
					t.Errorf("edited to %q: %v", edited, err)
				}
				if w.Record(b, key, raw) != nil {
					w = NewWriter(&out, Info{}) // out of order: begin anew
				}
				return nil
			},
		})
		if err == nil && !json.Valid(data) && len(bytes.TrimSpace(data)) > 0 && bytes.IndexByte(data, 0xff) < 0 {
			t.Errorf("accepted %q", data)
		}
	})
}

func FuzzParseShard(f *testing.F) {
	plain, err := decompressAll(mustBuild(f, sampleShard()), MaxShard)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, plain []byte) {
		p := &shardParser{u: unpacker{data: plain}, shard: &Shard{}, opts: ParseOptions{Problem: func(*Error) error { return nil }}}
		if p.top() != nil {
			return
		}
		data, _, err := BuildShard(*p.shard)
		if err != nil {
			t.Fatalf("parsed but not built: %v", err)
		}
		if _, err := ParseShard(data, ParseOptions{}); err != nil {
			t.Fatalf("built but not parsed: %v", err)
		}
	})
}

// The scanner trusts its input's syntax, yet must not panic when that trust is misplaced.
func FuzzScannerOnBrokenText(f *testing.F) {
	f.Add([]byte(`{"a":[1,"\"",{"b":null}],"c":"\u00e9"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ParseRecord(raw)
		SetKey(raw, "a", []byte("1"))
		DeleteKey(raw, "a")
		HostedRecord(raw, FileFacts{})
		BuildShard(Shard{Records: []ShardRecord{{Bucket: Conda, Key: "k", Raw: raw}}})
	})
}
