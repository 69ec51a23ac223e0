package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Cache keeps files of channels in a directory, which several processes may share: every file is written beside its place
// and renamed. It may be deleted at any time.
//
// An entry is one file: a line of JSON that says what it is, then the bytes as they came. Its name is the digest of its
// URL, so nothing that a server names becomes a path.
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

func (c *Cache) path(url string) string {
	sum := sha256.Sum256([]byte(url))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(c.dir, name[:2], name)
}

// get returns an entry, or nil if there is no sound one.
func (c *Cache) get(url string) (*entryHead, []byte) {
	raw, err := os.ReadFile(c.path(url))
	if err != nil {
		return nil, nil
	}
	line, data, ok := bytes.Cut(raw, []byte{'\n'})
	var head entryHead
	if !ok || json.Unmarshal(line, &head) != nil || head.URL != url || head.Size != int64(len(data)) {
		return nil, nil
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != head.Sum {
		return nil, nil
	}
	return &head, data
}

// put keeps an entry. A cache that cannot be written is slower, not wrong, so errors are for the log only.
func (c *Cache) put(head entryHead, data []byte) error {
	sum := sha256.Sum256(data)
	head.Size, head.Sum = int64(len(data)), hex.EncodeToString(sum[:])
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	path := c.path(head.URL)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// OfflineError says that a file is not in the cache and may not be asked for.
type OfflineError struct{ URL string }

// Error implements error.
func (e *OfflineError) Error() string { return e.URL + " is not in the cache, and this is offline" }

// absent marks a file in the cache that the channel does not have: asking five times for what is not there would make
// every solve wait.
const absent = "absent"

// read returns a file's bytes: from the cache if it is fresh or unchanged, else from the source.
// What is named by its own digest never changes: a kept copy of it is asked for no more.
func (l *loader) read(ctx context.Context, ch *Channel, path string, limit int64, immutable bool) ([]byte, error) {
	url := path
	if !strings.Contains(path, "://") {
		url = ch.URL + "/" + path
	}
	cache := l.opts.Cache
	if local(ch.Source) {
		cache = nil
	}
	var head *entryHead
	var kept []byte
	if cache != nil {
		if head, kept = cache.get(url); head != nil {
			if l.opts.Offline || immutable && head.ETag != absent || cache.now().Before(head.Until) {
				if head.ETag == absent {
					return nil, fmt.Errorf("%s: %w", url, fs.ErrNotExist)
				}
				return kept, nil
			}
		}
	}
	if l.opts.Offline && !local(ch.Source) {
		return nil, &OfflineError{URL: url}
	}
	var known Validators
	if head != nil && head.ETag != absent {
		known = head.Validators
	}
	f, err := ch.Source.Open(ctx, path, known)
	if err != nil {
		if missing(err) && cache != nil {
			l.warn(cache.put(entryHead{URL: url, Validators: Validators{ETag: absent}, Until: cache.now().Add(absentFor)}, nil))
		}
		return nil, err
	}
	if f.NotModified {
		if head == nil {
			return nil, fmt.Errorf("%s: the server says that a file has not changed which was never read", url)
		}
		if f.Fresh > 0 {
			head.Until = cache.now().Add(f.Fresh)
			l.warn(cache.put(*head, kept))
		}
		return kept, nil
	}
	defer f.Body.Close()
	data, err := io.ReadAll(io.LimitReader(f.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", url, limit)
	}
	l.count(len(data))
	if cache != nil {
		l.warn(cache.put(entryHead{URL: url, Validators: f.Validators, Until: cache.now().Add(f.Fresh)}, data))
	}
	return data, nil
}

const absentFor = 10 * time.Minute
