package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Validators tell a server which version of a file is known (RFC 9110, section 8.8). The zero value knows none.
type Validators struct {
	ETag         string    `json:"etag,omitempty"`
	LastModified time.Time `json:"last_modified,omitzero"`
}

// File is what a source answers. The caller closes Body, unless it is nil.
type File struct {
	Body        io.ReadCloser // nil if NotModified
	NotModified bool          // the known version is the newest
	Validators  Validators    // of the file as it is now
	Fresh       time.Duration // for how long it need not be asked for again
	Size        int64         // of Body in bytes, to make room for; 0 if not known
}

// Source opens a channel's files. It is used from many goroutines.
type Source interface {
	// Open opens the file at a path below the channel, or at an absolute URL where a channel keeps its shards elsewhere.
	// An error that is fs.ErrNotExist says that there is no such file.
	Open(ctx context.Context, path string, known Validators) (*File, error)
}

// Dir returns the channel in a directory. Nothing outside of it is read, whatever its files or links say.
func Dir(path string) (Source, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w", path, err)
	}
	return dir{root}, nil
}

type dir struct{ root *os.Root }

// Open implements Source. A directory's files have no validators: reading them costs no more than asking.
func (d dir) Open(_ context.Context, path string, _ Validators) (*File, error) {
	if !filepath.IsLocal(path) {
		return nil, fmt.Errorf("%s lies outside of the channel's directory", path)
	}
	f, err := d.root.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{Body: f, Size: info.Size()}, nil
}

// local reports whether a source is a directory, whose files are not worth a copy.
func local(s Source) bool { _, ok := s.(dir); return ok }

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
