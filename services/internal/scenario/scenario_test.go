package scenario_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func build(t *testing.T, n int) *sample.Channel {
	t.Helper()
	ch, err := sample.Build(t.TempDir(), sample.Options{Packages: n, Tiny: true})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestTheUpstreamCountsByAddress(t *testing.T) {
	ch := build(t, 2)
	u, err := scenario.Serve(ch, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	c := http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for _, path := range []string{"/noarch/repodata.json", "/" + ch.Files[0].Path, "/" + ch.Files[1].Path} {
		resp, err := c.Get(u.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, resp.Status, err)
		}
		resp.Body.Close()
	}
	host, err := u.AwaitFiles(t.Context(), 2)
	if err != nil || host != "127.0.0.1" || u.Files(host) != 2 || u.AllFiles() != 2 {
		t.Errorf("%q fetched %d of %d files, %v: an index is no package", host, u.Files(host), u.AllFiles(), err)
	}
}

// The comparison is what the cluster tests rest on: it has to see what it looks for.
func TestCheckSeesWhatDiffers(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, f sample.File)
		want  string
	}{
		"all is well":     {func(*testing.T, string, sample.File) {}, ""},
		"a byte too many": {func(t *testing.T, dir string, f sample.File) { appendTo(t, filepath.Join(dir, f.Path)) }, "other bytes"},
		"a file is gone":  {func(t *testing.T, dir string, f sample.File) { remove(t, filepath.Join(dir, f.Path)) }, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := build(t, 3)
			srv := httptest.NewServer(http.StripPrefix("/channels/c", http.FileServer(http.Dir(ch.Dir))))
			defer srv.Close()
			client, err := restclient.New(restclient.Config{Server: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseIdle()
			c.spoil(t, ch.Dir, ch.Files[1])
			err = scenario.Check(context.Background(), client, "c", ch, 3)
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(strings.ToLower(err.Error()), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func appendTo(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
