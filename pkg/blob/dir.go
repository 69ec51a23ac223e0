package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

var (
	_ Store       = (*Dir)(nil)
	_ Batcher     = (*Dir)(nil)
	_ TempCleaner = (*Dir)(nil)
)

// Dir is a Store in a directory of one file system. Several processes may use the same directory.
//
//	<dir>/                    0700
//	├── sha256/
//	│   ├── 00/ … ff/         made when the directory is opened, so that a put never makes one
//	│   │   └── <64 digits>   0600, one blob, complete by construction
//	├── quarantine/           made when it is needed
//	│   └── <64 digits>       damaged bytes of a blob, out of service
//	└── tmp/
//	    └── <process>-<n>     a put under way, or what a crash left of one
//
// Writes go to tmp/, are flushed, and are renamed: a name below sha256/ never holds a part. All access is under an
// os.Root, so that no name and no link planted in the directory leads out of it.
//
// After a failed flush the kernel may have dropped the pages and call a second flush a success. The file is
// therefore thrown away and written anew, never flushed again.
type Dir struct {
	root    *os.Root
	durable bool
	now     func() time.Time
	temp    string // prefix of this process's temporary names
	tempSeq atomic.Uint64

	// The three flushes, replaced by tests that break disks.
	flushData func(*os.File) error // one file's data
	flushDir  func(*os.File) error // one directory's names
	flushFS   func(*os.File) error // everything of the file system since the file was opened

	// suspects are blobs whose name is perhaps not durable because flushing their directory failed.
	mu       sync.Mutex
	suspects map[Digest]struct{}
}

// DirOptions tunes OpenDir; the zero value is right for production.
type DirOptions struct {
	// Volatile skips every flush. For tests and caches that may lose or tear blobs in a power cut.
	Volatile bool
	// Now is the clock; nil means time.Now. It decides only what counts as old or recent.
	Now func() time.Time
}

// OpenDir opens the blob directory, making it (but not its parents) and its sub-directories where they are absent.
func OpenDir(dir string, o DirOptions) (*Dir, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, diskError("open blob directory", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError("open blob directory", err)
	}
	d := &Dir{
		root: root, durable: !o.Volatile, now: o.Now, temp: "tmp/" + rand.Text()[:12] + "-",
		flushData: flushData, flushDir: (*os.File).Sync, flushFS: flushFS, suspects: map[Digest]struct{}{},
	}
	if d.now == nil {
		d.now = time.Now
	}
	if err := d.makeDirs(); err != nil {
		root.Close()
		return nil, diskError("prepare blob directory", err)
	}
	return d, nil
}

func (d *Dir) makeDirs() error {
	made := false
	names := []string{"tmp", "sha256"}
	for i := range 256 {
		names = append(names, "sha256/"+hex.EncodeToString([]byte{byte(i)}))
	}
	for _, name := range names {
		switch err := d.root.Mkdir(name, 0o700); {
		case err == nil:
			made = true
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	if !made || !d.durable {
		return nil
	}
	for _, name := range []string{"sha256", "."} {
		if err := d.syncDir(name); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the directory. Blobs that are open stay readable.
func (d *Dir) Close() error { return d.root.Close() }

// blobPath is the only place that turns a digest into a path; the name can hold nothing but hexadecimal digits.
func blobPath(dg Digest) string {
	var b [len("sha256/ab/") + 2*len(dg)]byte
	copy(b[:], "sha256/")
	hex.Encode(b[7:], dg[:1])
	b[9] = '/'
	hex.Encode(b[10:], dg[:])
	return string(b[:])
}

func fanPath(dg Digest) string { return blobPath(dg)[:len("sha256/ab")] }

// Open implements Store.
func (d *Dir) Open(ctx context.Context, dg Digest) (Blob, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	f, err := d.root.Open(blobPath(dg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, NotFound(dg)
	}
	if err != nil {
		return nil, diskError("open blob "+dg.String(), err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, diskError("open blob "+dg.String(), err)
	}
	return &fileBlob{File: f, size: fi.Size(), modTime: fi.ModTime()}, nil
}

// fileBlob keeps *os.File visible to net, whose sendfile path looks for a syscall.Conn.
type fileBlob struct {
	*os.File
	size    int64
	modTime time.Time
}

func (b *fileBlob) Size() int64        { return b.size }
func (b *fileBlob) ModTime() time.Time { return b.modTime }

// Stat implements Store.
func (d *Dir) Stat(ctx context.Context, dg Digest) (Stat, error) {
	if err := context.Cause(ctx); err != nil {
		return Stat{}, err
	}
	fi, err := d.root.Lstat(blobPath(dg))
	if errors.Is(err, fs.ErrNotExist) {
		return Stat{}, NotFound(dg)
	}
	if err != nil {
		return Stat{}, diskError("stat blob "+dg.String(), err)
	}
	return Stat{Digest: dg, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// Delete implements Store. The name is gone at once; a power cut may bring it back, which garbage collection can live with.
func (d *Dir) Delete(ctx context.Context, dg Digest) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.root.Remove(blobPath(dg)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("delete blob "+dg.String(), err)
	}
	return nil
}

// List implements Store. It holds the names of one of the 256 directories at a time.
func (d *Dir) List(ctx context.Context, after Digest, fn func(Stat) error) error {
	for i := int(after[0]); i < 256; i++ {
		names, err := d.readNames("sha256/" + hex.EncodeToString([]byte{byte(i)}))
		if err != nil {
			return diskError("list blobs", err)
		}
		for _, name := range names {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			dg, err := ParseDigest(name)
			if err != nil || dg[0] != byte(i) || slices.Compare(dg[:], after[:]) <= 0 {
				continue // not ours: an editor's backup, lost+found
			}
			st, err := d.Stat(ctx, dg)
			if fault.Is(err, fault.NotFound) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = fn(st)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// readNames returns the sorted names in a directory.
func (d *Dir) readNames(dir string) ([]string, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// CleanTemp implements TempCleaner.
func (d *Dir) CleanTemp(ctx context.Context, olderThan time.Duration) (int, error) {
	names, err := d.readNames("tmp")
	if err != nil {
		return 0, diskError("clean temporary blobs", err)
	}
	limit, n := d.now().Add(-olderThan), 0
	for _, name := range names {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		fi, err := d.root.Lstat("tmp/" + name)
		if err != nil || fi.ModTime().After(limit) {
			continue // finished meanwhile, or still written to
		}
		switch err := d.root.RemoveAll("tmp/" + name); {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist):
			return n, diskError("clean temporary blobs", err)
		}
	}
	return n, nil
}

// newTemp makes an empty temporary file.
func (d *Dir) newTemp() (*os.File, string, error) {
	name := fmt.Sprintf("%s%d", d.temp, d.tempSeq.Add(1))
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return f, name, err
}
