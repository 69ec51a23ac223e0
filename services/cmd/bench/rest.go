package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// target is a server that speaks the Quetz dialect: ours, or a peer.
type target struct{ name, url, key string }

// client keeps connections alive, as package clients do, and never asks a proxy.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}

// do sends a request with the key and returns the answer, its body read.
func (t target) do(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.url+path, body)
	if err != nil {
		return nil, nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("X-API-Key", t.key)
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, data, err
}

// call sends JSON and decodes JSON; any other status than 2xx is an error.
func (t target) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	resp, data, err := t.do(ctx, method, path, http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

func (t target) createMirror(ctx context.Context, channel, upstream string) error {
	return t.call(ctx, http.MethodPost, "/api/channels", map[string]any{
		"name": channel, "private": false, "mirror_channel_url": upstream, "mirror_mode": "mirror", "actions": []string{},
	}, nil)
}

func (t target) createProxy(ctx context.Context, channel, upstream string) error {
	return t.call(ctx, http.MethodPost, "/api/channels", map[string]any{
		"name": channel, "private": false, "mirror_channel_url": upstream, "mirror_mode": "proxy", "actions": []string{},
	}, nil)
}

func (t target) createHosted(ctx context.Context, channel string, private bool) error {
	return t.call(ctx, http.MethodPost, "/api/channels", map[string]any{"name": channel, "private": private}, nil)
}

func (t target) deleteChannel(ctx context.Context, channel string) error {
	return t.call(ctx, http.MethodDelete, "/api/channels/"+channel, nil, nil)
}

// sync runs a synchronisation and returns how long it took as seen from here, the request for it included.
func (t target) sync(ctx context.Context, channel string, poll time.Duration) (time.Duration, error) {
	begin := time.Now()
	var job struct {
		ID     json.Number `json:"id"`
		Status string      `json:"status"`
	}
	if err := t.call(ctx, http.MethodPut, "/api/channels/"+channel+"/actions", map[string]string{"action": "synchronize_repodata"}, &job); err != nil {
		return 0, err
	}
	for {
		if err := t.call(ctx, http.MethodGet, "/api/jobs/"+job.ID.String(), nil, &job); err != nil {
			return 0, err
		}
		switch job.Status {
		case "success":
			return time.Since(begin), nil
		case "failed", "timeout", "cancelled":
			return 0, fmt.Errorf("the sync of %s ended as %s", channel, job.Status)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// upload sends one package.
func (t target) upload(ctx context.Context, channel string, p pkg) error {
	path := "/api/channels/" + channel + "/upload/" + url.PathEscape(p.filename) + "?force=false&sha256=" + p.sha256
	resp, data, err := t.do(ctx, http.MethodPost, path, http.Header{"Content-Type": {"application/octet-stream"}}, bytes.NewReader(p.data))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("upload %s: %s: %s", p.filename, resp.Status, data)
	}
	return nil
}

// uploadMany sends packages in one multipart request.
func (t target) uploadMany(ctx context.Context, channel string, ps []pkg) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, p := range ps {
		part, err := form.CreateFormFile("files", p.filename)
		if err != nil {
			return err
		}
		if _, err := part.Write(p.data); err != nil {
			return err
		}
	}
	if err := form.Close(); err != nil {
		return err
	}
	resp, data, err := t.do(ctx, http.MethodPost, "/api/channels/"+channel+"/files/", http.Header{"Content-Type": {form.FormDataContentType()}}, &body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("upload of %d files: %s: %s", len(ps), resp.Status, data)
	}
	return nil
}

// follow asks for an index file, with the ETag of the last answer, until seen says that it shows what is waited for,
// and returns the moment at which that answer had been read, before it was looked into.
func (t target) follow(ctx context.Context, path string, poll time.Duration, seen func([]byte) (bool, error)) (time.Time, error) {
	etag := ""
	for {
		header := http.Header{}
		if etag != "" {
			header.Set("If-None-Match", etag)
		}
		resp, data, err := t.do(ctx, http.MethodGet, path, header, nil)
		if err != nil {
			return time.Time{}, err
		}
		at := time.Now()
		switch resp.StatusCode {
		case http.StatusOK:
			etag = resp.Header.Get("ETag")
			ok, err := seen(data)
			if err != nil {
				return time.Time{}, fmt.Errorf("%s: %w", path, err)
			}
			if ok {
				return at, nil
			}
		case http.StatusNotModified:
		case http.StatusNotFound: // not yet
		default:
			return time.Time{}, fmt.Errorf("%s: %s", path, resp.Status)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s: %w", path, context.Cause(ctx))
		}
	}
}

// inShards says whether a shard index has a shard for a package name.
func inShards(index []byte, name string) (bool, error) {
	ix, err := repodata.ParseIndex(index, repodata.ParseOptions{})
	if err != nil {
		return false, err
	}
	_, ok := ix.Shards[name]
	return ok, nil
}

// filesOf lists the package files in a repodata.json.zst.
func filesOf(zst []byte) (map[string]bool, error) {
	r, err := repodata.NewDecoder(bytes.NewReader(zst), repodata.Zstd, repodata.DecodeLimits{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var doc struct {
		TarBz2 map[string]json.RawMessage `json:"packages"`
		Conda  map[string]json.RawMessage `json:"packages.conda"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return nil, err
	}
	files := make(map[string]bool, len(doc.TarBz2)+len(doc.Conda))
	for f := range doc.TarBz2 {
		files[f] = true
	}
	for f := range doc.Conda {
		files[f] = true
	}
	return files, nil
}
