package sync

import (
	"context"
	"io"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Upstream opens a file at a channel's upstream, as a sync would: with the credentials, authorities, proxy and rates that
// are set. size bounds it, in bytes. The URL is where the index says that the file is, if not at its path.
func (r *Remotes) Upstream(ctx context.Context, ch *channelsv1.Channel, path, url string, size int64) (io.ReadCloser, error) {
	remote, err := r.Open(ctx, ch)
	if err != nil {
		return nil, err
	}
	req := fetch.Request{Path: path, MaxSize: r.bound(size)}
	switch {
	case strings.Contains(url, "://"):
		req.Path, req.URL = "", url
	case url != "": // another path below the same upstream
		req.Path = url
	}
	return open(ctx, remote, req)
}

// Elsewhere opens a file below a URL that somebody registered, as a stranger.
func (r *Remotes) Elsewhere(ctx context.Context, base, path string, size int64) (io.ReadCloser, error) {
	remote, err := r.fetch.Remote(r.cfg.remote("a registered mirror", base))
	if err != nil {
		return nil, err
	}
	// It owns no connections that would have to be closed: it has no settings of its own.
	return open(ctx, remote, fetch.Request{Path: path, MaxSize: r.bound(size)})
}

func (r *Remotes) bound(size int64) int64 {
	if size <= 0 {
		return r.cfg.MaxFileSize
	}
	return size
}

func open(ctx context.Context, remote *fetch.Remote, req fetch.Request) (io.ReadCloser, error) {
	resp, err := remote.Get(ctx, req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
