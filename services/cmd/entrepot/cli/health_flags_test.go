package cli_test

import (
	"strings"
	"testing"
)

func TestFlagsThatAreNoSettingsAreNotReadAsSettings(t *testing.T) {
	out, err := run(t, "health", "--live", "--ops-addr", "127.0.0.1:1")
	if err == nil || strings.Contains(err.Error(), "configuration") || strings.Contains(err.Error(), "unknown") {
		t.Errorf("health --live of a server that is not there: %v\n%s", err, out)
	}
}
