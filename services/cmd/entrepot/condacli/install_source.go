package condacli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// packageSource fetches packages over HTTP. One that lies in a channel which was opened is fetched as the channel's index
// is, with the same credentials: neither solutions nor locks hold any. All others are asked for without, unless the
// location has its own.
type packageSource struct {
	client   *fetch.Client
	offline  bool
	channels []access // the longest first

	mu      sync.Mutex
	remotes map[string]*fetch.Remote
}

// access is a channel that was opened.
type access struct {
	remote *fetch.Remote
	origin string
	path   string // in the clear and without a token, as locations have it; ends in a slash
}

// originOf is what credentials belong to. The host's case and the scheme's own port make no difference.
func originOf(u *url.URL) string {
	scheme := strings.ToLower(u.Scheme)
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[scheme])
	return scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// packageSource returns where the command's packages come from. Channels must have been opened.
func (f *channelFlags) packageSource() (pkgcache.Source, error) {
	s := &packageSource{client: f.client, offline: f.offline, remotes: map[string]*fetch.Remote{}}
	for _, r := range f.opened {
		u, err := url.Parse(dist.WithoutSecrets(r.BaseURL()))
		if err != nil {
			return nil, fault.Field("--channel", "channel %s is no URL", fetch.Redact(r.BaseURL()))
		}
		s.channels = append(s.channels, access{r, originOf(u), u.Path})
	}
	slices.SortStableFunc(s.channels, func(a, b access) int { return cmp.Compare(len(b.path), len(a.path)) })
	return pkgcache.Local{Else: s}, nil
}

// Fetch implements pkgcache.Source.
func (s *packageSource) Fetch(ctx context.Context, location string, size int64, sink pkgcache.Sink) error {
	if s.offline {
		return fault.New(fault.Unavailable, "%s is not in the package cache, and with --offline no server is asked", fetch.Redact(location))
	}
	remote, req, err := s.request(location)
	if err != nil {
		return err
	}
	req.Size = size
	if size <= 0 {
		req.Size, req.MaxSize = fetch.UnknownSize, maxPackage
	}
	_, err = remote.Download(ctx, req, sink)
	return err
}

// request finds out whom to ask.
func (s *packageSource) request(location string) (*fetch.Remote, fetch.DownloadRequest, error) {
	var req fetch.DownloadRequest
	u, err := url.Parse(location)
	if err != nil {
		return nil, req, fault.New(fault.Invalid, "%s is no URL", fetch.Redact(location))
	}
	bare, err := url.Parse(dist.WithoutSecrets(location))
	if err != nil {
		return nil, req, fault.New(fault.Invalid, "%s is no URL", fetch.Redact(location))
	}
	if u.User == nil {
		for _, c := range s.channels {
			if rest, ok := strings.CutPrefix(bare.Path, c.path); ok && rest != "" && c.origin == originOf(bare) {
				req.Path, req.Query = rest, u.Query()
				return c.remote, req, nil
			}
		}
		// A channel's packages may lie beside it (CEP 15). Its credentials are good for its server, and for no other.
		for _, c := range s.channels {
			if c.origin == originOf(bare) {
				req.URL = location
				return c.remote, req, nil
			}
		}
	}
	name := path.Base(u.Path)
	base := *u
	base.Path, base.RawPath, base.RawQuery, base.Fragment = strings.TrimSuffix(u.Path, name), "", "", ""
	remote, err := s.remote(base.String())
	req.Path, req.Query = name, u.Query()
	return remote, req, err
}

// maxPackage bounds a package of which no size is known.
const maxPackage = 64 << 30

func (s *packageSource) remote(base string) (*fetch.Remote, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.remotes[base]; r != nil {
		return r, nil
	}
	r, err := s.client.Remote(fetch.RemoteConfig{Name: "packages", Kind: "conda", BaseURL: base})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fetch.Redact(base), err)
	}
	s.remotes[base] = r
	return r, nil
}
