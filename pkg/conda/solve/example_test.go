package solve_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

// A channel is read, an index made of it, and two requests are solved: one has an answer, the other an explanation.
func Example() {
	repo, err := solve.ReadRepo("https://packages.example.org/tools", "noarch", strings.NewReader(`{"packages.conda": {
	  "app-1.0-0.conda": {"name": "app", "version": "1.0", "build": "0", "depends": ["lib >=2", "__unix"]},
	  "lib-1.0-0.conda": {"name": "lib", "version": "1.0", "build": "0"},
	  "lib-2.1-0.conda": {"name": "lib", "version": "2.1", "build": "0"}
	}}`), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	index, err := solve.NewIndex([]solve.Repo{repo})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, specs := range [][]matchspec.Spec{
		{matchspec.MustParse("app")},
		{matchspec.MustParse("app"), matchspec.MustParse("lib <2")},
	} {
		solution, err := index.Solve(context.Background(), solve.Request{
			Specs:   specs,
			Virtual: virtual.Defaults("linux-64"),
		})
		var unsolvable *solve.UnsolvableError
		if errors.As(err, &unsolvable) {
			fmt.Println(unsolvable)
			continue
		}
		for _, p := range solution.Packages {
			fmt.Println(p)
		}
	}
	// Output:
	// app 1.0 0
	// lib 2.1 0
	// the request cannot be met, because these exclude each other:
	// ├─ app
	// │  └─ app 1.0 0 needs lib >=2, that is lib 2.1 0
	// └─ lib <2, that is lib 1.0 0
}
