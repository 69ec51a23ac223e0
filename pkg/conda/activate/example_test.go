package activate_test

import (
	"fmt"

	"github.com/entrepot-dev/entrepot/pkg/conda/activate"
)

// Variables is for programs that are started in an environment, without a shell.
func ExampleEnvironment_Variables() {
	env := &activate.Environment{Prefix: "/opt/envs/science", Vars: map[string]string{"OMP_NUM_THREADS": "1"}}
	for _, kv := range env.Variables([]string{"PATH=/usr/bin"}) {
		fmt.Printf("%q\n", kv)
	}
	// Output:
	// "CONDA_DEFAULT_ENV=science"
	// "CONDA_PREFIX=/opt/envs/science"
	// "CONDA_PROMPT_MODIFIER=(science) "
	// "CONDA_SHLVL=1"
	// "OMP_NUM_THREADS=1"
	// "PATH=/opt/envs/science/bin:/usr/bin"
}
