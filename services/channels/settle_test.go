package channels_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whether a publication follows another one is told by that one's time; a channel that was described anew has none.
func TestAnUploadAfterAnotherChangeIsIndexedAtOnce(t *testing.T) {
	b := setup(t)
	b.hosted("c")
	exec := func(sql string) {
		t.Helper()
		if _, err := b.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	states := func() (states []string) {
		t.Helper()
		if err := b.pool.QueryRow(t.Context(), `SELECT array_agg(DISTINCT state) FROM jobs.jobs WHERE kind = 'channels.index'`).Scan(&states); err != nil {
			t.Fatal(err)
		}
		return states
	}
	b.mustUpload("c", spec{name: "a", version: "1.0"})
	for what, want := range map[string]string{
		`UPDATE channels.channels SET updated_at = clock_timestamp()`:                                                                                    "queued", // as another description does
		`UPDATE channels.revisions SET created_at = clock_timestamp() + interval '1 minute' WHERE number = (SELECT max(number) FROM channels.revisions)`: "scheduled",
	} {
		exec(`DELETE FROM jobs.outbox`)
		exec(`DELETE FROM jobs.jobs`)
		exec(`UPDATE channels.revisions SET created_at = created_at - interval '1 hour'`)
		exec(what)
		b.mustUpload("c", spec{name: "b", version: fmt.Sprint(len(want))})
		if diff := cmp.Diff([]string{want}, states()); diff != "" {
			t.Errorf("after %s: %s", what, diff)
		}
	}
}
