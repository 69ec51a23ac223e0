package stack_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// hosted makes a hosted channel to upload to.
func hosted(t *testing.T, s *platformtest.Stack, name string) *mirror {
	t.Helper()
	s.Admin().In(t).Must(201, "POST", "/api/channels", map[string]any{"name": name, "private": false})
	return &mirror{t: t, stack: s, name: name, ch: synctest.NewChannel()}
}

func shaOf(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }

func (m *mirror) quetz(filename string, data []byte) *platformtest.Response {
	return m.admin().Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/" + m.name + "/upload/" + filename + "?sha256=" + shaOf(data), Body: data})
}

func (m *mirror) native(filename string, data []byte) *platformtest.Response {
	return m.admin().Send(0, platformtest.Request{Method: "PUT", Path: "/entrepot/v1/channels/" + m.name + "/uploads/" + filename, Body: data})
}

func TestUploadsOfOneFileAtOnce(t *testing.T) {
	s := platformtest.Start(t)
	m := hosted(t, s, "race")
	m.watch(10*time.Second, "noarch")
	equal, filename := synctest.Package(t, "noarch", "raced", "1.0", dist.Conda)
	at := func(n int, do func(i int) int) map[int]int {
		var mu sync.Mutex
		got := map[int]int{}
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range n {
			wg.Go(func() {
				<-start
				status := do(i)
				mu.Lock()
				defer mu.Unlock()
				got[status]++
			})
		}
		close(start)
		wg.Wait()
		return got
	}
	if got := at(20, func(int) int { return m.quetz(filename, equal).Status }); got[201] != 1 || got[409] != 19 {
		t.Errorf("twenty equal ones in Quetz's dialect: %v", got)
	}
	equal, filename = synctest.Package(t, "noarch", "native", "1.0", dist.Conda)
	if got := at(20, func(int) int { return m.native(filename, equal).Status }); got[201]+got[200] != 20 || got[201] < 1 {
		t.Errorf("twenty equal ones in the native API: %v", got)
	}
	// Packages of equal name and other bytes: one wins, and is what is served.
	var bodies [][]byte
	for i := range 20 {
		data, _ := synctest.Package(t, "noarch", "differs", "1.0", dist.Conda, fmt.Sprint(i))
		bodies = append(bodies, data)
	}
	if got := at(20, func(i int) int { return m.native("differs-1.0-0.conda", bodies[i]).Status }); got[201] != 1 || got[409] != 19 {
		t.Errorf("twenty other ones: %v", got)
	}
	served := m.admin().Must(200, "GET", "/get/race/noarch/differs-1.0-0.conda", nil).Body
	wins := 0
	for _, b := range bodies {
		if bytes.Equal(b, served) {
			wins++
		}
	}
	if wins != 1 {
		t.Errorf("what is served is none of them")
	}
	if n := len(m.listed()); n != 3 {
		t.Errorf("%d files are listed", n)
	}
}

// raw sends a request over a connection of its own, in pieces, and returns the status, 0 if there was none.
func raw(t *testing.T, s *platformtest.Stack, head string, send func(io.Writer) error) (status int, sent int64) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	w := &counted{w: conn}
	if err := send(w); err != nil && send != nil {
		t.Logf("the server hung up after %d bytes: %v", w.n, err)
	}
	line := make([]byte, 12)
	if _, err := io.ReadFull(conn, line); err != nil {
		return 0, w.n
	}
	_, _ = fmt.Sscanf(string(line), "HTTP/1.1 %d", &status)
	return status, w.n
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// temporaries counts what uploads leave behind in the store beside blobs.
func temporaries(t *testing.T, s *platformtest.Stack) (n int) {
	t.Helper()
	root := filepath.Join(s.DataDir, "blobs", "tmp")
	err := filepath.WalkDir(root, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAClientThatGoesAwayLeavesNothing(t *testing.T) {
	s := platformtest.Start(t)
	m := hosted(t, s, "gone")
	m.watch(0, "noarch")
	m.admin().Must(200, "PATCH", "/api/channels/gone", map[string]any{"size_limit": 3 << 20})
	data, filename := synctest.Package(t, "noarch", "gone", "1.0", dist.Conda)
	body := append(bytes.Clone(data), make([]byte, 2<<20)...) // large enough for a temporary file
	for _, dialect := range []string{"POST /api/channels/gone/upload/" + filename + "?sha256=" + shaOf(body), "PUT /entrepot/v1/channels/gone/uploads/" + filename} {
		for _, percent := range []int{0, 50, 99} {
			n := len(body) * percent / 100
			for _, chunked := range []bool{false, true} {
				head := dialect + " HTTP/1.1\r\nHost: x\r\nX-API-Key: " + s.AdminKey + "\r\n"
				if chunked {
					head += "Transfer-Encoding: chunked\r\n\r\n"
				} else {
					head += fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
				}
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(conn, head)
				if chunked {
					fmt.Fprintf(conn, "%x\r\n", len(body))
				}
				_, _ = conn.Write(body[:n])
				time.Sleep(30 * time.Millisecond) // what was sent arrives before the end does
				conn.Close()
			}
		}
	}
	waitFor(t, "the temporary files are gone", func() bool { return temporaries(t, s) == 0 })
	if got := m.listed(); len(got) != 0 {
		t.Errorf("listed: %v", got)
	}
	var ch struct {
		Size string `json:"size"`
	}
	if resp := m.admin().Must(200, "GET", "/entrepot/v1/channels/gone", nil); strings.Contains(string(resp.Body), `"size":"`) {
		resp.JSON(&ch)
		if ch.Size != "0" && ch.Size != "" {
			t.Errorf("the quota counts %s bytes", ch.Size)
		}
	}
	if resp := m.quetz(filename, data); resp.Status != 201 {
		t.Errorf("afterwards: %d %s", resp.Status, resp.Body)
	}
}

func TestBadUploadsAreRefused(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) { c.MaxUpload = 8 << 20 }))
	m := hosted(t, s, "bad")
	m.watch(0, "noarch")
	good, filename := synctest.Package(t, "noarch", "good", "1.0", dist.Conda)
	if resp := m.quetz(filename, good); resp.Status != 201 {
		t.Fatalf("%d %s", resp.Status, resp.Body)
	}
	listed := m.listed()
	refused := func(t *testing.T, resp *platformtest.Response, status int) {
		t.Helper()
		if resp.Status != status || len(resp.Body) == 0 || len(resp.Body) > 4096 {
			t.Errorf("%d %.300s; want %d", resp.Status, resp.Body, status)
		}
	}
	other, _ := synctest.Package(t, "noarch", "other", "1.0", dist.Conda)
	t.Run("a wrong digest", func(t *testing.T) {
		resp := m.admin().Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/bad/upload/other-1.0-0.conda?sha256=" + shaOf(good), Body: other})
		refused(t, resp, 406)
	})
	t.Run("a name that is not the package's", func(t *testing.T) { refused(t, m.quetz("somebody-1.0-0.conda", other), 400) })
	t.Run("no archive", func(t *testing.T) { refused(t, m.quetz("x-1.0-0.conda", []byte("no archive at all")), 400) })
	t.Run("half an archive", func(t *testing.T) { refused(t, m.quetz("other-1.0-0.conda", other[:len(other)/2]), 400) })
	t.Run("an archive with something behind it", func(t *testing.T) {
		refused(t, m.quetz("other-1.0-0.conda", append(bytes.Clone(other), "tail"...)), 400)
	})
	t.Run("bombs", func(t *testing.T) {
		conda, bz2 := condaBomb(t, "bomb-1.0-0", "{}", 300), bzip(t, make([]byte, 1<<20), 40)
		began := time.Now()
		refused(t, m.quetz("bomb-1.0-0.conda", conda), 400)
		refused(t, m.quetz("bomb-1.0-0.tar.bz2", bz2), 400)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("they took %s", took)
		}
	})
	t.Run("deep JSON", func(t *testing.T) {
		refused(t, m.quetz("deep-1.0-0.conda", condaBomb(t, "deep-1.0-0", strings.Repeat(`{"a":`, 1<<16), 0)), 400)
		refused(t, m.quetz("deep-1.0-0.conda", condaBomb(t, "deep-1.0-0", `{"name":"deep","version":"1.0","build":"0","build_number":0,"subdir":"noarch","x":`+strings.Repeat(`[`, 20000)+strings.Repeat(`]`, 20000)+`}`, 0)), 400)
	})
	t.Run("too large", func(t *testing.T) {
		resp := m.admin().Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/bad/upload/big-1.0-0.conda?sha256=x", Body: make([]byte, 9<<20)})
		if resp.Status < 400 || resp.Status >= 500 {
			t.Errorf("%d %.300s", resp.Status, resp.Body)
		}
	})
	t.Run("names in the URL", func(t *testing.T) {
		for _, name := range []string{
			"..", "%2e%2e", "..%2fevil-1.0-0.conda", "%2e%2e%2fevil-1.0-0.conda", "a%00-1.0-0.conda", "%2fabs-1.0-0.conda", "..%5cevil-1.0-0.conda",
			strings.Repeat("a", 300) + "-1.0-0.conda", "%252e%252e-1.0-0.conda", "x.txt",
		} {
			for _, req := range []platformtest.Request{
				{Method: "POST", Path: "/api/channels/bad/upload/" + name + "?sha256=" + shaOf(other), Body: other},
				{Method: "PUT", Path: "/entrepot/v1/channels/bad/uploads/" + name, Body: other},
			} {
				if resp := m.admin().Send(0, req); resp.Status < 400 || resp.Status >= 500 {
					t.Errorf("%s %s: %d %.200s", req.Method, name, resp.Status, resp.Body)
				}
			}
		}
	})
	t.Run("names in a form", func(t *testing.T) {
		for _, name := range []string{"../evil-1.0-0.conda", "/etc/evil-1.0-0.conda", `..\evil-1.0-0.conda`, "..", "", "a\x00b-1.0-0.conda", strings.Repeat("a", 5000), "noarch/evil-1.0-0.conda"} {
			var buf bytes.Buffer
			w := multipart.NewWriter(&buf)
			h := textproto.MIMEHeader{}
			h.Set("Content-Disposition", `form-data; name="files"; filename="`+strings.ReplaceAll(name, `\`, `\\`)+`"`)
			part, err := w.CreatePart(h)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = part.Write(other)
			w.Close()
			resp := m.admin().Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/bad/files", Body: buf.Bytes(), Header: http.Header{"Content-Type": {w.FormDataContentType()}}})
			if resp.Status < 400 || resp.Status >= 500 {
				t.Errorf("%.40q: %d %.200s", name, resp.Status, resp.Body)
			}
		}
	})
	t.Run("a cut chunked body", func(t *testing.T) {
		status, _ := raw(t, s, "PUT /entrepot/v1/channels/bad/uploads/other-1.0-0.conda HTTP/1.1\r\nHost: x\r\nX-API-Key: "+s.AdminKey+"\r\nTransfer-Encoding: chunked\r\n\r\n",
			func(w io.Writer) error {
				fmt.Fprintf(w, "%x\r\n%s\r\nzz\r\n", 10, other[:10]) // no chunk has that size
				return nil
			})
		if status != 400 && status != 0 {
			t.Errorf("%d", status)
		}
	})
	if got := m.listed(); fmt.Sprint(got) != fmt.Sprint(listed) {
		t.Errorf("listed: %v", got)
	}
	if n := temporaries(t, s); n != 0 {
		t.Errorf("%d temporary files are left", n)
	}
}

// condaBomb is a .conda whose info holds an index.json, and whose pkg unpacks to so many MiB of nothing.
func condaBomb(t *testing.T, stem, index string, mib int) []byte {
	t.Helper()
	tarOf := func(name string, size int64, body func(io.Writer)) []byte {
		var buf bytes.Buffer
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		var head [512]byte
		copy(head[:], name)
		copy(head[100:], "0000644\x000000000\x000000000\x00")
		copy(head[124:], fmt.Sprintf("%011o\x0000000000000\x00        0", size))
		copy(head[257:], "ustar\x0000")
		sum := 0
		for _, c := range head {
			sum += int(c)
		}
		copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
		_, _ = z.Write(head[:])
		body(z)
		_, _ = z.Write(make([]byte, (512-size%512)%512+1024))
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	add := func(name string, data []byte) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.Write(data)
	}
	add("metadata.json", []byte(`{"conda_pkg_format_version": 2}`))
	add("pkg-"+stem+".tar.zst", tarOf("x", 0, func(io.Writer) {}))
	if mib > 0 {
		zeros := make([]byte, 1<<20)
		add("info-"+stem+".tar.zst", tarOf("info/index.json", int64(mib)<<20, func(w io.Writer) {
			for range mib {
				_, _ = w.Write(zeros)
			}
		}))
	} else {
		add("info-"+stem+".tar.zst", tarOf("info/index.json", int64(len(index)), func(w io.Writer) { _, _ = io.WriteString(w, index) }))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Who may not upload is told so before a body of a gigabyte is read.
func TestAnonymousUploadsAreRefusedUnread(t *testing.T) {
	s := platformtest.Start(t)
	hosted(t, s, "closed")
	for _, target := range []string{"PUT /entrepot/v1/channels/closed/uploads/a-1.0-0.conda", "POST /api/channels/closed/upload/a-1.0-0.conda?sha256=x"} {
		var sent atomic.Int64
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		// A small buffer, so that what the kernel takes does not count as read.
		_ = conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", target, 1<<30)
		done := make(chan struct{})
		go func() {
			defer close(done)
			chunk := make([]byte, 4<<10)
			for {
				n, err := conn.Write(chunk)
				sent.Add(int64(n))
				if err != nil {
					return
				}
				time.Sleep(200 * time.Microsecond)
			}
		}()
		line := make([]byte, 12)
		_, err = io.ReadFull(conn, line)
		taken := sent.Load()
		conn.Close()
		<-done
		if err != nil || string(line[9:]) != "401" {
			t.Errorf("%s: %q, %v", target, line, err)
		}
		if taken > 512<<10 { // with what lies in the kernel's buffers
			t.Errorf("%s: %d bytes were taken before the answer", target, taken)
		}
	}
}
