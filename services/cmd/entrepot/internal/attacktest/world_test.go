package attacktest

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// quick makes the platform give upstreams up in seconds.
func quick(c *platform.Config) {
	c.Sync.Attempts, c.Sync.HeaderTimeout, c.Sync.StallTimeout = 1, 2*time.Second, time.Second
}

// whole fails if the platform had an error or a panic of its own: an attack is the attacker's mistake, not ours.
func whole(t *testing.T, s *platformtest.Stack) {
	t.Helper()
	for line := range strings.Lines(s.Logs()) {
		// That a mirror's upstream cannot be had is an error worth a line, and none of ours.
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "job is dead") || strings.Contains(line, "panicked") {
			t.Errorf("an error of ours: %s", line)
		}
	}
}

// moo is in the name of every file that an attack wants to write, so that it is found wherever it went.
const moo = "moocanary"

// blobName is what a file of the blob directory may be called.
var blobName = regexp.MustCompile(`^blobs/(sha256/[0-9a-f]{2}/[0-9a-f]{64}|[0-9a-zA-Z._-]+(/[0-9a-zA-Z._-]+)?)$`)

// disk returns every path below the data directory that is not NATS's, and fails on those that an attack made.
func disk(t *testing.T, s *platformtest.Stack) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(s.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) { // a temporary file of somebody's
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(s.DataDir, path)
		if err != nil {
			return err
		}
		if strings.Contains(rel, moo) || d.Type()&(fs.ModeSymlink|fs.ModeDevice|fs.ModeNamedPipe) != 0 {
			t.Errorf("an attack left %s", path)
		}
		if d.IsDir() {
			if rel == "nats" {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(rel, "blobs/") && !blobName.MatchString(rel) {
			t.Errorf("among the blobs is %s", rel)
		}
		if !strings.HasPrefix(rel, "blobs/") {
			all = append(all, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// What climbed out landed in a directory above, in the working directory, or at the root.
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, dir := range []string{s.DataDir, wd, "/etc", os.TempDir(), "/var/tmp", "/root", "/home"} {
		for ; !seen[dir]; dir = filepath.Dir(dir) {
			seen[dir] = true
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue // not there, or not ours to look into
			}
			for _, e := range entries {
				if strings.Contains(e.Name(), moo) {
					t.Errorf("an attack left %s/%s", dir, e.Name())
				}
			}
		}
	}
	return all
}

// refused fails unless an answer is a client's mistake in its dialect's shape.
func refused(t *testing.T, what string, resp *platformtest.Response) bool {
	t.Helper()
	if resp.Status < 400 || resp.Status >= 500 {
		t.Errorf("%s: status %d: %.200s", what, resp.Status, resp.Body)
		return false
	}
	if resp.Header.Get("X-Request-Id") == "" {
		return true // net/http itself could not read it
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(resp.Body, &body); err != nil {
		t.Errorf("%s: the error is no JSON: %.200s", what, resp.Body)
		return false
	}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		if body["status"] == nil || body["title"] == nil {
			t.Errorf("%s: not a problem: %.200s", what, resp.Body)
		}
	} else if len(body) != 1 || body["detail"] == nil {
		t.Errorf("%s: the error has the keys %v", what, slices.Sorted(maps.Keys(body)))
	}
	return true
}

// raw writes a request as it stands, which asks for the end of its connection, and returns all that comes back.
func raw(t *testing.T, addr, request string) (status int, answer string) {
	t.Helper()
	return exchange(t, addr, request, false)
}

// exchange writes bytes and returns all that comes back; with halfClose the server is told that there is no more.
func exchange(t *testing.T, addr, request string, halfClose bool) (status int, answer string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, ""
	}
	if halfClose {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	data, _ := io.ReadAll(io.LimitReader(conn, 1<<20)) // what is there counts, also before a reset
	_, _ = fmt.Sscanf(string(data), "HTTP/1.1 %d", &status)
	return status, string(data)
}

// answers reads the HTTP answers in a connection's bytes; rest is what is none.
func answers(data string) (statuses []int, rest string) {
	r := bufio.NewReader(strings.NewReader(data))
	for {
		before, _ := r.Peek(1 << 20)
		resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		if err != nil {
			return statuses, string(before)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 100 {
			statuses = append(statuses, resp.StatusCode)
		}
	}
}

func addr(s *platformtest.Stack) string { return strings.TrimPrefix(s.URL, "http://") }

// member is a member of a .conda file.
type member struct {
	name string
	data []byte
}

// zipped makes a ZIP of stored members whose two headers agree.
func zipped(members ...member) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, m := range members {
		f, err := w.CreateRaw(&zip.FileHeader{
			Name: m.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(m.data), CompressedSize64: uint64(len(m.data)), UncompressedSize64: uint64(len(m.data)),
		})
		if err == nil {
			_, err = f.Write(m.data)
		}
		if err != nil {
			panic(err) // of the test's own making
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

var compressor, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))

func zst(data []byte) []byte { return compressor.EncodeAll(data, nil) }

// entry is a tar entry; Size is taken from data if it is 0.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, data}
}

func tarred(entries ...entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.data))
		}
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, e.data); err != nil {
				panic(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

const metadataJSON = `{"conda_pkg_format_version": 2}`

// conda makes a .conda file with an info/index.json and further files of both parts.
func conda(stem, indexJSON string, info, pkg []entry) []byte {
	infos := append([]entry{file("info/index.json", indexJSON), file("info/paths.json", `{"paths_version": 1, "paths": []}`)}, info...)
	return zipped(
		member{"metadata.json", []byte(metadataJSON)},
		member{"pkg-" + stem + ".tar.zst", zst(tarred(pkg...))},
		member{"info-" + stem + ".tar.zst", zst(tarred(infos...))},
	)
}

// index makes an info/index.json; change edits its fields.
func index(change map[string]any) string {
	ix := map[string]any{"name": "demo", "version": "1.0", "build": "0", "build_number": 0, "depends": []string{}, "subdir": "noarch", "noarch": "generic"}
	maps.Copy(ix, change)
	data, err := json.Marshal(ix)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// tables returns the rows that say what channels hold, as text.
func tables(t *testing.T, s *platformtest.Stack) (rows []string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, query := range []string{"SELECT f::text FROM channels.files f", "SELECT c::text FROM channels.channels c"} {
		got, err := conn.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(got, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, lines...)
	}
	return rows
}
