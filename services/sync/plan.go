package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// planInput is what a plan is made with, beside the indexes.
type planInput struct {
	blobs    blob.Store
	remote   fetcher
	settings *channelsv1.MirrorSettings
	rejected map[blob.Digest]string // archives that are known to be bad; nil if the index is trusted
}

// makePlan turns the indexes into a plan blob. A record that cannot be taken is a failure of that file only; whatever
// the channel has under its name is kept. An index that turns out to be unusable is a failure of its subdir only, which
// the plan then does not name: nothing of it is touched.
//
// A plan says at its beginning how many entries come, and the indexes of a large channel do not fit into memory together.
// So each index is read twice, to count (when it comes, see examine) and to convert.
func makePlan(ctx context.Context, in planInput, found []index, r *Result) (blob.Info, int64, error) {
	header := &channelsv1.PlanHeader{Version: plan.Version, Format: "conda"}
	var scans []*scan
	for _, ix := range found {
		switch {
		case ix.err != nil:
			r.fail(ix.Subdir+"/repodata.json", reasonIndex, ix.err.Error())
			continue
		case !ix.known():
			continue // upstream has never had it
		}
		sub := &channelsv1.PlanSubdir{Subdir: ix.Subdir}
		if ix.IndexPath != "" {
			sc, err := newScan(ctx, in, ix)
			if err != nil {
				if ctx.Err() != nil || !upstreams(err) {
					return blob.Info{}, 0, fmt.Errorf("%s: %w", ix.IndexPath, err)
				}
				r.fail(ix.IndexPath, reasonIndex, err.Error())
				continue
			}
			scans = append(scans, sc)
			sub.Removed = sc.removed
			header.Entries += sc.taken
		}
		header.Subdirs = append(header.Subdirs, sub)
	}
	// By path, and so by subdir with its slash: `osx-64/x` comes after `osx-64-x/y`.
	slices.SortFunc(scans, func(a, b *scan) int { return strings.Compare(a.Subdir+"/", b.Subdir+"/") })
	info, err := plan.Put(ctx, in.blobs, header, func(add func(*channelsv1.PlanEntry) error) error {
		for _, sc := range scans {
			if err := sc.each(ctx, r, add); err != nil {
				return fmt.Errorf("%s: %w", sc.IndexPath, err)
			}
		}
		return nil
	})
	return info, header.Entries, err
}

// upstreams reports whether an error is about an index's bytes, and not about our reading them.
func upstreams(err error) bool {
	var e *repodata.Error
	return errors.As(err, &e) || fault.Is(err, fault.Upstream)
}

func (sc *scan) refused(e *channelsv1.PlanEntry) (string, bool) {
	if len(sc.rejected) == 0 || len(e.GetSha256()) == 0 || e.GetRedirect() {
		return "", false
	}
	why, ok := sc.rejected[blob.Digest(e.GetSha256())]
	return why, ok
}

// wanted applies the lists of Quetz: an entry is a prefix of the file name; include wins.
func wanted(settings *channelsv1.MirrorSettings, filename string) bool {
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return strings.HasPrefix(filename, p) })
	}
	switch {
	case len(settings.GetIncludelist()) > 0:
		return has(settings.GetIncludelist())
	case len(settings.GetExcludelist()) > 0:
		return !has(settings.GetExcludelist())
	}
	return true
}

// entryOf makes a plan entry of a record, whose bytes it uses. With an error the entry is one that keeps what the channel has.
func entryOf(settings *channelsv1.MirrorSettings, subdir, filename string, raw []byte) (*channelsv1.PlanEntry, error) {
	keep := &channelsv1.PlanEntry{Path: subdir + "/" + filename, Arch: subdir, Keep: true, Size: -1}
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return keep, err
	}
	keep.Name, keep.Version, keep.Build = d.Name, d.Version, d.Build
	rec, err := repodata.ParseRecord(raw)
	if err != nil {
		return keep, err
	}
	if rec.Name != d.Name || rec.Version != d.Version || rec.Build != d.Build {
		return keep, fmt.Errorf("the record is of %s-%s-%s", rec.Name, rec.Version, rec.Build)
	}
	e := &channelsv1.PlanEntry{
		Path: keep.Path, Name: d.Name, Version: d.Version, Build: d.Build, BuildNumber: int64(rec.BuildNumber), Arch: subdir,
		Size: -1, Record: raw,
	}
	switch {
	case rec.Size > math.MaxInt64 || rec.BuildNumber > math.MaxInt64:
		return keep, fmt.Errorf("a size of %d or a build number of %d is not meant", rec.Size, rec.BuildNumber)
	case rec.Size > 0:
		e.Size = int64(rec.Size)
	}
	if e.Sha256, err = digest(rec.SHA256, 32); err != nil {
		return keep, fmt.Errorf("sha256: %w", err)
	}
	if e.Md5, err = digest(rec.MD5, 16); err != nil {
		return keep, fmt.Errorf("md5: %w", err)
	}
	e.Redirect = slices.Contains(settings.GetProxylist(), d.Name)
	return e, nil
}

func digest(s string, size int) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%q is not %d hexadecimal digits", s, 2*size)
	}
	return b, nil
}

// joinBase resolves info.base_url (CEP 15), which may be relative to the index. The result ends in a slash.
func joinBase(remote, indexPath, base string) (*url.URL, error) {
	bad := func(err error) (*url.URL, error) {
		return nil, fault.New(fault.Upstream, "info.base_url %.200q cannot be used: %w", base, err)
	}
	root, err := url.Parse(remote)
	if err != nil {
		return bad(err)
	}
	ref, err := url.Parse(base)
	if err != nil {
		return bad(err)
	}
	u := root.JoinPath(indexPath).ResolveReference(ref)
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" {
		return bad(errors.New("it is no plain http address"))
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	return u.JoinPath("/"), nil
}

// below returns where the file of a path is under base: as a path below remote, or else as a URL. Empty means at its path.
func below(remote string, base *url.URL, path string) string {
	u := base.JoinPath(url.PathEscape(path[strings.IndexByte(path, '/')+1:]))
	root, err := url.Parse(remote)
	if err != nil || root.Scheme != u.Scheme || root.Host != u.Host {
		return u.String()
	}
	switch p, ok := strings.CutPrefix(u.Path, root.Path); {
	case !ok:
		return u.String()
	case p == path:
		return ""
	default:
		return p
	}
}

// fileOf returns what a JSON pointer into an index is about: the file name under its bucket, else the top-level key.
func fileOf(pointer string) string {
	tokens := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	at := 0
	switch {
	case tokens[0] == "v3":
		at = 2
	case tokens[0] == string(repodata.TarBz2) || tokens[0] == string(repodata.Conda):
		at = 1
	}
	return strings.ReplaceAll(strings.ReplaceAll(tokens[min(at, len(tokens)-1)], "~1", "/"), "~0", "~")
}

// fingerprint is equal for two runs that would make the same plan.
func fingerprint(settings *channelsv1.MirrorSettings, inspect bool, found []index) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "3\n%q\n%d\n%q\n%q\n%q\n%q\n%t\n", settings.GetUrl(), settings.GetRemovalPolicy(), settings.GetIncludelist(),
		settings.GetExcludelist(), settings.GetProxylist(), settings.GetSubdirs(), inspect)
	for _, ix := range found {
		if ix.known() { // a subdir that was never there says nothing, whether it was asked for or not
			fmt.Fprintf(h, "%s %s %x\n", ix.Subdir, ix.IndexPath, ix.says())
		}
	}
	return h.Sum(nil)
}
