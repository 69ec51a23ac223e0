package install

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// inGroups hands a list to workers in groups that have a key in common: a directory, which a worker then has open. start
// makes what one worker does, and what it does at its end.
func inGroups[T any](ctx context.Context, workers int, list []T, key func(T) string, start func() (do func(T) error, end func())) error {
	if len(list) == 0 {
		return nil
	}
	keyed := make([]struct {
		key string
		n   int
	}, len(list))
	for i := range list {
		keyed[i].key, keyed[i].n = key(list[i]), i
	}
	slices.SortStableFunc(keyed, func(a, b struct {
		key string
		n   int
	},
	) int {
		return cmp.Compare(a.key, b.key)
	})
	var next atomic.Int64
	ends := []int{}
	for i := range keyed {
		if i > 0 && (keyed[i].key != keyed[i-1].key || i-lastOf(ends) >= groupSize) {
			ends = append(ends, i)
		}
	}
	ends = append(ends, len(keyed))
	g, ctx := errgroup.WithContext(ctx)
	for range min(workers, len(ends)) {
		g.Go(func() error {
			do, end := start()
			defer end()
			for {
				n := int(next.Add(1)) - 1
				if n >= len(ends) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				first := 0
				if n > 0 {
					first = ends[n-1]
				}
				for _, k := range keyed[first:ends[n]] {
					if err := do(list[k.n]); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}

func lastOf(list []int) int {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}
