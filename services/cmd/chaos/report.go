package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// printResult says what one run did, as soon as it has ended.
func printResult(out io.Writer, r *result) {
	var b strings.Builder
	name := r.Scenario
	if r.Without != "" {
		name += " without " + r.Without
	}
	verdict := "ok"
	switch {
	case !r.OK:
		verdict = "FAILED"
	case r.Without != "":
		verdict = "fails, as it must"
	}
	fmt.Fprintf(&b, "\n== %s: %s (%.1f s)\n", name, verdict, r.Elapsed)
	for _, d := range r.Done {
		fmt.Fprintf(&b, "   %s\n", d)
	}
	if r.Without == "" {
		fmt.Fprintf(&b, "   jobs %d, ended %d, lost %d, ledger rows %d, work went on after %.2f s\n", r.Queued, r.Terminal, r.Lost, r.LedgerRows, r.Recover)
		fmt.Fprintf(&b, "   reader: %d polls (%.0f/s), %d indexes, %d files, %d without an answer, %d violations\n",
			r.Reader.Polls, r.Reader.PerSecond, r.Reader.Indexes, r.Reader.Files, r.Reader.Outages, len(r.Reader.Violations))
	}
	if r.Error != "" {
		fmt.Fprintf(&b, "   %s\n", strings.ReplaceAll(shorten(r.Error), "\n", "\n   "))
	}
	fmt.Fprint(out, b.String())
}

func shorten(s string) string {
	const most = 3000
	if len(s) > most {
		return s[:most] + " …"
	}
	return s
}

// printTable sums up.
func printTable(out io.Writer, results []*result) {
	fmt.Fprintf(out, "\n%s", table(results))
}

// table is the summary in Markdown, for docs/benchmarks.md too.
func table(results []*result) string {
	results = slices.Clone(results)
	slices.SortStableFunc(results, func(a, b *result) int { return cmp.Compare(position(a.Scenario), position(b.Scenario)) })
	without := map[string]string{}
	for _, r := range results {
		if r.Without != "" {
			without[r.Scenario] = r.Without + ": fails"
			if !r.OK {
				without[r.Scenario] = r.Without + ": **DOES NOT FAIL**"
			}
		}
	}
	var b strings.Builder
	b.WriteString("| fault | jobs | lost | ledger rows | work goes on after | polls | unanswered | violations | without its guard |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		if r.Without != "" {
			continue
		}
		title := r.Title
		if !r.OK {
			title += " **FAILED**"
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %.2f s | %d | %d | %d | %s |\n", title, r.Queued, r.Lost, r.LedgerRows, r.Recover,
			r.Reader.Polls, r.Reader.Outages, len(r.Reader.Violations), without[r.Scenario])
	}
	return b.String()
}

func position(name string) int {
	return slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
}

// writeReport writes the numbers and the table.
func writeReport(path string, o *options, results []*result, elapsed time.Duration) error {
	mode := "full"
	if o.quick {
		mode = "quick"
	}
	data, err := json.MarshalIndent(struct {
		Time    string    `json:"time"`
		Mode    string    `json:"mode"`
		CPUs    int       `json:"cpus"`
		Go      string    `json:"go"`
		Seconds float64   `json:"seconds"`
		Table   []string  `json:"table"`
		Results []*result `json:"results"`
	}{
		time.Now().UTC().Format(time.RFC3339), mode, runtime.NumCPU(), runtime.Version(), elapsed.Seconds(),
		strings.Split(strings.TrimSpace(table(results)), "\n"), results,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// printReport prints the table of a report that was written before, for docs/benchmarks.md.
func printReport(out io.Writer, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var report struct {
		Results []*result `json:"results"`
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = io.WriteString(out, table(report.Results))
	return err
}
