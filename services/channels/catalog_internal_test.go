package channels

import (
	"testing"
	"time"
)

func TestTheNewestCatalogIsTheOneThatKnowsAllSubdirs(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	of := func(revision int64, at time.Time, subdirs ...string) *catalog {
		c := &catalog{Revision: revision, Time: at, Subdirs: map[string]catalogSubdir{}}
		for _, s := range subdirs {
			c.Subdirs[s] = catalogSubdir{}
		}
		return c
	}
	// Each came before the next.
	order := []*catalog{
		of(1, at.Add(time.Hour), "noarch", "linux-64", "osx-64"),
		of(2, at, "noarch"),
		of(2, at, "noarch", "linux-64"),
		of(2, at.Add(time.Second), "noarch"),
		of(3, at, "noarch"),
	}
	for i, a := range order {
		for j, b := range order {
			if got, want := b.newer(a), j > i; got != want {
				t.Errorf("catalog %d newer than %d: %t, want %t", j, i, got, want)
			}
		}
	}
}
