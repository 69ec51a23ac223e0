package install

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// probeEnv has the test's own program try to reach the socket of that name, and say how that went.
const probeEnv = "ENTREPOT_INSTALL_PROBE"

var probe = func(string) {}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	if name := os.Getenv(probeEnv); name != "" {
		probe(name)
		return
	}
	goleak.VerifyTestMain(m)
}
