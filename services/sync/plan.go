package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// makePlan turns the indexes into a plan blob. A record that cannot be taken is a failure of that file only; whatever
// the channel has under its name is kept.
func makePlan(ctx context.Context, blobs blob.Store, settings *channelsv1.MirrorSettings, found []index, r *Result) (blob.Digest, int64, error) {
	header := &channelsv1.PlanHeader{Version: 1, Format: "conda"}
	removed := map[string][]string{}
	var readable []index
	for _, ix := range found {
		if ix.err != nil {
			r.fail(ix.Subdir+"/repodata.json", "INDEX_UNREADABLE", ix.err.Error())
			continue // not named in the plan: nothing of it is touched
		}
		readable = append(readable, ix)
	}
	var total int64
	entries := make([][]*channelsv1.PlanEntry, len(readable))
	for i, ix := range readable {
		if ix.IndexPath != "" {
			list, gone, err := subdirEntries(ctx, blobs, settings, ix.subdirState, r)
			if err != nil {
				return blob.Digest{}, 0, fmt.Errorf("%s: %w", ix.IndexPath, err)
			}
			entries[i], removed[ix.Subdir] = list, gone
			total += int64(len(list))
		}
		header.Subdirs = append(header.Subdirs, &channelsv1.PlanSubdir{Subdir: ix.Subdir, Removed: removed[ix.Subdir]})
	}
	header.Entries = total
	// found is sorted by subdir, but `osx-64/x` sorts before `osx-64-x/…` only if the slash is part of the key.
	slices.SortStableFunc(entries, func(a, b []*channelsv1.PlanEntry) int { return strings.Compare(firstPath(a), firstPath(b)) })
	info, err := plan.Put(ctx, blobs, header, func(add func(*channelsv1.PlanEntry) error) error {
		for _, list := range entries {
			for _, e := range list {
				if err := add(e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return info.Digest, total, err
}

func firstPath(list []*channelsv1.PlanEntry) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].GetPath()
}

// subdirEntries reads one index into plan entries sorted by path.
func subdirEntries(ctx context.Context, blobs blob.Store, settings *channelsv1.MirrorSettings, s subdirState, r *Result) (list []*channelsv1.PlanEntry, removed []string, err error) {
	baseURL := ""
	opts := repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			if b.V3() {
				r.fail(s.Subdir+"/"+key, "UNSUPPORTED", "v3 records are not mirrored yet")
				return nil
			}
			if !wanted(settings, key) {
				return nil
			}
			e, err := entryOf(settings, s.Subdir, key, raw)
			if err != nil {
				r.fail(s.Subdir+"/"+key, "BAD_RECORD", err.Error())
				if e == nil {
					return nil
				}
			}
			list = append(list, e)
			return nil
		},
		Removed: func(filename string) error { removed = append(removed, filename); return nil },
		Problem: func(p *repodata.Error) error {
			r.fail(s.Subdir+"/"+lastPart(p.Path), "BAD_RECORD", p.Error())
			return nil
		},
	}
	doc, err := readIndex(ctx, blobs, s, opts)
	if err != nil {
		return nil, nil, err
	}
	baseURL = doc.Info.BaseURL
	if baseURL != "" {
		for _, e := range list {
			if e.Url, err = joinBase(s.IndexPath, baseURL, e.GetPath()); err != nil {
				return nil, nil, err
			}
		}
	}
	slices.SortFunc(list, func(a, b *channelsv1.PlanEntry) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	list = slices.CompactFunc(list, func(a, b *channelsv1.PlanEntry) bool { return a.GetPath() == b.GetPath() })
	return list, removed, nil
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

// entryOf makes a plan entry of a record. With an error, a non-nil entry keeps what the channel has.
func entryOf(settings *channelsv1.MirrorSettings, subdir, filename string, raw []byte) (*channelsv1.PlanEntry, error) {
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return nil, err
	}
	keep := &channelsv1.PlanEntry{Path: subdir + "/" + filename, Name: d.Name, Version: d.Version, Build: d.Build, Arch: subdir, Keep: true, Size: -1}
	rec, err := repodata.ParseRecord(raw)
	if err != nil {
		return keep, err
	}
	if rec.Name != d.Name || rec.Version != d.Version || rec.Build != d.Build {
		return keep, fmt.Errorf("the record is of %s-%s-%s", rec.Name, rec.Version, rec.Build)
	}
	e := &channelsv1.PlanEntry{
		Path: keep.Path, Name: d.Name, Version: d.Version, Build: d.Build, BuildNumber: int64(rec.BuildNumber), Arch: subdir,
		Size: -1, Record: bytes.Clone(raw),
	}
	if rec.Size > 0 {
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

// joinBase puts info.base_url (CEP 15), which may be relative to the index, before a file name.
func joinBase(indexPath, base, path string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("base_url %q: %w", base, err)
	}
	if !strings.HasSuffix(b.Path, "/") {
		b.Path += "/"
	}
	name := path[strings.IndexByte(path, '/')+1:]
	u := b.ResolveReference(&url.URL{Path: name})
	if u.IsAbs() {
		return u.String(), nil
	}
	dir := &url.URL{Path: "/" + indexPath[:strings.LastIndexByte(indexPath, '/')+1]}
	return strings.TrimPrefix(dir.ResolveReference(u).String(), "/"), nil
}

// lastPart returns what a JSON pointer ends in.
func lastPart(pointer string) string {
	name := pointer[strings.LastIndexByte(pointer, '/')+1:]
	return strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
}

// fingerprint is equal for two runs that would make the same plan.
func fingerprint(settings *channelsv1.MirrorSettings, inspect bool, found []index) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "1\n%q\n%d\n%q\n%q\n%q\n%q\n%t\n", settings.GetUrl(), settings.GetRemovalPolicy(), settings.GetIncludelist(),
		settings.GetExcludelist(), settings.GetProxylist(), settings.GetSubdirs(), inspect)
	for _, ix := range found {
		fmt.Fprintf(h, "%s %s %x\n", ix.Subdir, ix.IndexPath, ix.IndexDigest)
	}
	return h.Sum(nil)
}
