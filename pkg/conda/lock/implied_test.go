package lock_test

import (
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
)

func TestABuildNumberIsAllDigitsAtTheEndOfTheBuild(t *testing.T) {
	for build, want := range map[string]uint64{"py35_4": 4, "1": 1, "h123": 123, "py_a5": 5, "h1a": 0, "py_0": 0} {
		text := "version: 6\nenvironments:\n  default:\n    channels:\n    - url: https://host/c/\n    packages:\n      linux-64:\n      - conda: https://host/c/linux-64/x-1.0-" + build + ".conda\n" +
			"packages:\n- conda: https://host/c/linux-64/x-1.0-" + build + ".conda\n  sha256: " + strings.Repeat("0", 64) + "\n  timestamp: 1700000000000\n  indexed_timestamp: 1700000000001\n"
		p, err := lock.ParsePixi([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		list, err := p.Packages("default", "linux-64")
		if err != nil || list[0].BuildNumber != want || list[0].IndexedTimestamp != 1700000000001 {
			t.Errorf("%s: %v, %d, %d", build, err, list[0].BuildNumber, list[0].IndexedTimestamp)
		}
		again, err := lock.NewPixi(6, map[string]lock.PixiEnvironment{"default": {Channels: []string{"https://host/c/"}, Packages: map[string][]lock.Package{"linux-64": list}}})
		if err != nil {
			t.Fatal(err)
		}
		if out := string(again.Bytes()); strings.Contains(out, "build_number") || !strings.Contains(out, "  indexed_timestamp: 1700000000001\n") {
			t.Errorf("%s is written as\n%s", build, out)
		}
	}
}
