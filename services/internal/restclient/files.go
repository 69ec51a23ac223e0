package restclient

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Upload is a package file on its way to a hosted channel.
type Upload struct {
	Channel string
	// Filename is the package's, without a directory.
	Filename string
	// Body is read once, to its end.
	Body io.Reader
	// Size in bytes; it must be right.
	Size int64
	// SHA256 is lower-case hex; the server refuses other bytes. Empty sends none.
	SHA256 string
	// Force replaces a file of the same name.
	Force bool
}

// Upload sends a package file. fresh is false if the channel had these very bytes already and nothing changed.
func (c *Client) Upload(ctx context.Context, up Upload) (file *channelsv1.File, fresh bool, err error) {
	q := values("sha256", up.SHA256)
	if up.Force {
		q.Set("force", strconv.FormatBool(true))
	}
	// The transport would close the body; it is the caller's.
	req, err := c.request(ctx, http.MethodPut, c.api(q, "channels", up.Channel, "uploads", up.Filename), io.NopCloser(up.Body))
	if err != nil {
		return nil, false, err
	}
	req.ContentLength = up.Size
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.send(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, false, c.transportError(ctx, err)
	}
	file = &channelsv1.File{}
	return file, resp.StatusCode == http.StatusCreated, c.decode(data, file)
}

// ChannelURL is the URL that package clients are given for a channel.
func (c *Client) ChannelURL(channel string) string {
	return c.endpoint(nil, "channels", channel).String()
}

// Open downloads what a channel serves at a path: a package file or an index file. The caller closes the body.
func (c *Client) Open(ctx context.Context, channel, path string) (*http.Response, error) {
	segments := append([]string{"channels", channel}, strings.Split(path, "/")...)
	req, err := c.request(ctx, http.MethodGet, c.endpoint(url.Values{}, segments...), nil)
	if err != nil {
		return nil, err
	}
	return c.send(req)
}

// OpenURL is Open for an address that an index names: ref is taken relative to the given path of the channel. The key
// goes to the server only, never to another host.
func (c *Client) OpenURL(ctx context.Context, channel, path, ref string) (*http.Response, error) {
	segments := append([]string{"channels", channel}, strings.Split(path, "/")...)
	u, err := c.endpoint(nil, segments...).Parse(ref)
	if err != nil {
		return nil, fault.New(fault.Upstream, "%s names an address that is none: %w", path, err)
	}
	req, err := c.request(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	if u.Scheme != c.base.Scheme || u.Host != c.base.Host {
		req.Header.Del("Authorization")
	}
	return c.send(req)
}
