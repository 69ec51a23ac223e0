package segment

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// ChangedError says that a file of an unpacked package is not what the package lists. Files of environments are links to
// those of the package cache, so who edits one edits all. What is made of it would lie under the digest of the package as
// it was published; so nothing is made. Remove the package from the package cache, fetch it, and try again.
type ChangedError struct {
	Package Package
	Path    string // in the package
}

// Error implements error.
func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s: %s in %s is not what the package lists: something has written to it, or to a file of an environment that is a link to it",
		e.Package.FileName, e.Path, e.Package.Dir)
}

// checked is a file that is hashed while it is read.
type checked struct {
	io.ReadCloser
	h hash.Hash
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.h.Write(p[:n])
	return n, err
}

// rewindable is a checked file that can be read again: rewriting a long one reads it twice.
type rewindable struct {
	*checked
	io.ReaderAt
	s io.Seeker
}

// Seek implements io.Seeker. After it the digest is of what is read from the beginning, the only place that it goes to.
func (r *rewindable) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, fmt.Errorf("a file that is checked is read from its beginning: %w", fs.ErrInvalid)
	}
	r.h.Reset()
	return r.s.Seek(0, io.SeekStart)
}

// source opens the file of an entry. finish, called when all that was wanted is read, reads the rest and compares the whole
// with what the package lists.
func (p *Part) source(e *link.Entry) (src io.ReadCloser, info fs.FileInfo, finish func() error, err error) {
	file, info, err := p.pkg.Source(e)
	if err != nil {
		return nil, nil, nil, err
	}
	finish = func() error { return nil }
	// What a link leads to may be another package's, and packages from before paths.json list no digests.
	if e.Type != link.HardLink || e.SHA256 == "" || p.Package.Unlisted {
		return file, info, finish, nil
	}
	changed := &ChangedError{Package: p.Package, Path: e.Source}
	if e.Size >= 0 && info.Size() != e.Size {
		_ = file.Close()
		return nil, nil, nil, changed
	}
	c := &checked{file, sha256.New()}
	finish = func() error {
		if _, err := io.Copy(io.Discard, c); err != nil {
			return err
		}
		if hexSum(c.h.Sum(nil)) != e.SHA256 {
			return changed
		}
		return nil
	}
	if r, ok := file.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		return &rewindable{c, r, r}, info, finish, nil
	}
	return c, info, finish, nil
}
