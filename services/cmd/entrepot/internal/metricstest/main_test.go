// Package metricstest tries the counting of downloads on whole platforms: what counts, that it counts once, and who sees it.
package metricstest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// file is a package in a channel.
type file struct {
	platform, name, pkg string
	data                []byte
}

func (f file) path() string { return f.platform + "/" + f.name }

// upload puts small packages into a channel, as alice: names tiny-000000 (linux-64) and tiny-000001 (noarch), 8 versions each.
func upload(t *testing.T, s *platformtest.Stack, channel string) []file {
	t.Helper()
	all, err := sampleFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		s.Admin().Must(201, "POST", "/api/channels/"+channel+"/upload/"+f.name+"?sha256=", f.data)
	}
	return all
}

var sampleFiles = sync.OnceValues(func() ([]file, error) {
	dir, err := os.MkdirTemp("", "entrepot-metrics-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ch, err := sample.Build(dir, sample.Options{Packages: 12, Tiny: true})
	if err != nil {
		return nil, err
	}
	var all []file
	for _, f := range ch.Files {
		data, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil {
			return nil, err
		}
		d, err := dist.ParseFilename(filepath.Base(f.Path))
		if err != nil {
			return nil, err
		}
		all = append(all, file{filepath.Dir(f.Path), filepath.Base(f.Path), d.Name, data})
	}
	return all, nil
})

// eventually waits for what is to come about by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(45 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 45 s", what)
		}
	}
}

// total returns what has been counted for a channel so far.
func total(t *testing.T, c *platformtest.Client, channel string) int {
	t.Helper()
	var m struct{ Total int }
	c.In(t).Must(200, "GET", "/entrepot/v1/channels/"+channel+"/metrics", nil).JSON(&m)
	return m.Total
}

// settled waits until a channel's count is n and says so if it goes beyond.
func settled(t *testing.T, c *platformtest.Client, channel string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d downloads of %s", n, channel), func() bool { return total(t, c, channel) >= n })
	time.Sleep(1500 * time.Millisecond) // for one that should not come
	if got := total(t, c, channel); got != n {
		t.Errorf("%d downloads of %s, want %d", got, channel, n)
	}
}

func query[T any](t *testing.T, s *platformtest.Stack, sql string, args ...any) []T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// finished waits for a job of the dialect and returns its status.
func finished(t *testing.T, c *platformtest.Client, answer *platformtest.Response) string {
	t.Helper()
	var job struct {
		ID     int64
		Status string
	}
	answer.JSON(&job)
	eventually(t, "the job's end", func() bool {
		c.In(t).Must(200, "GET", fmt.Sprint("/api/jobs/", job.ID), nil).JSON(&job)
		return job.Status == "success" || job.Status == "failed" || job.Status == "cancelled"
	})
	return job.Status
}

func decode(t *testing.T, data []byte) (out map[string]any) {
	t.Helper()
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	delete(out, "server_timestamp")
	return out
}
