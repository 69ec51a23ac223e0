package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
)

// Cache keeps files of channels in a directory, which several processes may share: every file is written beside its place
// and renamed. It may be deleted at any time.
//
// An entry is one file: the bytes as they came, then JSON that says what they are, then a trailer with its length. Its name
// is the digest of its URL, so nothing that a server names becomes a path. Beside an entry may lie
//
//	<name>.until   until when it need not be asked for, where that was prolonged
//	<name>.arena   its records as a snapshot (package arena), whose source is the digest of the entry's bytes
type Cache struct {
	dir string
	now func() time.Time
}

// NewCache returns a cache in a directory, which is made when it is first needed.
func NewCache(dir string) *Cache { return &Cache{dir: dir, now: time.Now} }

// DefaultCacheDir is where a person's cache is: entrepot/channels below the user's cache directory.
func DefaultCacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "entrepot", "channels"), nil
}

type entryHead struct {
	URL string `json:"url"`
	Validators
	Until time.Time `json:"until,omitzero"` // not asked for again before
	Size  int64     `json:"size"`
	Sum   string    `json:"sum"` // SHA-256 of the bytes: a torn or rotten entry counts as none
}

const (
	entryMagic  = "entrepot"
	trailerSize = 4 + len(entryMagic)
	maxHead     = 64 << 10
)

func (c *Cache) path(url string) string {
	sum := sha256.Sum256([]byte(url))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(c.dir, name[:2], name)
}

// entry is an open file of the cache. Whether its bytes are sound is known when they were read.
type entry struct {
	entryHead
	f    *os.File
	path string
}

// open returns an entry, or nil if there is none that looks sound. The caller closes it.
func (c *Cache) open(url string) *entry {
	path := c.path(url)
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	e := &entry{f: f, path: path}
	if !e.readHead() || e.URL != url {
		f.Close()
		return nil
	}
	var until struct {
		Sum   string
		Until time.Time
	}
	if data, err := os.ReadFile(path + ".until"); err == nil && json.Unmarshal(data, &until) == nil && until.Sum == e.Sum {
		e.Until = until.Until
	}
	return e
}

func (e *entry) readHead() bool {
	info, err := e.f.Stat()
	if err != nil || info.Size() < int64(trailerSize) {
		return false
	}
	var trailer [trailerSize]byte
	end := info.Size() - int64(trailerSize)
	if _, err := e.f.ReadAt(trailer[:], end); err != nil || string(trailer[4:]) != entryMagic {
		return false
	}
	n := int64(binary.BigEndian.Uint32(trailer[:4]))
	if n > maxHead || n > end {
		return false
	}
	head := make([]byte, n)
	if _, err := e.f.ReadAt(head, end-n); err != nil {
		return false
	}
	return json.Unmarshal(head, &e.entryHead) == nil && e.Size == end-n
}

func (e *entry) close() { e.f.Close() }

// errRotten says that an entry's bytes are not those that were kept.
var errRotten = errors.New("the cache's copy is damaged")

// reader returns the entry's bytes as a stream, which ends with errRotten instead of io.EOF if they are not sound.
func (e *entry) reader() io.Reader {
	return &checked{r: io.NewSectionReader(e.f, 0, e.Size), hash: sha256.New(), sum: e.Sum}
}

type checked struct {
	r    io.Reader
	hash hash.Hash
	sum  string
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(c.hash.Sum(nil)) != c.sum {
		err = errRotten
	}
	return n, err
}

// newEntry is an entry that is written.
type newEntry struct {
	f    *os.File
	hash hash.Hash
	size int64
	err  error
	path string
}

// create begins an entry. A cache that cannot be written is slower, not wrong: what goes wrong is told by commit.
func (c *Cache) create(url string) *newEntry {
	w := &newEntry{hash: sha256.New(), path: c.path(url)}
	if w.err = os.MkdirAll(filepath.Dir(w.path), 0o700); w.err == nil {
		w.f, w.err = os.CreateTemp(filepath.Dir(w.path), ".new-*")
	}
	return w
}

// Write implements io.Writer; it never fails.
func (w *newEntry) Write(p []byte) (int, error) {
	if w.err == nil {
		_, w.err = w.f.Write(p)
	}
	w.hash.Write(p)
	w.size += int64(len(p))
	return len(p), nil
}

// commit puts the entry in its place and returns the digest of its bytes.
func (w *newEntry) commit(head entryHead) (sum string, err error) {
	head.Size, head.Sum = w.size, hex.EncodeToString(w.hash.Sum(nil))
	text, err := json.Marshal(head)
	if w.err == nil {
		w.err = err
	}
	if w.err != nil {
		return head.Sum, errors.Join(w.err, w.abort())
	}
	_, err = w.f.Write(append(binary.BigEndian.AppendUint32(text, uint32(len(text))), entryMagic...))
	if err = errors.Join(err, w.f.Close()); err == nil {
		err = os.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(w.f.Name()))
	}
	return head.Sum, err
}

// abort leaves nothing.
func (w *newEntry) abort() error {
	if w.f == nil {
		return nil
	}
	w.f.Close()
	return os.Remove(w.f.Name())
}

func (c *Cache) put(head entryHead, data []byte) error {
	w := c.create(head.URL)
	_, _ = w.Write(data)
	_, err := w.commit(head)
	return err
}

// prolong notes that an entry need not be asked for before a time.
func (c *Cache) prolong(e *entry, until time.Time) error {
	data, err := json.Marshal(struct {
		Sum   string
		Until time.Time
	}{e.Sum, until})
	if err != nil {
		return err
	}
	return replace(e.path+".until", func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}

// replace writes a file beside its place and renames it.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// snapshotSource is what a snapshot of an entry's records is made from.
func snapshotSource(sum, subdir string) [32]byte { return sha256.Sum256([]byte(sum + " " + subdir)) }

// snapshot returns the records of an entry from its snapshot, or nil if there is none that is sound.
func (c *Cache) snapshot(url, sum, subdir string) *arena.Arena {
	f, err := os.Open(c.path(url) + ".arena")
	if err != nil {
		return nil
	}
	defer f.Close()
	a, err := arena.OpenSnapshot(f, snapshotSource(sum, subdir))
	if err != nil || a.Verify(f) != nil || a.Subdir != subdir {
		return nil
	}
	return a
}

func (c *Cache) putSnapshot(url, sum string, a *arena.Arena) error {
	return replace(c.path(url)+".arena", func(w io.Writer) error { return a.WriteSnapshot(w, snapshotSource(sum, a.Subdir)) })
}

// OfflineError says that a file is not in the cache and may not be asked for.
type OfflineError struct{ URL string }

// Error implements error.
func (e *OfflineError) Error() string { return e.URL + " is not in the cache, and this is offline" }
