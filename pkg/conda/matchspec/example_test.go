package matchspec_test

import (
	"fmt"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

func ExampleParse() {
	spec, err := matchspec.Parse("conda-forge::numpy 1.26.* py312*", matchspec.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(spec.Canonical())
	fmt.Println(spec.Match(&matchspec.Candidate{
		Name:    "numpy",
		Version: version.MustParse("1.26.4"),
		Build:   "py312hc5e2394_0",
		Channel: "https://packages.example.org/conda-forge",
	}))
	_, err = matchspec.Parse("numpy[verison=1]", matchspec.Options{})
	fmt.Println(err)
	// Output:
	// conda-forge::numpy=1.26[build=py312*]
	// true
	// invalid match spec "numpy[verison=1]" at offset 6: there is no key "verison"
}
