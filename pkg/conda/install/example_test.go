package install_test

import (
	"fmt"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Diff says what Install would do.
func ExampleDiff() {
	record := func(name, version, digest string) repodata.Record {
		return repodata.Record{Name: name, Version: version, Build: "0", SHA256: digest}
	}
	have := []*install.Record{
		{Record: record("python", "3.12.4", "aa")},
		{Record: record("numpy", "1.26.4", "bb")},
		{Record: record("left-over", "1.0", "cc")},
	}
	want := []install.Package{
		{Record: record("python", "3.12.4", "aa")},
		{Record: record("numpy", "2.0.0", "dd")},
		{Record: record("scipy", "1.14.0", "ee")},
	}
	change, err := install.Diff(have, want, "linux-64", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("keep", change.Keep[0].Name)
	fmt.Println("remove", change.Remove[0].Name)
	fmt.Println("install", change.Install[0].Name)
	fmt.Println("replace", change.Replace[0].Old.Version, "by", change.Replace[0].New.Version)
	// Output:
	// keep python
	// remove left-over
	// install scipy
	// replace 1.26.4 by 2.0.0
}
