package version_test

import (
	"fmt"
	"slices"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

func ExampleCompare() {
	var vs []version.Version
	for _, s := range []string{"1.1", "1.1.post1", "1.1rc1", "1.1.dev0", "1!0.1"} {
		vs = append(vs, version.MustParse(s))
	}
	slices.SortFunc(vs, version.Compare)
	fmt.Println(vs)
	// Output: [1.1rc1 1.1.dev0 1.1 1.1.post1 1!0.1]
}

func ExampleSpec_Match() {
	spec := version.MustParseSpec(">=1.8,<2|3.1.*")
	for _, s := range []string{"1.8.1", "2.0", "3.1.4"} {
		fmt.Println(s, spec.Match(version.MustParse(s)))
	}
	// Output:
	// 1.8.1 true
	// 2.0 false
	// 3.1.4 true
}
