package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// slowUpload is an upload whose last bytes are held back.
type slowUpload struct {
	pipe   *io.PipeWriter
	rest   []byte
	result chan error
}

// upload begins an upload at a gateway and sends all but the last bytes of it.
func (s *stage) upload(ctx context.Context, n *node, file string, data []byte) (*slowUpload, error) {
	r, w := io.Pipe()
	sum := sha256.Sum256(data)
	url := n.url() + "/entrepot/v1/channels/" + busyName + "/uploads/" + file + "?sha256=" + hex.EncodeToString(sum[:])
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", s.key)
	req.ContentLength = int64(len(data))
	u := &slowUpload{pipe: w, rest: data[len(data)-100:], result: make(chan error, 1)}
	go func() {
		resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				err = fmt.Errorf("%s: %s", resp.Status, body)
			}
		}
		if err != nil {
			_ = r.CloseWithError(err) // or a writer would wait for ever
		}
		u.result <- err
	}()
	_, err = w.Write(data[:len(data)-100])
	return u, err
}

func (u *slowUpload) finish() error {
	if _, err := u.pipe.Write(u.rest); err != nil {
		return err
	}
	u.pipe.Close()
	select {
	case err := <-u.result:
		return err
	case <-time.After(15 * time.Second):
		return errors.New("no answer for 15 s")
	}
}

// bigFile is more than the kernel keeps of a connection that nobody reads from.
const bigFile = 24 << 20

// bigChannel mirrors one large file, and returns its path and digest.
func (s *stage) bigChannel(ctx context.Context) (path, sum string, err error) {
	ch := synctest.NewChannel()
	data := make([]byte, bigFile)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	path = ch.Add("noarch", "big", "1", data)
	dir := filepath.Join(s.root, "big")
	for name, bytes := range map[string][]byte{path: data, "noarch/repodata.json": ch.Index("noarch")} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, bytes, 0o644)); err != nil {
			return "", "", err
		}
	}
	up, err := scenario.Serve(&sample.Channel{Dir: dir, Subdirs: []string{"noarch"}}, "127.0.0.1", 0)
	if err != nil {
		return "", "", err
	}
	defer up.Close()
	if err := s.createChannel(ctx, "big", up.URL); err != nil {
		return "", "", err
	}
	job, err := s.client.StartSync(ctx, &syncv1.StartSyncRequest{Channel: "big"})
	if err != nil {
		return "", "", err
	}
	digest := sha256.Sum256(data)
	return path, hex.EncodeToString(digest[:]), s.succeeded(ctx, fmt.Sprint(job.GetNumber()))
}

// slowDownload opens a download and reads nothing of the body yet.
func slowDownload(ctx context.Context, url string) (*http.Response, error) {
	narrow := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: narrow}).Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp, err
}
