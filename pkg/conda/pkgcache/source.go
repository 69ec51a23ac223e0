package pkgcache

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Source brings package files.
type Source interface {
	// Fetch writes the file at url to sink, all of it, and retries what may pass. size is what is expected, zero if
	// that is unknown.
	Fetch(ctx context.Context, url string, size int64, sink Sink) error
}

// Sink receives the bytes of one file, in order.
type Sink interface {
	io.Writer
	// Restart throws away what was written; the file begins anew.
	Restart() error
}

// Local reads file: URLs and paths of this machine, and asks Else for all others.
type Local struct {
	Else Source // nil: nothing else is reached
}

// Fetch implements Source.
func (l Local) Fetch(ctx context.Context, location string, size int64, sink Sink) error {
	name := location
	switch {
	case strings.HasPrefix(location, "file:"):
		u, err := url.Parse(location)
		if err != nil || u.Host != "" && u.Host != "localhost" {
			return fmt.Errorf("%s is no file of this machine", location)
		}
		name = filepath.FromSlash(u.Path)
	case strings.Contains(location, "://"):
		if l.Else == nil {
			return fmt.Errorf("%s is not on this machine", dist.WithoutSecrets(location))
		}
		return l.Else.Fetch(ctx, location, size, sink)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sink.Restart(); err != nil {
		return err
	}
	_, err = io.Copy(sink, reader{ctx, f})
	return err
}

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// spool is the file that a package is fetched into, hashed as it comes.
type spool struct {
	f      *os.File
	p      *Package
	max    int64
	size   int64
	sha256 hash.Hash
	md5    hash.Hash
	tell   func(int64)
	told   int64
}

// maxPackage bounds a file of which no size is known: the largest real packages have 4 GiB.
const maxPackage = 64 << 30

func newSpool(f *os.File, p *Package, tell func(int64)) *spool {
	s := &spool{f: f, p: p, max: p.Size, sha256: sha256.New(), md5: md5.New(), tell: tell}
	if s.max == 0 {
		s.max = maxPackage
	}
	return s
}

// Write implements io.Writer.
func (s *spool) Write(b []byte) (int, error) {
	if s.size+int64(len(b)) > s.max {
		return 0, fmt.Errorf("it has more than the %d bytes that it should have", s.max)
	}
	n, err := s.f.Write(b)
	s.size += int64(n)
	s.sha256.Write(b[:n])
	s.md5.Write(b[:n])
	if s.tell != nil && s.size-s.told >= 1<<20 {
		s.told = s.size
		s.tell(s.size)
	}
	return n, err
}

// Restart implements Sink.
func (s *spool) Restart() error {
	s.size, s.told = 0, 0
	s.sha256.Reset()
	s.md5.Reset()
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.f.Truncate(0)
}

// check compares the file with all that was said of it, and returns its digests. An MD5 counts beside a right SHA-256,
// too: one that is wrong would be believed by whoever knows no other.
func (s *spool) check() (sha, sum string, err error) {
	sha = hex.EncodeToString(s.sha256.Sum(nil))
	sum = hex.EncodeToString(s.md5.Sum(nil))
	switch {
	case s.p.Size > 0 && s.size != s.p.Size:
		err = fmt.Errorf("it has %d bytes, and should have %d", s.size, s.p.Size)
	case s.p.SHA256 != "" && !strings.EqualFold(sha, s.p.SHA256):
		err = fmt.Errorf("its SHA-256 is %s, and should be %s", sha, strings.ToLower(s.p.SHA256))
	case s.p.MD5 != "" && !strings.EqualFold(sum, s.p.MD5):
		err = fmt.Errorf("its MD5 is %s, and should be %s", sum, strings.ToLower(s.p.MD5))
	}
	return sha, sum, err
}
