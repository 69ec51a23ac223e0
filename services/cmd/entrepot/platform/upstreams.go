package platform

import (
	"errors"
	"io/fs"
	"net/http"

	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	"github.com/entrepot-dev/entrepot/services/sync"
)

// upstreams returns what opens the upstreams of channels, the same for all parts of this process that ask some.
func (p *Platform) upstreams() (*sync.Remotes, error) {
	if p.remotes != nil {
		return p.remotes, nil
	}
	client, err := fetch.New(fetch.Config{Egress: p.egress(), PerHost: p.cfg.Sync.Downloads, UserAgent: "entrepot/" + p.opts.Version, Log: p.log})
	if err != nil {
		return nil, err
	}
	p.fetch = client
	p.remotes = sync.NewRemotes(sync.RemotesDeps{Pool: p.pool, Fetch: client, Master: p.master, Config: p.cfg.Sync, Log: p.log})
	return p.remotes, nil
}

// strangers is the client for servers that users name: mirrors that are registered, upstreams to register at. It obeys the
// egress policy, and a redirect is an answer like others.
func (p *Platform) strangers() *http.Client {
	return &http.Client{Transport: p.fetch.RoundTripper(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// sharedMasterKey reads the master key for the parts that need it but do not make it: sync and channels and their workers,
// for the credentials of upstreams and the catalogs of channels. Without one they run, and say what is missing when such a secret is to be kept or used: a key
// of their own making would only be one that no other process has.
func (p *Platform) sharedMasterKey() error {
	if !p.cfg.Runs("sync") && !p.cfg.Runs("sync-worker") && !p.cfg.Runs("channels") && !p.cfg.Runs("channels-worker") {
		return nil
	}
	master, err := seal.Load(p.cfg.MasterKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p.master = master
	return err
}
