package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

// minRate is what the reader has to reach over the whole test, in requests a second.
const minRate = 200

// metrics are the series of a process: values by name with labels, as they stand in the text format.
type metrics map[string]float64

// readMetrics asks a process. What it said stays beside its log.
func (s *stage) readMetrics(ctx context.Context, n *node) (metrics, error) {
	a := probe(ctx, "http://"+n.ops+"/metrics")
	if a.err != nil || a.status != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", n.name, a)
	}
	if err := os.WriteFile(filepath.Join(s.root, n.name+".metrics"), []byte(a.body), 0o600); err != nil {
		return nil, err
	}
	return parseMetrics(strings.NewReader(a.body))
}

func parseMetrics(r io.Reader) (metrics, error) {
	out := metrics{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		out[line[:i]] = v
	}
	return out, sc.Err()
}

// sum adds up the series of a name that have all the given labels, written as name="value".
func (m metrics) sum(name string, labels ...string) (total float64, found bool) {
	for series, v := range m {
		base, rest, _ := strings.Cut(series, "{")
		if base != name {
			continue
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			total, found = total+v, true
		}
	}
	return total, found
}

// row is a process in the table.
type row struct {
	name             string
	pid, starts      int
	served           string
	http, rpcs, jobs float64
	connections      float64
	stopped          time.Duration
	files            int
}

type table struct{ rows []row }

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "process\tpid\tstarts\tserves\tHTTP\tRPCs\tjobs\tby TCP\tin memory\tstopped in\tfiles kept")
	for _, r := range t.rows {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t0\t%s\t%d\n",
			r.name, r.pid, r.starts, r.served, r.http, r.rpcs, r.jobs, r.connections, ms(r.stopped), r.files)
	}
	tw.Flush()
}

// endAll gives every process something to do once more, since counters begin at zero in one that was restarted, looks
// at everybody's metrics, stops all, and looks at what they leave behind.
func (s *stage) endAll(ctx context.Context) error {
	if err := s.lastRound(ctx); err != nil {
		return err
	}
	report := s.reader.Stop()
	s.say("the reader: %d requests (%.0f/s), %d files and %d indexes compared, %d unanswered during faults, %d violations",
		report.Requests, report.Rate(), report.Files, report.Indexes, report.Unanswered, len(report.Violations))
	if len(report.Violations) > 0 {
		return fmt.Errorf("the reader saw:\n  %s", strings.Join(report.Violations, "\n  "))
	}
	if report.Rate() < minRate || report.Files == 0 || report.Indexes == 0 {
		return fmt.Errorf("the reader made %.0f requests a second, fewer than %d", report.Rate(), minRate)
	}
	acked, tries, problems := s.writer.stop()
	if len(problems) > 0 {
		return fmt.Errorf("the writer saw:\n  %s", strings.Join(problems, "\n  "))
	}
	if err := scenario.Check(ctx, s.client, watchedName, &sample.Channel{Dir: s.watched.Dir, Subdirs: s.watched.Subdirs, Files: acked}, len(acked)); err != nil {
		return err
	}
	s.say("the writer: %d uploads acknowledged in %d tries, all there", len(acked)-readFirst, tries)
	var errs []error
	for _, name := range s.order {
		r, err := s.measure(ctx, s.nodes[name])
		errs = append(errs, err)
		s.table.rows = append(s.table.rows, r)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.say("every process has served what its target is for, and nobody was called in memory")
	return s.stopAll()
}

// stopAll stops every process and checks what its directories hold.
func (s *stage) stopAll() error {
	for i, name := range s.order {
		n := s.nodes[name]
		took, err := n.proc.stop(drainDelay + 10*time.Second)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, tail(n.proc.log, 10))
		}
		s.table.rows[i].stopped = took
		files, err := leftovers(n)
		if err != nil {
			return err
		}
		s.table.rows[i].files = files
	}
	s.say("all %d processes ended with code 0; their directories hold a few small files and no blob", len(s.order))
	blobs, size, err := weigh(filepath.Join(s.root, "s3", "data", "data"))
	if err != nil || blobs < mirrored {
		return fmt.Errorf("the S3 server holds %d objects with %d bytes (%v): the bytes are elsewhere", blobs, size, err)
	}
	s.say("the S3 server holds %d objects with %d MiB", blobs, size>>20)
	took, err := s.parts.nats.stop()
	if err != nil {
		return err
	}
	s.say("nats: ended with code 0 in %s", took)
	return nil
}

// expected are the files that a process may leave in its directories, with the most bytes that each may have.
func expected(target string) map[string]int64 {
	files := map[string]int64{"entrepot.lock": 64, "instance": 64}
	if target == "identity" {
		files["admin-key"] = 256
	}
	return files
}

// leftovers counts the files below a process's directories, and refuses what does not belong there.
func leftovers(n *node) (count int, err error) {
	allowed := expected(n.target)
	for _, root := range []string{n.data, n.work} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path) // path is below root
			most, ok := allowed[rel]
			if !ok || root != n.data || info.Size() > most {
				return fmt.Errorf("%s keeps %s with %d bytes", n.name, path, info.Size())
			}
			count++
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return count, nil
}

// weigh counts files and bytes below a directory.
func weigh(dir string) (files int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			files, size = files+1, size+info.Size()
		}
		return err
	})
	return files, size, err
}
