package install

import (
	"context"

	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
)

// Fetch brings packages into a cache and returns where each of them lies, in their order. Records that are incomplete are
// completed, and digests that are missing are filled in. A prefix is not needed: packs and images are made of the unpacked packages alone.
func Fetch(ctx context.Context, packages []Package, cache *pkgcache.Cache, source pkgcache.Source) ([]pkgcache.Entry, error) {
	list := make([]*Package, len(packages))
	for i := range packages {
		list[i] = &packages[i]
	}
	return ensure(ctx, list, cache, source)
}

// ensure is Fetch. What was not known of a package but its archive tells is written into it: digests that nobody gave, and
// the record's rest if it is incomplete.
func ensure(ctx context.Context, packages []*Package, cache *pkgcache.Cache, source pkgcache.Source) ([]pkgcache.Entry, error) {
	list := make([]pkgcache.Package, len(packages))
	for i, p := range packages {
		record, err := repodataJSON(p)
		if err != nil {
			return nil, err
		}
		list[i] = *cachePackage(p)
		list[i].Record = record
	}
	got, err := cache.Ensure(ctx, source, list)
	if err != nil {
		return nil, err
	}
	for i, p := range packages {
		if p.SHA256 == "" {
			p.SHA256 = got[i].SHA256
		}
		if p.MD5 == "" {
			p.MD5 = got[i].MD5
		}
		if p.Incomplete {
			if err := p.complete(got[i].Dir); err != nil {
				return nil, err
			}
		}
	}
	return got, nil
}
