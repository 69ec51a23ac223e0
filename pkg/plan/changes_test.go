package plan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/plan"
)

// compare stores two plans and returns all that Compare says of them.
func compare(t fataler, store blob.Store, base, next []*channelsv1.PlanEntry) (entries []*channelsv1.PlanEntry, gone []string, same int64) {
	t.Helper()
	c, err := plan.Compare(t.Context(), store, stored(t, store, base), stored(t, store, next), plan.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Base().GetEntries() != int64(len(base)) || c.Header().GetEntries() != int64(len(next)) {
		t.Fatal("headers are mixed up")
	}
	for {
		e, path, err := c.Next()
		switch {
		case err == io.EOF:
			for got, list := range map[*[]string][]*channelsv1.PlanEntry{new(c.BaseDirs()): base, new(c.Dirs()): next} {
				var want []string
				for _, e := range list {
					dir, _, _ := strings.Cut(e.GetPath(), "/")
					want = append(want, dir)
				}
				if want = slices.Compact(want); !slices.Equal(*got, want) {
					t.Fatal(*got, want)
				}
			}
			return entries, gone, c.Same()
		case err != nil:
			t.Fatal(err)
		case e != nil:
			entries = append(entries, e)
		default:
			gone = append(gone, path)
		}
	}
}

type fataler interface {
	Helper()
	Context() context.Context
	Fatal(args ...any)
}

func stored(t fataler, store blob.Store, entries []*channelsv1.PlanEntry) blob.Digest {
	t.Helper()
	data, err := write(&channelsv1.PlanHeader{Format: "conda", Entries: int64(len(entries))}, entries...)
	if err != nil {
		t.Fatal(err)
	}
	info, err := store.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Digest
}

func TestCompareNamesWhatDiffers(t *testing.T) {
	store := new(blobtest.Memory)
	changed := entry("noarch/c-1-0.conda")
	changed.Record = []byte(`{"name":"other"}`)
	kept := &channelsv1.PlanEntry{Path: "noarch/k-1-0.conda", Keep: true, Arch: "noarch"}
	base := []*channelsv1.PlanEntry{entry("noarch/a-1-0.conda"), entry("noarch/b-1-0.conda"), entry("noarch/c-1-0.conda"), kept, entry("noarch/z-1-0.conda")}
	next := []*channelsv1.PlanEntry{entry("linux-64/a-1-0.conda"), entry("noarch/a-1-0.conda"), changed, kept, entry("noarch/z-1-0.conda"), entry("noarch/z-2-0.conda")}
	entries, gone, same := compare(t, store, base, next)
	if d := cmp.Diff([]*channelsv1.PlanEntry{next[0], changed, kept, next[5]}, entries, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"noarch/b-1-0.conda"}, gone); d != "" || same != 2 {
		t.Errorf("%s; %d are the same", d, same)
	}
}

func TestCompareAgreesWithReadingBoth(t *testing.T) {
	store := new(blobtest.Memory)
	rapid.Check(t, func(rt *rapid.T) {
		some := func(label string) (out []*channelsv1.PlanEntry) {
			for i := range 40 {
				switch rapid.IntRange(0, 5).Draw(rt, fmt.Sprint(label, i)) {
				case 0:
				case 1:
					e := entry(fmt.Sprintf("noarch/p-%02d-0.conda", i))
					e.Version = label
					out = append(out, e)
				case 2:
					out = append(out, &channelsv1.PlanEntry{Path: fmt.Sprintf("noarch/p-%02d-0.conda", i), Keep: true, Arch: "noarch"})
				default:
					out = append(out, entry(fmt.Sprintf("noarch/p-%02d-0.conda", i)))
				}
			}
			return out
		}
		base, next := some("base"), some("next")
		entries, gone, same := compare(rt, store, base, next)
		find := func(list []*channelsv1.PlanEntry, path string) *channelsv1.PlanEntry {
			i := slices.IndexFunc(list, func(e *channelsv1.PlanEntry) bool { return e.GetPath() == path })
			if i < 0 {
				return nil
			}
			return list[i]
		}
		var wantEntries []*channelsv1.PlanEntry
		var wantGone []string
		var wantSame int64
		for _, e := range next {
			if b := find(base, e.GetPath()); b == nil || e.GetKeep() || cmp.Diff(b, e, protocmp.Transform()) != "" {
				wantEntries = append(wantEntries, e)
			} else {
				wantSame++
			}
		}
		for _, e := range base {
			if find(next, e.GetPath()) == nil {
				wantGone = append(wantGone, e.GetPath())
			}
		}
		if d := cmp.Diff(wantEntries, entries, protocmp.Transform()) + cmp.Diff(wantGone, gone); d != "" || same != wantSame {
			rt.Fatal(d, same, wantSame)
		}
	})
}

func TestCompareGoesOverManyPages(t *testing.T) {
	store := new(blobtest.Memory)
	var base, next []*channelsv1.PlanEntry
	for i := range 3000 {
		e := entry(fmt.Sprintf("noarch/p-%05d-0.conda", i))
		e.Record = []byte(`{"name":"` + strings.Repeat("x", 500) + `"}`)
		if base = append(base, e); i%1000 != 999 {
			next = append(next, e)
		}
	}
	big := entry("noarch/q-1-0.conda")
	big.Record = []byte(`{"name":"` + strings.Repeat("x", 1<<20) + `"}`)
	entries, gone, same := compare(t, store, base, append(next, big))
	if len(entries) != 1 || len(gone) != 3 || same != 2997 {
		t.Error(len(entries), gone, same)
	}
}

func TestCompareTellsWhichPlanIsBroken(t *testing.T) {
	store := new(blobtest.Memory)
	sound := stored(t, store, []*channelsv1.PlanEntry{entry("noarch/a-1-0.conda"), entry("noarch/b-1-0.conda")})
	put := func(data []byte) blob.Digest {
		info, err := store.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return info.Digest
	}
	head := &channelsv1.PlanHeader{Version: plan.Version, Format: "conda", Entries: 2}
	for name, bad := range map[string]blob.Digest{
		"too few":      put(raw(t, head, entry("noarch/a-1-0.conda"))),
		"too many":     put(raw(t, head, entry("noarch/a-1-0.conda"), entry("noarch/b-1-0.conda"), entry("noarch/c-1-0.conda"))),
		"out of order": put(raw(t, head, entry("noarch/a-1-0.conda"), entry("linux-64/b-1-0.conda"))),
		"cut":          put(raw(t, head, entry("noarch/a-1-0.conda"), entry("noarch/b-1-0.conda"))[:40]),
		"nothing":      put(nil),
		"not there":    blob.Sum([]byte("nobody has this")),
	} {
		t.Run(name, func(t *testing.T) {
			walk := func(base, next blob.Digest) error {
				c, err := plan.Compare(t.Context(), store, base, next, plan.Limits{})
				if err != nil {
					return err
				}
				defer c.Close()
				for {
					if _, _, err := c.Next(); err != nil {
						return err
					}
				}
			}
			var ours *plan.BaseError
			if err := walk(bad, sound); !errors.As(err, &ours) || !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound) {
				t.Errorf("as base: %v", err)
			}
			if err := walk(sound, bad); err == io.EOF || errors.As(err, &ours) || !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound) {
				t.Errorf("as next: %v", err)
			}
		})
	}
}

func TestCompareMayBeGivenUp(t *testing.T) {
	store := new(blobtest.Memory)
	var many []*channelsv1.PlanEntry
	for i := range 5000 {
		many = append(many, entry(fmt.Sprintf("noarch/p-%05d-0.conda", i)))
	}
	a, b := stored(t, store, many), stored(t, store, many[1:])
	c, err := plan.Compare(t.Context(), store, a, b, plan.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, gone, err := c.Next(); gone != many[0].GetPath() || err != nil {
		t.Error(gone, err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}
