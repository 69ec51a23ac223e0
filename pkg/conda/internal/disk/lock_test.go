//go:build unix

package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestALockIsHeldByOneUntilItsFileIsClosed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	if err := Lock(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	if err := Lock(ctx, second); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	got := make(chan error)
	go func() { got <- Lock(t.Context(), second) }()
	first.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestADirectoryCanBeFlushed(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Flush(f); err != nil {
		t.Error(err)
	}
}
