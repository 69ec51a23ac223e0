package blob_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
)

// The goal on two cores without SHA extensions: at least 5,000 files of 2 kB a second, with one durability point in 256.
func BenchmarkBatchOf256SmallFiles(b *testing.B) {
	d := openDir(b, blob.DirOptions{})
	batch, err := d.NewBatch()
	if err != nil {
		b.Fatal(err)
	}
	defer batch.Abort()
	data, r, n := blobtest.Bytes(1, 2048), bytes.NewReader(nil), 0
	for b.Loop() {
		n++
		binary.LittleEndian.PutUint64(data, uint64(n))
		r.Reset(data)
		if _, err := batch.Put(context.Background(), r, blob.PutOptions{}); err != nil {
			b.Fatal(err)
		}
		if n%256 == 0 {
			if err := batch.Commit(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkPutLarge(b *testing.B) {
	d := openDir(b, blob.DirOptions{})
	data, n := blobtest.Bytes(2, 64<<20), uint64(0)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		n++
		binary.LittleEndian.PutUint64(data, n)
		info, err := d.Put(context.Background(), bytes.NewReader(data), blob.PutOptions{})
		if err != nil {
			b.Fatal(err)
		}
		_ = d.Delete(context.Background(), info.Digest)
	}
}

func BenchmarkOpenSmall(b *testing.B) {
	d := openDir(b, blob.DirOptions{})
	info, err := d.Put(context.Background(), bytes.NewReader(make([]byte, 2048)), blob.PutOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for name, s := range map[string]blob.Store{"dir": d, "cache": blob.NewCache(d, 1<<20, 0)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f, err := s.Open(context.Background(), info.Digest)
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
