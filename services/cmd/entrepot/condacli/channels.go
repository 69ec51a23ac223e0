package condacli

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// channelFlags say which channels are read, and for which machine.
type channelFlags struct {
	channels []string
	alias    string
	platform string
	offline  bool
	noCache  bool
	cacheDir string
	quiet    bool
	// noRelations reads the given channels only, not those that they name (CEP 42).
	noRelations bool

	// egress are networks that are not reached by default, and may be.
	egress []string

	client *fetch.Client   // made by resolve
	opened []*fetch.Remote // channels on servers, with their credentials
}

func (f *channelFlags) register(c *cobra.Command) {
	f.registerChannels(c)
	c.Flags().StringVar(&f.platform, "platform", "", "subdir to read, such as linux-64 or osx-arm64 (default: this machine's)")
}

func (f *channelFlags) registerChannels(c *cobra.Command) {
	c.Flags().StringArrayVarP(&f.channels, "channel", "c", nil, "channel: a URL, a directory, or a name below --channel-alias; may be given many times, the first one wins")
	c.Flags().StringVar(&f.alias, "channel-alias", "", "URL that plain channel names stand below (default: CONDA_CHANNEL_ALIAS)")
	c.Flags().BoolVar(&f.offline, "offline", false, "ask no server: use what the cache has")
	c.Flags().BoolVar(&f.noCache, "no-cache", false, "keep nothing, and use nothing that was kept")
	c.Flags().StringVar(&f.cacheDir, "cache-dir", "", "where indexes are kept (default: ENTREPOT_CACHE_DIR, else entrepot/channels in the user's cache directory)")
	c.Flags().BoolVar(&f.noRelations, "no-relations", false, "read these channels only, not those that they name as their base or as overridden (CEP 42)")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no warnings")
	f.registerEgress(c)
}

func (f *channelFlags) registerEgress(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.egress, "egress-allow", nil, "network such as 169.254.0.0/16 that may be reached all the same: link-local and metadata addresses are not; may be given many times")
}

// registerAccess is for commands that read no channels, but fetch packages from them.
func (f *channelFlags) registerAccess(c *cobra.Command) {
	c.Flags().StringArrayVarP(&f.channels, "channel", "c", nil, "channel that packages come from, with the credentials that it takes (https://USER:PASSWORD@… or …/t/TOKEN/…); may be given many times")
	f.registerEgress(c)
}

// access opens the channels of such a command.
func (f *channelFlags) access(a *app) (err error) {
	if f.alias == "" {
		f.alias = a.getenv("CONDA_CHANNEL_ALIAS")
	}
	if f.client, err = newClient(a.version, f.egress); err != nil {
		return err
	}
	for _, text := range f.channels {
		if _, err := f.open(f.client, text); err != nil {
			return err
		}
	}
	return nil
}

// hostPlatform is the subdir of this machine.
func hostPlatform() string {
	system := map[string]string{"linux": "linux", "darwin": "osx", "windows": "win", "freebsd": "freebsd"}[runtime.GOOS]
	arch := map[string]string{"amd64": "64", "386": "32", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}[runtime.GOARCH]
	if runtime.GOARCH == "arm64" && runtime.GOOS != "linux" {
		arch = "arm64"
	}
	return system + "-" + arch
}

// resolve checks the platform and opens the channels.
func (f *channelFlags) resolve(a *app) ([]gateway.Channel, error) {
	if f.platform == "" {
		f.platform = hostPlatform()
	}
	if err := dist.CheckSubdir(f.platform); err != nil {
		return nil, fault.Field("--platform", "--platform: %v", err)
	}
	if len(f.channels) == 0 {
		return nil, fault.Field("--channel", "name a channel with -c: a URL or a directory")
	}
	if f.offline && f.noCache {
		return nil, fault.Field("--offline", "--offline needs the cache, so it does not go with --no-cache")
	}
	if f.alias == "" {
		f.alias = a.getenv("CONDA_CHANNEL_ALIAS")
	}
	var err error
	if f.client, err = newClient(a.version, f.egress); err != nil {
		return nil, err
	}
	var list []gateway.Channel
	for _, text := range f.channels {
		ch, err := f.open(f.client, text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(c gateway.Channel) bool { return c.URL == ch.URL }) {
			continue
		}
		list = append(list, ch)
	}
	return list, nil
}

// ownNetworks are the ranges that are not public but a person's own: channels stand there as anywhere. What is link-local is
// not among them, nor are the addresses at which clouds hand out credentials: an index and a lock are written by strangers,
// and may name any address.
var ownNetworks = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"}

// newClient makes the client of a command that a person runs: it may reach what that person may, but for what is said above
// and not in allow.
func newClient(version string, allow []string) (*fetch.Client, error) {
	policy := fetch.Policy{AllowLoopback: true}
	for _, text := range ownNetworks {
		policy.AllowCIDRs = append(policy.AllowCIDRs, netip.MustParsePrefix(text))
	}
	for _, text := range allow {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fault.Field("--egress-allow", "--egress-allow: %q is no network such as 169.254.0.0/16", text)
		}
		policy.AllowCIDRs = append(policy.AllowCIDRs, network)
	}
	return fetch.New(fetch.Config{UserAgent: "entrepot/" + version, PerHost: 24, Egress: policy})
}

func (f *channelFlags) open(client *fetch.Client, text string) (gateway.Channel, error) {
	bad := func(format string, args ...any) error {
		return fault.Field("--channel", "channel %s: %s", fetch.Redact(text), fmt.Sprintf(format, args...))
	}
	path := ""
	switch {
	case strings.HasPrefix(text, "file://"):
		u, err := url.Parse(text)
		if err != nil || u.Host != "" && u.Host != "localhost" {
			return gateway.Channel{}, bad("is no file URL of this machine")
		}
		path = u.Path
	case !strings.Contains(text, "://"):
		if info, err := os.Stat(text); err == nil && info.IsDir() {
			path = text
			break
		}
		if f.alias == "" || strings.ContainsAny(text, `\`) || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/") {
			return gateway.Channel{}, bad("there is no such directory; give a URL, or --channel-alias for names")
		}
		text = strings.TrimRight(f.alias, "/") + "/" + text
	}
	if path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return gateway.Channel{}, bad("%v", err)
		}
		src, err := gateway.Dir(abs)
		if err != nil {
			return gateway.Channel{}, bad("%v", err)
		}
		return gateway.Channel{URL: (&url.URL{Scheme: "file", Path: filepath.ToSlash(abs)}).String(), Source: src}, nil
	}
	remote, err := client.Remote(fetch.RemoteConfig{Name: "channel", Kind: "conda", BaseURL: text})
	if err != nil {
		return gateway.Channel{}, bad("%v", err)
	}
	f.opened = append(f.opened, remote)
	return gateway.Channel{URL: strings.TrimRight(remote.BaseURL(), "/"), Source: &web{remote}}, nil
}

// options are what the gateway is to read for the command.
func (f *channelFlags) options(a *app, problem func(error)) (gateway.Options, error) {
	opts := gateway.Options{Subdirs: []string{f.platform, dist.Noarch}, Offline: f.offline}
	if f.platform == dist.Noarch {
		opts.Subdirs = opts.Subdirs[:1]
	}
	if !f.noRelations {
		opts.Relations = &gateway.Relations{Depth: gateway.DefaultRelationDepth, Open: func(_ context.Context, url string) (gateway.Source, error) {
			ch, err := f.open(f.client, url)
			return ch.Source, err
		}}
	}
	if !f.quiet {
		opts.Problem = problem
	}
	if f.noCache {
		return opts, nil
	}
	dir := f.cacheDir
	if dir == "" {
		dir = a.getenv("ENTREPOT_CACHE_DIR")
	}
	if dir == "" {
		var err error
		if dir, err = gateway.DefaultCacheDir(); err != nil {
			return opts, nil //nolint:nilerr // no home, no cache
		}
	}
	opts.Cache = gateway.NewCache(dir)
	return opts, nil
}

// web reads a channel over HTTP.
type web struct{ remote *fetch.Remote }

const maxBody = 1 << 30

// Open implements gateway.Source.
func (w *web) Open(ctx context.Context, path string, known gateway.Validators) (*gateway.File, error) {
	req := fetch.Request{IfNoneMatch: known.ETag, IfModifiedSince: known.LastModified, MaxSize: maxBody}
	if strings.Contains(path, "://") {
		req.URL = path
	} else {
		req.Path = path
	}
	resp, err := w.remote.Get(ctx, req)
	if err != nil {
		if fault.Is(err, fault.NotFound) || fetch.StatusOf(err) == 501 { // both say that there are no shards
			return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return nil, err
	}
	file := &gateway.File{
		Body: resp.Body, NotModified: resp.NotModified, Fresh: maxAge(resp.Header.Get("Cache-Control")),
		Validators: gateway.Validators{ETag: resp.ETag, LastModified: resp.LastModified},
	}
	if file.NotModified {
		resp.Body.Close()
		file.Body = nil
	}
	return file, nil
}

// maxAge reads how long an answer is fresh; one that must not be kept is never.
func maxAge(cacheControl string) time.Duration {
	var age time.Duration
	for part := range strings.SplitSeq(cacheControl, ",") {
		key, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), "=")
		switch key {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil && n > 0 {
				age = time.Duration(n) * time.Second
			}
		}
	}
	return min(age, time.Hour)
}

// machine returns the virtual packages to solve for: what this machine has, or a platform's defaults, changed by flags.
func (a *app) machine(platform string, changes []string) ([]virtual.Package, error) {
	host := virtual.Host{Platform: hostPlatform(), Root: os.DirFS("/"), LookupEnv: os.LookupEnv}
	list, err := host.Detect(platform)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	for _, text := range changes {
		name, value, _ := strings.Cut(text, "=")
		list = slices.DeleteFunc(list, func(p virtual.Package) bool { return p.Name == name })
		if value == "" && strings.HasSuffix(text, "=") {
			if !dist.ValidVirtualName(name) {
				return nil, fault.Field("--virtual-package", "--virtual-package: %q is no virtual package's name", name)
			}
			continue
		}
		p, err := virtual.Parse(text)
		if err != nil {
			return nil, fault.Field("--virtual-package", "--virtual-package: %v", err)
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(x, y virtual.Package) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}

// rootNames are the names to begin with; nil if a spec may mean any name.
func rootNames(specs ...[]matchspec.Spec) []string {
	names := []string{}
	for _, list := range specs {
		for i := range list {
			name, ok := list[i].ExactName()
			if !ok {
				return nil
			}
			names = append(names, name)
		}
	}
	return names
}
