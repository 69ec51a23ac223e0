package metricstest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestCommand: `entrepot channel metrics` on a platform.
func TestCommand(t *testing.T) {
	s := platformtest.Start(t)
	f := upload(t, s, "channel0")[0]
	fetch(t, s.URL, "/get/channel0/"+f.path(), 3)
	settled(t, s.Anonymous(), "channel0", 3)
	t.Setenv("ENTREPOT_SERVER", s.URL)
	t.Setenv("ENTREPOT_API_KEY", s.AdminKey)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := cli.Root()
		root.SetArgs(append([]string{"channel", "metrics"}, args...))
		root.SetOut(&out)
		root.SetErr(&out)
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, row := range []struct {
		args []string
		want []string
	}{
		{[]string{"channel0"}, []string{"Downloads:", "Packages:", f.pkg, "Files:", f.path()}},
		{[]string{"channel0", "--top", "0", "--interval", "hour", "--since", "30d"}, []string{"Downloads:", ":00"}},
		{[]string{"channel0", "--interval", "year", "-o", "json"}, []string{`"INTERVAL_YEAR"`, `"total": 3`, `"count": 3`}},
		{[]string{"channel0", "--since", "2099-01-01"}, []string{"Shown:"}},
		{[]string{"channel0", "--pull"}, []string{"entrepot job follow"}},
	} {
		out, err := run(row.args...)
		for _, want := range row.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%v: %v, no %q in\n%s", row.args, err, want, out)
			}
		}
	}
	for _, args := range [][]string{{"channel0", "--interval", "week"}, {"channel0", "--top", "-1"}, {"channel0", "--since", "soon"}, {"none"}} {
		if out, err := run(args...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
	// The pull ends before the platform does.
	eventually(t, "the pull", func() bool {
		return query[int](t, s, `SELECT count(*) FROM jobs.jobs WHERE kind = 'metrics.pull' AND state = 'succeeded'`)[0] == 1
	})
}
