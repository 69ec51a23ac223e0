package blob_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func openDir(t testing.TB, o blob.DirOptions) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, blob.DirOptions{}) })
}

func TestCacheOverDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return blob.NewCache(openDir(t, blob.DirOptions{Volatile: true}), 1<<20, 0)
	})
}

func TestS3(t *testing.T) {
	server := blobtest.StartS3(t)
	blobtest.Run(t, func(t *testing.T) blob.Store {
		c := server
		c.Bucket = newBucket()
		return openS3(t, c)
	})
}
