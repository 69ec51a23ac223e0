package condacli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// renewal fetches packages again whose unpacked files somebody has written to.
type renewal struct {
	cache  *pkgcache.Cache
	source pkgcache.Source
	errs   io.Writer
	done   map[string]bool // by name of the package
}

// again calls make until no package is found to be changed, each of which is fetched once more. make is called with the
// same packages, of which those that were fetched again lie elsewhere.
func (r *renewal) again(ctx context.Context, packages []segment.Package, make func() error) error {
	for {
		err := make()
		var changed *segment.ChangedError
		if !errors.As(err, &changed) || r.done[changed.Package.Name] {
			return err
		}
		if renewErr := r.renew(ctx, packages, changed); renewErr != nil {
			return fmt.Errorf("%w; it could not be fetched again: %w", err, renewErr)
		}
	}
}

func (r *renewal) renew(ctx context.Context, packages []segment.Package, changed *segment.ChangedError) error {
	for i := range packages {
		p := &packages[i]
		if p.Name != changed.Package.Name {
			continue
		}
		r.done[p.Name] = true
		key := &pkgcache.Package{FileName: p.FileName, URL: p.URL, SHA256: p.SHA256, MD5: p.MD5, Size: int64(p.Size)}
		if err := r.cache.CheckOrRemove(ctx, key); err != nil {
			return err
		}
		one := []install.Package{p.Package}
		entries, err := install.Fetch(ctx, one, r.cache, r.source)
		if err != nil {
			return err
		}
		p.Package, p.Dir = one[0], entries[0].Dir
		fmt.Fprintf(r.errs, "entrepot: warning: %s: something had written to %s; the package was unpacked again\n", p.FileName, changed.Path)
		if err := r.cache.Check(key); err != nil {
			// Its archive has the digest that it must have, so the list in it is wrong.
			fmt.Fprintf(r.errs, "entrepot: warning: %v: its list of files is wrong, and is not heeded\n", err)
			p.Unlisted = true
		}
		return nil
	}
	return nil
}

// begun notes whether something was written: what is made again must not be appended to that.
type begun struct {
	io.Writer
	yes bool
}

// Write implements io.Writer.
func (b *begun) Write(p []byte) (int, error) {
	b.yes = b.yes || len(p) > 0
	return b.Writer.Write(p)
}
