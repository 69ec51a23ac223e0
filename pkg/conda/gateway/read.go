package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// absent marks a file in the cache that the channel does not have: asking five times for what is not there would make
// every solve wait.
const absent = "absent"

const absentFor = 10 * time.Minute

// answer is a file of a channel: as it comes, or as the cache has it.
type answer struct {
	url   string
	cache *Cache    // nil: the file is not kept
	kept  *entry    // the cache's copy, if that is the newest
	body  io.Reader // what comes, within limits, if it is not
	size  int64     // a guess at how much that is; 0 if there is none
	head  entryHead
	file  io.Closer
	into  *newEntry // takes what comes
}

func (a *answer) close() {
	if a.kept != nil {
		a.kept.close()
	}
	if a.file != nil {
		a.file.Close()
	}
	if a.into != nil {
		_ = a.into.abort()
	}
}

// keep finishes the cache's copy of a body that was read to its end and turned out well.
func (a *answer) keep() (sum string, err error) {
	if a.into == nil {
		return "", nil
	}
	w := a.into
	a.into = nil
	return w.commit(a.head)
}

// ask asks for a file: the cache if that is fresh or may be all there is, else the source. What is named by its own digest
// never changes: a kept copy of it is asked for no more. Distrusted is a kept copy that turned out to be damaged.
func (l *loader) ask(ctx context.Context, ch *Channel, path string, limit int64, immutable, distrusted bool) (*answer, error) {
	url := path
	if !strings.Contains(path, "://") {
		url = ch.URL + "/" + path
	}
	a := &answer{url: url, cache: l.opts.Cache}
	if local(ch.Source) {
		a.cache = nil
	}
	var known Validators
	if a.cache != nil && !distrusted {
		a.kept = a.cache.open(url)
	}
	if a.kept != nil {
		if l.opts.Offline || immutable && a.kept.ETag != absent || a.cache.now().Before(a.kept.Until) {
			if a.kept.ETag == absent {
				a.close()
				return nil, fmt.Errorf("%s: %w", url, fs.ErrNotExist)
			}
			return a, nil
		}
		if a.kept.ETag != absent {
			known = a.kept.Validators
		}
	}
	if l.opts.Offline && !local(ch.Source) {
		a.close()
		return nil, &OfflineError{URL: url}
	}
	f, err := ch.Source.Open(ctx, path, known)
	if err != nil {
		a.close()
		if missing(err) && a.cache != nil {
			l.warn(a.cache.put(entryHead{URL: url, Validators: Validators{ETag: absent}, Until: a.cache.now().Add(absentFor)}, nil))
		}
		return nil, err
	}
	if f.NotModified {
		if a.kept == nil || known == (Validators{}) {
			a.close()
			return nil, fmt.Errorf("%s: the server says that a file has not changed which was never read", url)
		}
		if f.Fresh > 0 {
			l.warn(a.cache.prolong(a.kept, a.cache.now().Add(f.Fresh)))
		}
		return a, nil
	}
	if a.kept != nil {
		a.kept.close()
		a.kept = nil
	}
	a.file, a.size = f.Body, f.Size
	a.body = &limited{r: f.Body, left: limit, url: url, limit: limit, loader: l}
	if a.cache != nil {
		a.head = entryHead{URL: url, Validators: f.Validators, Until: a.cache.now().Add(f.Fresh)}
		a.into = a.cache.create(url)
		a.body = io.TeeReader(a.body, a.into)
	}
	return a, nil
}

// limited reads no more than it may, and counts.
type limited struct {
	r           io.Reader
	left, limit int64
	url         string
	loader      *loader
}

// Read implements io.Reader.
func (r *limited) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.loader.count(n)
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("%s is larger than %d bytes", r.url, r.limit)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", r.url, err)
	}
	return n, err
}

// read returns a small file's bytes.
func (l *loader) read(ctx context.Context, ch *Channel, path string, limit int64, immutable bool) ([]byte, error) {
	for distrusted := false; ; distrusted = true {
		a, err := l.ask(ctx, ch, path, limit, immutable, distrusted)
		if err != nil {
			return nil, err
		}
		var data []byte
		if a.kept != nil {
			data, err = io.ReadAll(a.kept.reader())
		} else if data, err = io.ReadAll(a.body); err == nil {
			_, kerr := a.keep()
			l.warn(kerr)
		}
		a.close()
		if errors.Is(err, errRotten) {
			continue // the source is asked then
		}
		return data, err
	}
}
