package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func tempDir(t *testing.T) (*Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := OpenDir(path, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// failing returns a flush that fails the first n times with err.
func failing(n int, err error, calls *int) func(*os.File) error {
	return func(*os.File) error {
		if *calls++; *calls <= n {
			return err
		}
		return nil
	}
}

func TestDirAfterFailedFlush(t *testing.T) {
	ctx := context.Background()
	small, large := []byte("small"), make([]byte, smallSize+1)

	t.Run("a small file is rewritten, not flushed again", func(t *testing.T) {
		d, path := tempDir(t)
		var flushed []string
		d.flushData = func(f *os.File) error {
			flushed = append(flushed, f.Name())
			if len(flushed) == 1 {
				return syscall.EIO
			}
			return nil
		}
		info, err := d.Put(ctx, bytes.NewReader(small), PutOptions{})
		if err != nil || !info.Created {
			t.Fatalf("Put: %+v, %v", info, err)
		}
		if len(flushed) != 2 || flushed[0] == flushed[1] {
			t.Errorf("flushed %q, want two different files", flushed)
		}
		if got := files(t, path); len(got) != 1 {
			t.Errorf("files %q, want the blob alone", got)
		}
	})
	t.Run("a large file is refused and removed", func(t *testing.T) {
		d, path := tempDir(t)
		calls := 0
		d.flushData = failing(1, syscall.EIO, &calls)
		_, err := d.Put(ctx, bytes.NewReader(large), PutOptions{})
		wantFault(t, err, fault.Unavailable, ReasonIO)
		if got := files(t, path); len(got) != 0 {
			t.Errorf("files %q, want none", got)
		}
		if info, err := d.Put(ctx, bytes.NewReader(large), PutOptions{}); err != nil || !info.Created {
			t.Errorf("second Put: %+v, %v", info, err)
		}
	})
	t.Run("a blob whose name could not be flushed is written anew", func(t *testing.T) {
		d, _ := tempDir(t)
		calls := 0
		d.flushDir = failing(1, syscall.EIO, &calls)
		if _, err := d.Put(ctx, bytes.NewReader(small), PutOptions{}); err == nil {
			t.Fatal("Put succeeded without a durable name")
		}
		if info, err := d.Put(ctx, bytes.NewReader(small), PutOptions{}); err != nil || !info.Created {
			t.Errorf("second Put: %+v, %v, want a fresh copy", info, err)
		}
		if info, err := d.Put(ctx, bytes.NewReader(small), PutOptions{}); err != nil || info.Created {
			t.Errorf("third Put: %+v, %v, want the copy trusted", info, err)
		}
	})
	t.Run("a batch shows nothing if its data could not be flushed", func(t *testing.T) {
		d, path := tempDir(t)
		calls := 0
		d.flushFS = failing(1, syscall.EIO, &calls)
		b, err := d.NewBatch()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Abort()
		fill := func() {
			for i := range 10 {
				if _, err := b.Put(ctx, strings.NewReader(fmt.Sprint("blob ", i)), PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		fill()
		wantFault(t, b.Commit(ctx), fault.Unavailable, ReasonIO)
		if got := files(t, path); len(got) != 0 {
			t.Errorf("files %q, want none", got)
		}
		fill()
		if err := b.Commit(ctx); err != nil || len(files(t, path)) != 10 {
			t.Errorf("second Commit: %v, %d files, want 10", err, len(files(t, path)))
		}
	})
	t.Run("a batch distrusts names that could not be flushed", func(t *testing.T) {
		d, _ := tempDir(t)
		calls := 0
		d.flushFS = func(*os.File) error {
			if calls++; calls == 2 { // the data was flushed, the names were not
				return syscall.EIO
			}
			return nil
		}
		b, _ := d.NewBatch()
		defer b.Abort()
		for round, wantErr := range []bool{true, false} {
			for i := range 10 {
				info, err := b.Put(ctx, strings.NewReader(fmt.Sprint("blob ", i)), PutOptions{})
				if err != nil || !info.Created {
					t.Fatalf("round %d: %+v, %v, want a fresh copy", round, info, err)
				}
			}
			if err := b.Commit(ctx); (err != nil) != wantErr {
				t.Errorf("round %d: Commit: %v", round, err)
			}
		}
	})
}

func wantFault(t *testing.T, err error, kind fault.Kind, reason string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || f.Reason != reason {
		t.Errorf("error %v, want %v with reason %s", err, kind, reason)
	}
}

func TestDirFlushesTheNameOfAYoungBlobPutAgain(t *testing.T) {
	d, path := tempDir(t)
	ctx, calls := context.Background(), 0
	info, err := d.Put(ctx, strings.NewReader("x"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.flushDir = failing(0, nil, &calls)
	again := func() {
		t.Helper()
		if info, err := d.Put(ctx, strings.NewReader("x"), PutOptions{}); err != nil || info.Created {
			t.Fatalf("Put: %+v, %v", info, err)
		}
	}
	again() // another process may have renamed it and not yet flushed
	if calls != 1 {
		t.Errorf("%d flushes for a young blob, want 1", calls)
	}
	old := time.Now().Add(-2 * recent)
	if err := os.Chtimes(filepath.Join(path, blobPath(info.Digest)), old, old); err != nil {
		t.Fatal(err)
	}
	again()
	if calls != 1 {
		t.Errorf("%d flushes after putting an old blob, want still 1", calls)
	}
}

func TestDirHealsABlobOfTheWrongSize(t *testing.T) {
	d, path := tempDir(t)
	info, err := d.Put(context.Background(), strings.NewReader("whole"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(path, blobPath(info.Digest)), 2); err != nil {
		t.Fatal(err)
	}
	if err := Verify(context.Background(), d, info.Digest); err == nil {
		t.Error("Verify passed a truncated blob")
	}
	if info, err := d.Put(context.Background(), strings.NewReader("whole"), PutOptions{}); err != nil || !info.Created {
		t.Errorf("Put: %+v, %v", info, err)
	}
	if err := Verify(context.Background(), d, info.Digest); err != nil {
		t.Error(err)
	}
}

func TestDirJanitorLeavesTheYoung(t *testing.T) {
	d, path := tempDir(t)
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": time.Hour} {
		p, at := filepath.Join(path, "tmp", name), time.Now().Add(-age)
		if err := os.WriteFile(p, []byte("left by a crash"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	n, err := d.CleanTemp(context.Background(), 24*time.Hour)
	if got := files(t, path); n != 1 || err != nil || len(got) != 1 || got[0] != "/tmp/young" {
		t.Errorf("CleanTemp = %d, %v, leaving %q", n, err, got)
	}
}

func TestDirIgnoresStrangersAndLinksThatLeadOut(t *testing.T) {
	d, path := tempDir(t)
	ctx := context.Background()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	planted := Sum([]byte("planted"))
	if err := os.Symlink(secret, filepath.Join(path, blobPath(planted))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lost+found", strings.Repeat("z", 64), strings.ToUpper(planted.String())} {
		if err := os.WriteFile(filepath.Join(path, "sha256/00", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Open(ctx, planted); err == nil {
		t.Error("Open followed a link out of the store")
	}
	n := 0
	if err := d.List(ctx, Digest{}, func(st Stat) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("List: %d blobs, %v, want only the planted link's own name", n, err)
	}
	// A put of those bytes replaces the link and does not write through it.
	if _, err := d.Put(ctx, strings.NewReader("planted"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(secret); string(b) != "secret" {
		t.Errorf("the file behind the link became %q", b)
	}
	if err := Verify(ctx, d, planted); err != nil {
		t.Error(err)
	}
}

func TestDirOnAFullDisk(t *testing.T) {
	d, path := tempDir(t)
	d.flushData = func(*os.File) error {
		return &fs.PathError{Op: "fdatasync", Path: "/secret/place", Err: syscall.ENOSPC}
	}
	_, err := d.Put(context.Background(), strings.NewReader("x"), PutOptions{})
	wantFault(t, err, fault.Unavailable, ReasonFull)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error names the operator's paths: %v", err)
	}
	if got := files(t, path); len(got) != 0 {
		t.Errorf("files %q, want none", got)
	}
}

func TestDirFilesAreForTheirOwnerOnly(t *testing.T) {
	d, path := tempDir(t)
	info, err := d.Put(context.Background(), bytes.NewReader(make([]byte, smallSize+1)), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{blobPath(info.Digest): 0o600, "sha256/ab": 0o700, "tmp": 0o700} {
		if fi, err := os.Stat(filepath.Join(path, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
}
