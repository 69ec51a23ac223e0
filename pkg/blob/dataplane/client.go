package dataplane

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// ClientOptions configures a Client: BaseURL or Local is needed.
type ClientOptions struct {
	// BaseURL is where the data plane listens, such as http://storage:9092.
	BaseURL string
	// HTTP makes the requests; nil means a client of its own with the default transport. It needs no overall timeout: the
	// contexts of the calls bound them.
	HTTP *http.Client
	// Local is the handler, where it lives in this process: no HTTP is spoken then.
	Local *Handler
	// Hot, if set, keeps small blobs in memory. A hit is served without showing the grant to the data plane, so the caller's
	// own decision is what protects it.
	Hot *blob.Hot
}

// Client reads and writes blobs through a data plane. All methods may be called at once.
type Client struct {
	base  string
	http  *http.Client
	local *Handler
	hot   *blob.Hot
}

// NewClient returns a client.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{local: o.Local, hot: o.Hot}
	if c.local != nil {
		return c, nil
	}
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fault.Field("base_url", "the data plane's address is an http or https URL")
	}
	c.base = strings.TrimSuffix(u.String(), "/")
	hc := http.Client{}
	if o.HTTP != nil {
		hc = *o.HTTP
	}
	hc.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("too many redirects")
		}
		req.Header.Del(GrantHeader) // the S3 service has no business with it
		return nil
	}
	c.http = &hc
	return c, nil
}

// HotStats returns the counts of the memory cache; all are zero without one.
func (c *Client) HotStats() blob.CacheStats {
	if c.hot == nil {
		return blob.CacheStats{}
	}
	return c.hot.Stats()
}

// Check returns nil if the data plane can read and write blobs now.
func (c *Client) Check(ctx context.Context) error {
	if c.local != nil {
		if c.local.o.Ready == nil {
			return nil
		}
		return c.local.o.Ready(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+ReadyPath, nil)
	if err != nil {
		return fault.New(fault.Internal, "ask the data plane: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fault.New(fault.Unavailable, "the data plane does not answer: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // only for people
	if resp.StatusCode != http.StatusNoContent {
		return fault.New(fault.Unavailable, "the data plane is not ready: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// Put uploads what r yields. Info.Created is always true: a data plane does not tell. Of the options Replace cannot be
// asked for over HTTP and MaxSize is up to the grant.
func (c *Client) Put(ctx context.Context, token string, r io.Reader, o blob.PutOptions) (blob.Info, error) {
	if c.local != nil {
		g, err := c.local.authorise(token, grant.Write, expected(o))
		if err != nil {
			return blob.Info{}, err
		}
		if o, err = c.local.bound(g, o); err != nil {
			return blob.Info{}, err
		}
		o.Replace = false
		info, err := c.local.o.Store.Put(ctx, r, o)
		info.Created = err == nil
		return info, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/blobs?"+formatPut(o).Encode(), io.NopCloser(r))
	if err != nil {
		return blob.Info{}, fault.New(fault.Internal, "upload blob: %w", err)
	}
	if o.ExpectSize != nil {
		req.ContentLength = *o.ExpectSize
		if *o.ExpectSize == 0 { // to net/http 0 means unknown unless there is no body; the server compares the size anyway
			req.ContentLength = -1
		}
	}
	req.Header.Set("Expect", "100-continue") // a refusal should not cost the body
	resp, err := c.do(req, token)
	if err != nil {
		return blob.Info{}, fmt.Errorf("upload blob: %w", err)
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&a); err != nil {
		return blob.Info{}, fault.New(fault.Unavailable, "upload blob: the data plane's answer cannot be read: %w", err)
	}
	info := blob.Info{Digest: a.Digest, Size: a.Size, Created: true}
	if a.MD5 != "" {
		if n, err := hex.Decode(info.MD5[:], []byte(a.MD5)); err != nil || n != len(info.MD5) {
			return blob.Info{}, fault.New(fault.Unavailable, "upload blob: the data plane's answer has a broken MD5")
		}
	}
	return info, nil
}

// do sends a request and turns whatever is no success into a fault.
func (c *Client) do(req *http.Request, token string) (*http.Response, error) {
	req.Header.Set(GrantHeader, token)
	resp, err := c.http.Do(req)
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) || req.Context().Err() != nil {
			return nil, err // the body's own error, or the caller's end
		}
		return nil, fault.New(fault.Unavailable, "the data plane does not answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// Open opens a blob. The bytes come by ranges as they are read, each under the grant, which must outlive the reading.
func (c *Client) Open(ctx context.Context, token string, d blob.Digest) (blob.Blob, error) {
	open := func(ctx context.Context) (blob.Blob, error) { return c.open(ctx, token, d) }
	if c.hot != nil {
		return c.hot.Open(ctx, d, open)
	}
	return open(ctx)
}

func (c *Client) open(ctx context.Context, token string, d blob.Digest) (blob.Blob, error) {
	if c.local != nil {
		if _, err := c.local.authorise(token, grant.Read, d); err != nil {
			return nil, err
		}
		return c.local.o.Store.Open(ctx, d)
	}
	get := func(method, ranges string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, c.base+"/blobs/"+d.String(), nil)
		if err != nil {
			return nil, fault.New(fault.Internal, "open blob %s: %w", d, err)
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := c.do(req, token)
		if err != nil {
			return nil, fmt.Errorf("open blob %s: %w", d, err)
		}
		return resp, nil
	}
	head, err := get(http.MethodHead, "")
	if err != nil {
		return nil, err
	}
	head.Body.Close()
	size := head.ContentLength
	if size < 0 {
		return nil, fault.New(fault.Unavailable, "open blob %s: the data plane does not say its size", d)
	}
	modTime, _ := http.ParseTime(head.Header.Get("Last-Modified")) // zero is as good as any
	return blob.NewRanged(size, modTime, func(off, n int64) (io.ReadCloser, error) {
		resp, err := get(http.MethodGet, fmt.Sprintf("bytes=%d-%d", off, off+n-1))
		if err != nil {
			return nil, err
		}
		if want := fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, size); resp.Header.Get("Content-Range") != want {
			resp.Body.Close()
			return nil, fault.New(fault.Unavailable, "open blob %s: the data plane sent another range than %s", d, want)
		}
		return resp.Body, nil
	}), nil
}

// Proxy answers a request of the edge with a blob: what Open gives, by way of Serve. meta.Digest need not be set. A client
// that has the representation already costs no call at all. An error means that nothing was written yet.
func (c *Client) Proxy(w http.ResponseWriter, r *http.Request, token string, d blob.Digest, meta Meta) error {
	meta.Digest = d
	if notModified(w, r, meta) {
		return nil
	}
	b, err := c.Open(r.Context(), token, d)
	if err != nil {
		return err
	}
	defer b.Close()
	Serve(w, r, b, meta)
	return nil
}
