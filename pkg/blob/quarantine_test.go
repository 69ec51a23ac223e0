package blob_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestRottenBytesAreTakenOutOfService(t *testing.T) {
	data := []byte("what was stored")
	rotten := []byte("what was rotten") // of the same size: only the digest can tell
	d := blob.Sum(data)
	check := func(t *testing.T, store blob.Store) {
		t.Helper()
		if err := blob.Verify(t.Context(), store, d); !fault.Is(err, fault.Internal) {
			t.Fatalf("Verify of rotten bytes: %v", err)
		}
		for range 2 { // the second time there is nothing to do
			if err := blob.Quarantine(t.Context(), store, d); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := store.Open(t.Context(), d); !fault.Is(err, fault.NotFound) {
			t.Errorf("Open of a quarantined blob: %v", err)
		}
		info, err := store.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
		if err != nil || !info.Created {
			t.Errorf("Put of the right bytes: %+v, %v", info, err)
		}
		if err := blob.Verify(t.Context(), store, d); err != nil {
			t.Error(err)
		}
	}
	t.Run("in a directory they are moved aside", func(t *testing.T) {
		root := t.TempDir()
		dir, err := blob.OpenDir(root, blob.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		path := filepath.Join(root, "sha256", d.String()[:2], d.String())
		if err := os.WriteFile(path, rotten, 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, dir)
		if got, err := os.ReadFile(filepath.Join(root, "quarantine", d.String())); err != nil || !bytes.Equal(got, rotten) {
			t.Errorf("in quarantine is %q, %v", got, err)
		}
	})
	t.Run("elsewhere they are deleted", func(t *testing.T) {
		store := &blobtest.Memory{}
		if _, err := store.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		store.Corrupt(d)
		check(t, store)
	})
}
