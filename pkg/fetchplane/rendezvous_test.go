package fetchplane

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAProcessThatGoesMovesOnlyItsOwnFiles(t *testing.T) {
	all := []string{"http://a:1", "http://b:1", "http://c:1"}
	without := []string{"http://c:1", "http://a:1"}
	share := map[string]int{}
	for i := range 3000 {
		key := fmt.Sprintf("channel\x00noarch/p-%d.conda", i)
		before, after := Order(all, key), Order(without, key)
		share[before[0]]++
		if before[0] == "http://b:1" {
			if after[0] != before[1] {
				t.Fatalf("%q goes to %s, and not to the next, %s", key, after[0], before[1])
			}
		} else if after[0] != before[0] {
			t.Fatalf("%q moves from %s to %s", key, before[0], after[0])
		}
	}
	for node, n := range share {
		if n < 850 || n > 1150 {
			t.Errorf("%s has %d of 3000 files", node, n)
		}
	}
}

func TestIndexFilesOfADirectoryShareAPlane(t *testing.T) {
	want := RouteKey("c", "noarch/repodata.json")
	for _, path := range []string{"noarch/repodata.json.zst", "noarch/repodata_shards.msgpack.zst", "noarch/current_repodata.json"} {
		if diff := cmp.Diff(want, RouteKey("c", path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	for _, path := range []string{"linux-64/repodata.json", "noarch/a-1-0.conda", "x"} {
		if RouteKey("c", path) == want {
			t.Errorf("%s goes with noarch's index", path)
		}
	}
}
