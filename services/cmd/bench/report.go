package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is what one part measured; it is what the JSON files hold.
type report struct {
	Part       string    `json:"part"`
	Title      string    `json:"title"`
	Time       time.Time `json:"time"`
	Command    string    `json:"command"`
	Commit     string    `json:"commit"`
	Machine    machine   `json:"machine"`
	Durability string    `json:"durability"`
	Load       string    `json:"load"`
	Runs       int       `json:"runs"`
	Rows       []*row    `json:"rows"`
	// Notes are what a reader must know beside, such as versions.
	Notes []string `json:"notes,omitempty"`
}

// row is one figure.
type row struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	// Aim is what the project wants, "" if it says nothing.
	Aim string `json:"aim,omitempty"`
	// Met says whether the median reaches the aim.
	Met *bool `json:"met,omitempty"`
	// Beside is another program's figure for the same, measured elsewhere than in this run.
	Beside string `json:"beside,omitempty"`
}

// goal says what to print with a figure, and when it is good enough.
type goal struct {
	unit    string
	atLeast float64 // 0: none
	atMost  float64 // 0: none
	beside  string
}

// goals of all figures. What stands beside was measured with Quetz 0.10.4 on a machine of this kind.
var goals = map[string]goal{
	"first sync":                        {unit: "packages/s", atLeast: 1500, beside: "Quetz 6–14"},
	"CPU per package, entrepot":         {unit: "ms", beside: "Quetz 19"},
	"CPU per package, its PostgreSQL":   {unit: "ms"},
	"first sync, peer":                  {unit: "packages/s"},
	"re-sync":                           {unit: "ms", atMost: 50, beside: "Quetz 35,000"},
	"re-sync, peer":                     {unit: "ms"},
	"memory, idle":                      {unit: "MiB VmHWM"},
	"memory, syncing":                   {unit: "MiB VmHWM"},
	"memory of its PostgreSQL, idle":    {unit: "MiB PSS"},
	"memory of its PostgreSQL, syncing": {unit: "MiB PSS"},

	"first sync until repodata.json.zst lists all": {unit: "s"},

	"upload answered":                         {unit: "ms"},
	"upload answered, peer":                   {unit: "ms"},
	"upload until the shard index shows it":   {unit: "ms", beside: "Quetz has no shards"},
	"upload until repodata.json.zst shows it": {unit: "ms", beside: "Quetz 4,200"},

	"upload until repodata.json.zst shows it, peer": {unit: "ms"},

	"large: first sync": {unit: "packages/s"},
	"large: first sync until repodata.json.zst lists all": {unit: "s"},
	"large: memory, first sync":                           {unit: "MiB VmHWM"},
	"large: memory, re-syncs":                             {unit: "MiB VmHWM", atMost: 150},
	"large: memory, publishing":                           {unit: "MiB VmHWM", atMost: 150},
	"large: re-sync, 304":                                 {unit: "ms", atMost: 50},
	"large: re-sync, 200, same bytes":                     {unit: "s", atMost: 3},
	"large: re-sync, 200, same records":                   {unit: "s", atMost: 3},
	"large: re-sync, 1 % new, besides the downloads":      {unit: "s", atMost: 3},
	"large: re-sync, 1 % new, downloads":                  {unit: "s"},
	"CPU, large: re-sync, 200, same bytes":                {unit: "s"},
	"CPU, large: re-sync, 200, same records":              {unit: "s"},
	"CPU, large: re-sync, 1 % new":                        {unit: "s"},
	"large: upload answered":                              {unit: "ms"},
	"large: upload until the shard index shows it":        {unit: "ms", atMost: 50, beside: "Quetz has no shards"},
	"large: upload until repodata.json.zst shows it":      {unit: "ms", atMost: 1000},
	"CPU, large: upload until repodata.json.zst shows it": {unit: "ms"},

	"cold, entrepot":                           {unit: "files/s"},
	"cold, nginx":                              {unit: "files/s"},
	"ratio, cold":                              {unit: "of nginx"},
	"warm, entrepot":                           {unit: "files/s"},
	"warm, nginx":                              {unit: "files/s"},
	"ratio, warm":                              {unit: "of nginx"},
	"CPU per file, cold, entrepot":             {unit: "ms"},
	"CPU per file, cold, nginx":                {unit: "ms"},
	"CPU per file, warm, entrepot":             {unit: "ms"},
	"CPU per file, warm, nginx":                {unit: "ms"},
	"one warm file, entrepot":                  {unit: "requests/s"},
	"one warm file, nginx":                     {unit: "requests/s"},
	"ratio, one warm file":                     {unit: "of nginx"},
	"CPU per request, one warm file, entrepot": {unit: "µs"},
	"CPU per request, one warm file, nginx":    {unit: "µs"},

	"index: from nothing, entrepot":               {unit: "s"},
	"index: from nothing, rattler-index":          {unit: "s"},
	"index: from nothing, ratio to rattler-index": {unit: "times", atLeast: 1.5},
	"index: from nothing, conda-index":            {unit: "s"},
	"index: from nothing, ratio to conda-index":   {unit: "times", atLeast: 4},
	"index: one more, entrepot":                   {unit: "s"},
	"index: one more, rattler-index":              {unit: "s"},
	"index: one more, ratio to rattler-index":     {unit: "times", atLeast: 1.5},
	"index: one more, conda-index":                {unit: "s"},
	"index: one more, ratio to conda-index":       {unit: "times", atLeast: 4},

	"durable jobs":                              {unit: "jobs/s", atLeast: 1000},
	"CPU per job, with its submitter":           {unit: "ms"},
	"CPU per job, PostgreSQL":                   {unit: "ms"},
	"rate of the fixed load":                    {unit: "jobs/s"},
	"enqueue until ended, p50":                  {unit: "ms"},
	"enqueue until ended, p99":                  {unit: "ms", atMost: 50},
	"enqueue until ended, greatest":             {unit: "ms"},
	"PostgreSQL alone, dequeue, 1 connection":   {unit: "rows/s"},
	"PostgreSQL alone, dequeue, 16 connections": {unit: "rows/s"},

	"metrics: rate of the fixed load":                       {unit: "downloads/s", atLeast: 9900},
	"metrics: from the last download until all are counted": {unit: "ms", atMost: 3000},
	"metrics: adding what waited":                           {unit: "downloads/s", atLeast: 10_000},
	"CPU per 1,000 downloads, gateways and metrics":         {unit: "ms"},
	"CPU per 1,000 downloads, PostgreSQL":                   {unit: "ms"},

	"memory before, shard index":                 {unit: "MiB RSS"},
	"memory with all clients, shard index":       {unit: "MiB VmHWM"},
	"rate, shard index":                          {unit: "answers/s"},
	"throughput, shard index":                    {unit: "MiB/s"},
	"CPU per answer, shard index":                {unit: "ms"},
	"memory before, repodata.json.zst":           {unit: "MiB RSS"},
	"memory with all clients, repodata.json.zst": {unit: "MiB VmHWM", atMost: 150},
	"rate, repodata.json.zst":                    {unit: "answers/s"},
	"throughput, repodata.json.zst":              {unit: "MiB/s"},
	"CPU per answer, repodata.json.zst":          {unit: "ms"},

	"sync of 1,000, 1 % new":              {unit: "ms", atMost: 2000, beside: "Quetz 40,000"},
	"CPU, sync of 1,000, 1 % new":         {unit: "ms"},
	"sync of 1,000, nothing changed":      {unit: "ms", atMost: 100, beside: "Quetz 10,000 (of 2,000)"},
	"CPU, sync of 1,000, nothing changed": {unit: "ms", atMost: 140, beside: "Quetz 7,000"},

	"install 28,600 files, entrepot":              {unit: "s", atMost: 0.6},
	"install 28,600 files, entrepot, not flushed": {unit: "s"},
	"install 28,600 files, py-rattler":            {unit: "s"},
	"ratio, install 28,600 files":                 {unit: "× py-rattler", atLeast: 1},

	"uploads back to back":           {unit: "uploads/s"},
	"CPU per upload, entrepot":       {unit: "ms"},
	"CPU per upload, its PostgreSQL": {unit: "ms"},
}

// rowSet adds values to a report's rows, in the order in which they were first heard of.
type rowSet struct {
	r      *report
	byName map[string]*row
	goals  map[string]goal
}

func newRows(r *report) *rowSet { return &rowSet{r, map[string]*row{}, goals} }

// add notes one value. A name without an entry in goals is a mistake in this program.
func (s *rowSet) add(name string, v float64) {
	x := s.byName[name]
	if x == nil {
		g, ok := s.goals[name]
		if !ok {
			panic("bench: no unit for " + name)
		}
		x = &row{Name: name, Unit: g.unit, Beside: g.beside}
		s.byName[name] = x
		s.r.Rows = append(s.r.Rows, x)
	}
	x.Values = append(x.Values, v)
	x.settle(s.goals[name])
}

func (x *row) settle(g goal) {
	sorted := slices.Sorted(slices.Values(x.Values))
	n := len(sorted)
	x.Min, x.Max, x.Median = sorted[0], sorted[n-1], (sorted[(n-1)/2]+sorted[n/2])/2
	met := false
	switch {
	case g.atLeast > 0:
		x.Aim, met = "≥ "+number(g.atLeast), x.Median >= g.atLeast
	case g.atMost > 0:
		x.Aim, met = "≤ "+number(g.atMost), x.Median <= g.atMost
	default:
		return
	}
	x.Met = &met
}

// number writes a figure with three digits or more, and commas between thousands.
func number(v float64) string {
	switch {
	case v >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	s := fmt.Sprintf("%.2f", v)
	return strings.TrimSuffix(strings.TrimSuffix(s, "0"), ".0")
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "durability: %s\nload: %s\n", r.Durability, r.Load)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", n)
	}
	for _, x := range r.Rows {
		fmt.Fprintf(w, "  %-52s %10s %-12s (%s … %s, n=%d)", x.Name, number(x.Median), x.Unit, number(x.Min), number(x.Max), len(x.Values))
		if x.Met != nil {
			fmt.Fprintf(w, "  aim %s: %s", x.Aim, met(*x.Met))
		}
		if x.Beside != "" {
			fmt.Fprintf(w, "  [%s]", x.Beside)
		}
		fmt.Fprintln(w)
	}
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

// write saves the report and returns the file's path.
func (r *report) write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, r.Time.Format(time.DateOnly)+"-"+r.Part+".json")
	return path, os.WriteFile(path, append(data, '\n'), 0o644)
}

// render writes docs/benchmarks.md anew from the newest report of each part.
func render(docs string) error {
	var out strings.Builder
	out.WriteString(`# Benchmarks

Written by ` + "`make bench`" + ` (services/cmd/bench) from the files in docs/benchmarks; do not edit. Where another page names another
figure, this one counts.

Unless a section says otherwise, everything is measured over REST against a real ` + "`entrepot serve`" + ` with default settings and durability; only addresses,
the data directory and leave to mirror from loopback are given. Blob store and database are empty at the start, and no
package has bytes that any run before had. Client, upstream and server share the machine's processors; CPU times are the
server's own. Figures are medians, with the least and the greatest value; ratios are taken within one run.
`)
	for _, p := range parts {
		// Dates sort as text, so the last one is the newest.
		paths, err := filepath.Glob(filepath.Join(docs, "benchmarks", "*-"+p.name+".json"))
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			continue
		}
		path := slices.Max(paths)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.markdown(&out, filepath.Base(path))
	}
	return os.WriteFile(filepath.Join(docs, "benchmarks.md"), []byte(out.String()), 0o644)
}

func (r *report) markdown(w io.Writer, file string) {
	m := r.Machine
	fmt.Fprintf(w, "\n## %s\n\n| what | unit | median | least … greatest | values | aim | beside it |\n|---|---|---:|---:|---:|---|---|\n", r.Title)
	for _, x := range r.Rows {
		aim := ""
		if x.Met != nil {
			aim = x.Aim + ", " + met(*x.Met)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s … %s | %d | %s | %s |\n", x.Name, x.Unit, number(x.Median), number(x.Min), number(x.Max), len(x.Values), aim, x.Beside)
	}
	fmt.Fprintf(w, "\n- Load: %s.\n- Runs: %d. Durability: %s.\n", r.Load, r.Runs, r.Durability)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "- %s.\n", n)
	}
	fmt.Fprintf(w, "- Machine: %s, %d cores, %s MiB, Linux %s, %s on %s, %s.\n", m.CPU, m.Cores, number(float64(m.MemoryMiB)), m.Kernel, m.Filesystem, m.Device, m.Go)
	fmt.Fprintf(w, "- %s, commit %s: `%s`; raw values: [%s](benchmarks/%s).\n", r.Time.Format(time.DateOnly), r.Commit, r.Command, file, file)
}
