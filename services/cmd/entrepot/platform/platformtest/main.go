package platformtest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/bus/bustest"
)

// Main is the TestMain of a package whose tests run the platform: it fails if goroutines are left when all have ended.
// closeIdle are the package's own clients, whose unused connections would look like leaks.
func Main(m *testing.M, closeIdle ...func()) {
	code := m.Run()
	CloseIdle()
	for _, f := range closeIdle {
		f()
	}
	if code == 0 {
		if err := goleak.Find(bustest.Leftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
