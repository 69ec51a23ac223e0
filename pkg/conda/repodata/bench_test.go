package repodata

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// benchDocument is about 50 MB of compact records.
func benchDocument(b *testing.B) []byte {
	b.Helper()
	data := generate(40_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	return data
}

func BenchmarkRead(b *testing.B) {
	data := benchDocument(b)
	for _, trusted := range []bool{false, true} {
		b.Run(fmt.Sprintf("trusted=%t", trusted), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Read(bytes.NewReader(data), ReadOptions{Trusted: trusted}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSplice is what an incremental index does: records go from one document to the next without being parsed.
func BenchmarkSplice(b *testing.B) {
	data := benchDocument(b)
	for b.Loop() {
		w := NewWriter(io.Discard, Info{Subdir: "linux-64"})
		if _, err := Read(bytes.NewReader(data), ReadOptions{Trusted: true, Record: w.Record, Removed: w.Removed}); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite is the publishing path: raw records come from rows.
func BenchmarkWrite(b *testing.B) {
	data := benchDocument(b)
	c, _ := collect(b, data, true)
	raw := make([][]byte, len(c.Records))
	for i, r := range c.Records {
		raw[i] = []byte(r.Raw)
	}
	for b.Loop() {
		w := NewWriter(io.Discard, Info{Subdir: "linux-64"})
		for i, r := range c.Records {
			if err := w.Record(r.Bucket, r.Key, raw[i]); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRecord(b *testing.B) {
	c, _ := collect(b, generate(1), true)
	raw := []byte(c.Records[0].Raw)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func benchShard(b *testing.B, n int) Shard {
	b.Helper()
	c, _ := collect(b, generate(n), true)
	var s Shard
	for _, r := range c.Records[:n] {
		s.Records = append(s.Records, ShardRecord{Bucket: r.Bucket, Key: r.Key, Raw: []byte(r.Raw)})
	}
	return s
}

func BenchmarkBuildShard(b *testing.B) {
	for _, n := range []int{1, 16, 1000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			s := benchShard(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := BuildShard(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseShard(b *testing.B) {
	for _, n := range []int{1, 16, 1000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			data := mustBuild(b, benchShard(b, n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseShard(data, ParseOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSetKey(b *testing.B) {
	c, _ := collect(b, generate(1), true)
	raw := []byte(c.Records[0].Raw)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := SetKey(raw, "indexed_timestamp", []byte("1700000000000")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecoder(b *testing.B) {
	data := generate(10_000)
	for _, enc := range []Encoding{Zstd, Gzip, Bzip2} {
		b.Run(string(enc), func(b *testing.B) {
			packed := pack(b, enc, data)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				d, err := NewDecoder(bytes.NewReader(packed), enc, DecodeLimits{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, d); err != nil {
					b.Fatal(err)
				}
				d.Close()
			}
		})
	}
}
