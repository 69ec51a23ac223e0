package condacli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Answers of a solve, as its JSON spells them.
const (
	solved     = "solved"
	unsolvable = "unsolvable"
	failed     = "error" // of a line of --batch only
)

// answer is what a solve prints with --json.
type answer struct {
	Status      string   `json:"status"`
	Records     []record `json:"records"`
	Explanation string   `json:"explanation,omitempty"`
	Error       string   `json:"error,omitempty"`
	Timings     timings  `json:"timings_ms"`
}

type timings struct {
	Load  float64 `json:"load"`
	Solve float64 `json:"solve"`
}

// record is a chosen package.
type record struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Build       string   `json:"build"`
	BuildNumber uint64   `json:"build_number"`
	Subdir      string   `json:"subdir"`
	Channel     string   `json:"channel"`
	FileName    string   `json:"fn"`
	URL         string   `json:"url"`
	SHA256      string   `json:"sha256,omitempty"`
	MD5         string   `json:"md5,omitempty"`
	Size        uint64   `json:"size,omitempty"`
	Timestamp   int64    `json:"timestamp,omitempty"`
	License     string   `json:"license,omitempty"`
	Depends     []string `json:"depends"`
	Constrains  []string `json:"constrains,omitempty"`
}

func recordOf(p *solve.Package) record {
	depends := p.Depends
	if depends == nil {
		depends = []string{}
	}
	return record{
		Name: p.Name, Version: p.Version, Build: p.Build, BuildNumber: p.BuildNumber, Subdir: p.Subdir, Channel: p.Channel, FileName: p.FileName,
		URL: p.Location(), SHA256: p.SHA256, MD5: p.MD5, Size: p.Size, Timestamp: p.Timestamp, License: p.License,
		Depends: depends, Constrains: p.Constrains,
	}
}

// answers is what is printed of several platforms.
type answers struct {
	Platforms map[string]*answer `json:"platforms"`
}

// plain is the answer itself where there is one platform.
func (a *answers) plain() any {
	if len(a.Platforms) == 1 {
		for _, ans := range a.Platforms {
			return ans
		}
	}
	return a
}

// print is for people.
func (a *answers) print(out, errs io.Writer) error {
	for i, platform := range slices.Sorted(maps.Keys(a.Platforms)) {
		ans, title := a.Platforms[platform], ""
		if len(a.Platforms) > 1 {
			title = platform + ":\n"
			if i > 0 {
				title = "\n" + title
			}
		}
		if ans.Status != solved {
			fmt.Fprintln(errs, title+ans.Explanation)
			continue
		}
		if _, err := io.WriteString(out, title); err != nil {
			return err
		}
		if err := writeTable(out, ans.Records); err != nil {
			return err
		}
		var total uint64
		for _, r := range ans.Records {
			total += r.Size
		}
		if _, err := fmt.Fprintf(out, "\n%d packages, %s\n", len(ans.Records), size(total)); err != nil {
			return err
		}
	}
	return nil
}

// answerOf is what is printed of a solve that took so many milliseconds.
func answerOf(sol *solve.Solution, err error, took float64) (*answer, error) {
	ans := &answer{Status: solved, Records: []record{}, Timings: timings{Solve: took}}
	var no *solve.UnsolvableError
	switch {
	case errors.As(err, &no):
		ans.Status, ans.Explanation = unsolvable, no.Error()
	case errors.Is(err, solve.ErrNoSpecs):
		return nil, fault.Field("specs", "%v", err)
	case err != nil:
		return nil, err
	default:
		for _, p := range sol.Packages {
			ans.Records = append(ans.Records, recordOf(p))
		}
	}
	return ans, nil
}

func writeJSON(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

func writeTable(w io.Writer, records []record) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVERSION\tBUILD\tSUBDIR\tCHANNEL\tSIZE")
	for _, r := range records {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Version, r.Build, r.Subdir, lastPart(r.Channel), size(r.Size))
	}
	return t.Flush()
}

func lastPart(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// size prints bytes for a person; "-" if unknown.
func size(n uint64) string {
	switch {
	case n == 0:
		return "-"
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
