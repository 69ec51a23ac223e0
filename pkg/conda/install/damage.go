package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// DamagedError says that a file in the package cache is not what its package says. A program wrote into a linked file of
// some environment, or the package's own list is wrong.
type DamagedError struct {
	Package string // name
	Path    string // in the package
}

// Error implements error.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s: %s in the package cache is not what the package lists", e.Package, e.Path)
}

// fresh are packages that were fetched anew because something in the cache was damaged. Their archives are what their
// digests say, so if a file is still not as they list it, the list is wrong: there is nothing better to be had.
type fresh struct {
	mu    sync.Mutex
	names map[string]bool
}

// renew makes the cache fit to be used again after a file in it turned out to be damaged: what of want is not as it was
// unpacked is removed, and so fetched anew.
func (o *Options) renew(ctx context.Context, damaged *DamagedError, want []Package) (*fresh, error) {
	f := &fresh{names: map[string]bool{}}
	for i := range want {
		p := cachePackage(&want[i])
		if _, ok := o.Cache.Lookup(p); !ok {
			continue
		}
		if want[i].Name != damaged.Package && o.Cache.Check(p) == nil {
			continue
		}
		f.names[want[i].Name] = true
		if err := o.Cache.Remove(ctx, p); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// damaged is what it means that a file of the cache differs from its package's list: an error the first time, a warning
// for a package that was fetched just now.
func (a *actor) damaged(it *item, e *link.Entry) error {
	err := &DamagedError{Package: it.name(), Path: e.Source}
	f := a.o.fresh
	if f == nil || !f.names[it.name()] {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a.o.warn(it.stem(), e.Source+" is not what the package's own list says")
	return nil
}

// checkSize compares the size of a file in the cache with what is listed.
func (w *worker) checkSize(it *item, e *link.Entry, size int64) error {
	if e.Type == link.SoftLink || e.SHA256 == "" || e.Size < 0 || size == e.Size {
		return nil
	}
	return w.a.damaged(it, e)
}

// checkSum compares the digest of a file in the cache with what is listed.
func (w *worker) checkSum(it *item, e *link.Entry, sum string) error {
	if e.Type == link.SoftLink || e.SHA256 == "" || strings.EqualFold(sum, e.SHA256) {
		return nil
	}
	return w.a.damaged(it, e)
}

// checkSource reads a file of the cache through, and rewinds it.
func (w *worker) checkSource(it *item, e *link.Entry, src io.Reader) error {
	s, ok := src.(io.Seeker)
	if !ok || e.Type == link.SoftLink || e.SHA256 == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, src); err != nil {
		return err
	}
	if err := w.checkSum(it, e, hex.EncodeToString(h.Sum(nil))); err != nil {
		return err
	}
	_, err := s.Seek(0, io.SeekStart)
	return err
}
