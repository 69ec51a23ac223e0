package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ext4 does not give out an inode again for one to five minutes after its file was deleted, and looks through all such
// inodes for each new file (recently_deleted in fs/ext4/ialloc.c). After thousands of deletions, a test suite's for
// instance, making a small file takes 0.3 ms of processor time instead of 0.04. That is no figure of ours, so nothing is
// deleted until the end, and each part waits until making files costs what it should.
const (
	calmCreate  = 120 * time.Microsecond
	calmProbe   = 300
	calmPause   = 15 * time.Second
	calmTimeout = 6 * time.Minute
)

// tempDir makes a directory that is removed when all parts have ended.
func (b *bench) tempDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, "entrepot-bench-"+pattern+"-")
	if err == nil {
		b.leftovers = append(b.leftovers, dir)
	}
	return dir, err
}

// cleanUp removes all of them.
func (b *bench) cleanUp() {
	for _, dir := range b.leftovers {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// calm waits until small files are made at the usual price, and returns that of the last probe.
func (b *bench) calm(ctx context.Context) (time.Duration, error) {
	for deadline := time.Now().Add(calmTimeout); ; {
		price, err := b.createPrice()
		if err != nil || price <= calmCreate || !time.Now().Add(calmPause).Before(deadline) || !b.standard() {
			return price, err
		}
		fmt.Printf("making a small file takes %v: waiting for the file system to forget recent deletions\n", price)
		if err := sleep(ctx, calmPause); err != nil {
			return price, err
		}
	}
}

// createPrice measures how long it takes to make a file of two kilobytes, without any flush.
func (b *bench) createPrice() (time.Duration, error) {
	dir, err := b.tempDir("probe")
	if err != nil {
		return 0, err
	}
	data := make([]byte, 2<<10)
	begin := time.Now()
	for i := range calmProbe {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), data, 0o600); err != nil {
			return 0, err
		}
	}
	return (time.Since(begin) / calmProbe).Round(time.Microsecond), nil
}
