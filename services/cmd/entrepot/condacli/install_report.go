package condacli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// installReport is what install and repair print with --json.
type installReport struct {
	Status    string             `json:"status"` // installed, unchanged, dry-run, repaired
	Prefix    string             `json:"prefix"`
	Installed []installedPackage `json:"installed"`
	Removed   []installedPackage `json:"removed"`
	Replaced  []replacedPackage  `json:"replaced"`
	Unchanged int                `json:"unchanged"`
	Recovered string             `json:"recovered,omitempty"`
	Clobbers  []clobberedPath    `json:"clobbers,omitempty"`
	Problems  []problemPath      `json:"problems,omitempty"` // of repair: what was wrong
	Warnings  []string           `json:"warnings,omitempty"`
	Messages  []string           `json:"messages,omitempty"` // of link scripts
	Fetched   int64              `json:"fetched_bytes"`
	Files     installedFiles     `json:"files"`
	Timings   installTimings     `json:"timings_ms"`
}

type installTimings struct {
	Total float64 `json:"total"`
}

type installedFiles struct {
	Linked    int `json:"linked"`
	Copied    int `json:"copied"`
	Rewritten int `json:"rewritten"`
}

type installedPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Build   string `json:"build"`
	Channel string `json:"channel,omitempty"`
	URL     string `json:"url,omitempty"`
}

type replacedPackage struct {
	From installedPackage `json:"from"`
	To   installedPackage `json:"to"`
	Why  install.Why      `json:"why"`
}

type clobberedPath struct {
	Path   string   `json:"path"`
	Winner string   `json:"winner"`
	Losers []string `json:"losers"`
}

type problemPath struct {
	Package string          `json:"name"`
	Path    string          `json:"path"`
	What    install.Finding `json:"problem"`
}

func newReport(prefix, status string) *installReport {
	return &installReport{Status: status, Prefix: prefix, Installed: []installedPackage{}, Removed: []installedPackage{}, Replaced: []replacedPackage{}}
}

func described(r *repodata.Record, channel, url string) installedPackage {
	return installedPackage{r.Name, r.Version, r.Build, dist.WithoutSecrets(channel), dist.WithoutSecrets(url)}
}

func (rep *installReport) fill(c *install.Change) {
	for _, p := range c.Install {
		rep.Installed = append(rep.Installed, described(&p.Record, p.Channel, p.URL))
	}
	for _, r := range c.Remove {
		rep.Removed = append(rep.Removed, described(&r.Record, r.Channel, r.URL))
	}
	for _, x := range c.Replace {
		rep.Replaced = append(rep.Replaced, replacedPackage{described(&x.Old.Record, x.Old.Channel, x.Old.URL), described(&x.New.Record, x.New.Channel, x.New.URL), x.Why})
	}
	rep.Unchanged = len(c.Keep)
	if c.Empty() && rep.Status == "installed" {
		rep.Status = "unchanged"
	}
}

func (rep *installReport) result(res *install.Result) {
	if res.Recovered != "" {
		rep.Recovered = string(res.Recovered)
	}
	rep.Fetched = res.Fetched
	rep.Files = installedFiles{res.Linked, res.Copied, res.Rewritten}
	for _, c := range res.Clobbers {
		rep.Clobbers = append(rep.Clobbers, clobberedPath{c.Path, c.Winner, c.Losers})
	}
	for _, m := range res.Messages {
		rep.Messages = append(rep.Messages, m.String())
	}
}

// warnTo keeps warnings for the report and shows them.
func (rep *installReport) warnTo(w io.Writer, quiet bool) func(install.Warning) {
	var mu sync.Mutex
	return func(x install.Warning) {
		mu.Lock()
		defer mu.Unlock()
		rep.Warnings = append(rep.Warnings, x.String())
		if !quiet {
			fmt.Fprintln(w, "entrepot: warning:", x)
		}
	}
}

func (rep *installReport) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(out, rep, "  ")
	}
	var b strings.Builder
	for _, p := range rep.Removed {
		fmt.Fprintf(&b, "- %s %s %s\n", p.Name, p.Version, p.Build)
	}
	for _, x := range rep.Replaced {
		if x.Why != install.Different {
			fmt.Fprintf(&b, "~ %s %s %s\n", x.To.Name, x.To.Version, x.To.Build)
			continue
		}
		fmt.Fprintf(&b, "~ %s %s %s → %s %s\n", x.To.Name, x.From.Version, x.From.Build, x.To.Version, x.To.Build)
	}
	for _, p := range rep.Installed {
		fmt.Fprintf(&b, "+ %s %s %s\n", p.Name, p.Version, p.Build)
	}
	for _, m := range rep.Messages {
		fmt.Fprintln(&b, m)
	}
	if rep.Recovered != "" {
		fmt.Fprintf(&b, "an interrupted installation was %s\n", rep.Recovered)
	}
	fmt.Fprintf(&b, "%s: %s, %d installed, %d replaced, %d removed, %d unchanged\n", rep.Prefix, rep.Status,
		len(rep.Installed), len(rep.Replaced), len(rep.Removed), rep.Unchanged)
	_, err := io.WriteString(out, b.String())
	return err
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// installProgress counts on one line of a terminal; elsewhere it says nothing.
func installProgress(w io.Writer) (show func(install.Progress), done func()) {
	if !terminal(w) {
		return nil, func() {}
	}
	var mu sync.Mutex
	return func(p install.Progress) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "\r\x1b[K%s %d/%d", p.Step, p.Done, p.Total)
	}, func() { fmt.Fprint(w, "\r\x1b[K") }
}

// fetchProgress shows packages on one line of a terminal as they come.
func fetchProgress(w io.Writer) func(pkgcache.Event) {
	if !terminal(w) {
		return nil
	}
	var mu sync.Mutex
	ready := 0
	return func(e pkgcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		what := map[pkgcache.Step]string{pkgcache.Fetching: "fetch", pkgcache.Unpacking: "unpack", pkgcache.Ready: "ready"}[e.What]
		if e.What == pkgcache.Ready {
			ready++
		}
		fmt.Fprintf(w, "\r\x1b[K%d ready · %s %s", ready, what, e.Package.FileName)
	}
}
