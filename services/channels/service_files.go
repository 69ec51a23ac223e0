package channels

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// ListPackages returns a page of a channel's packages, also of those whose last file was deleted.
func (s *Service) ListPackages(ctx context.Context, req *channelsv1.ListPackagesRequest) (*channelsv1.ListPackagesResponse, error) {
	if _, ok := packageOrders[req.GetOrderBy()]; !ok {
		return nil, fault.Field("order_by", "must be name, -name, update_time or -update_time")
	}
	p, err := parsePage(req.GetPageSize(), req.GetSkip(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	offset, err := p.offset()
	if err != nil {
		return nil, err
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	query := strings.ToLower(likePart(req.GetQuery()))
	rows, err := listPackages(ctx, s.pool, ch.ID, query, req.GetOrderBy(), offset, p.size+1)
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListPackagesResponse)
	if out.TotalSize, err = countPackages(ctx, s.pool, ch.ID, query); err != nil {
		return nil, err
	}
	if len(rows) > p.size {
		rows = rows[:p.size]
		out.NextPageToken = tokenOf(strconv.FormatInt(offset+int64(p.size), 10))
	}
	for _, r := range rows {
		out.Packages = append(out.Packages, r.toProto())
	}
	return out, nil
}

// GetPackage returns one package.
func (s *Service) GetPackage(ctx context.Context, req *channelsv1.GetPackageRequest) (*channelsv1.Package, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	p, err := packageByName(ctx, s.pool, ch, likePart(req.GetPackage()))
	if err != nil {
		return nil, err
	}
	return p.toProto(), nil
}

// ListFiles returns a page of a channel's files, by path or newest version first.
func (s *Service) ListFiles(ctx context.Context, req *channelsv1.ListFilesRequest) (*channelsv1.ListFilesResponse, error) {
	p, err := parsePage(req.GetPageSize(), req.GetSkip(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if req.GetNewestFirst() && req.GetPackage() == "" {
		return nil, fault.Field("newest_first", "needs a package")
	}
	if (req.GetVersionMatch() != "" || req.GetCreatedSince() != nil) && !req.GetNewestFirst() {
		return nil, fault.Field("newest_first", "version_match and created_since need it")
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	f := fileFilter{channel: ch.ID, name: likePart(req.GetPackage()), subdir: likePart(req.GetSubdir())}
	if f.name != "" {
		if _, err := packageByName(ctx, s.pool, ch, f.name); err != nil {
			return nil, err
		}
	}
	if req.GetNewestFirst() {
		return s.listNewest(ctx, f, p, req)
	}
	rows, err := listFiles(ctx, s.pool, f, p.after, p.skip, p.size+1)
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListFilesResponse)
	if out.TotalSize, err = countFiles(ctx, s.pool, f); err != nil {
		return nil, err
	}
	if len(rows) > p.size {
		rows = rows[:p.size]
		out.NextPageToken = tokenOf(rows[len(rows)-1].Path)
	}
	for _, r := range rows {
		out.Files = append(out.Files, r.toProto())
	}
	return out, nil
}

// versionFilter tells which of a package's files a list is asked for.
func versionFilter(req *channelsv1.ListFilesRequest) (func(fileVersion) bool, error) {
	since := req.GetCreatedSince().AsTime() // 1970 if absent
	if req.GetVersionMatch() == "" {
		return func(v fileVersion) bool { return !v.CreatedAt.Before(since) }, nil
	}
	spec, err := version.ParseSpec(req.GetVersionMatch())
	if err != nil {
		return nil, fault.Field("version_match", "%w", err)
	}
	return func(v fileVersion) bool {
		parsed, err := version.Parse(v.Version)
		return err == nil && spec.Match(parsed) && !v.CreatedAt.Before(since)
	}, nil
}

// listNewest orders a package's files by conda's version order, which no index of the database knows: of one package
// there are few enough to sort.
func (s *Service) listNewest(ctx context.Context, f fileFilter, p page, req *channelsv1.ListFilesRequest) (*channelsv1.ListFilesResponse, error) {
	offset, err := p.offset()
	if err != nil {
		return nil, err
	}
	fits, err := versionFilter(req)
	if err != nil {
		return nil, err
	}
	all, err := listFileVersions(ctx, s.pool, f)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v fileVersion) bool { return !fits(v) })
	sortNewest(all)
	out := &channelsv1.ListFilesResponse{TotalSize: int64(len(all))}
	from := min(offset, int64(len(all)))
	to := min(from+int64(p.size), int64(len(all)))
	paths := make([]string, 0, to-from)
	for _, v := range all[from:to] {
		paths = append(paths, v.Path)
	}
	rows, err := filesAt(ctx, s.pool, f.channel, paths)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if r := rows[path]; r != nil { // nil: deleted since the list was made
			out.Files = append(out.Files, r.toProto())
		}
	}
	if to < int64(len(all)) {
		out.NextPageToken = tokenOf(strconv.FormatInt(to, 10))
	}
	return out, nil
}

// sortNewest sorts by version, then build number, both descending; paths break ties, so that the order is total.
func sortNewest(files []fileVersion) {
	parsed := make(map[string]version.Version)
	for _, f := range files {
		if _, ok := parsed[f.Version]; !ok {
			v, err := version.Parse(f.Version)
			if err != nil {
				v = version.Version{} // last
			}
			parsed[f.Version] = v
		}
	}
	slices.SortFunc(files, func(a, b fileVersion) int {
		if c := compareVersions(parsed[b.Version], parsed[a.Version]); c != 0 {
			return c
		}
		if a.BuildNumber != b.BuildNumber {
			if a.BuildNumber > b.BuildNumber {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
}

// ListRevisions returns a page of a channel's history, newest first.
func (s *Service) ListRevisions(ctx context.Context, req *channelsv1.ListRevisionsRequest) (*channelsv1.ListRevisionsResponse, error) {
	p, err := parsePage(req.GetPageSize(), 0, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	before := int64(1<<63 - 1)
	if p.after != "" {
		if before, err = p.offset(); err != nil {
			return nil, err
		}
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	rows, err := listRevisions(ctx, s.pool, ch.ID, before, p.size+1)
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListRevisionsResponse)
	if len(rows) > p.size {
		rows = rows[:p.size]
		out.NextPageToken = tokenOf(strconv.FormatInt(rows[len(rows)-1].Number, 10))
	}
	for _, r := range rows {
		out.Revisions = append(out.Revisions, r.toProto())
	}
	return out, nil
}

// CheckUpload says before the first byte whether an upload may be started. What it says is not a promise: others may be
// faster, and AddFiles decides.
func (s *Service) CheckUpload(ctx context.Context, req *channelsv1.CheckUploadRequest) (*channelsv1.CheckUploadResponse, error) {
	ch, err := s.channel(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	if err := hostedOnly(ch); err != nil {
		return nil, err
	}
	if req.GetFilename() != "" {
		d, err := parseFilename(req.GetFilename())
		if err != nil {
			return nil, err
		}
		if req.GetForce() {
			if err := s.roles.Allow(ctx, authn.FromContext(ctx), authz.ChannelOverwrite, ch.resource().PackageOf(d.Name)); err != nil {
				return nil, err
			}
		}
	}
	if req.GetSize() < 0 {
		return nil, fault.Field("size", "must not be negative")
	}
	remaining := int64(-1)
	// A forced upload gives back what it replaces, which only the package itself tells; the limit is what it may have.
	if ch.SizeLimit != nil {
		remaining = max(*ch.SizeLimit-ch.Size, 0)
		if req.GetForce() {
			remaining = *ch.SizeLimit
		}
		if req.GetSize() > remaining || remaining == 0 {
			return nil, overQuota(ch)
		}
	}
	left, limit, err := tenantLeft(ctx, s.pool, ch.Namespace)
	if err != nil || limit < 0 {
		return &channelsv1.CheckUploadResponse{Remaining: remaining}, err
	}
	if req.GetForce() {
		left = limit
	}
	if req.GetSize() > left || left == 0 {
		return nil, overTenant(ch.Namespace)
	}
	if left = roughly(left); remaining < 0 || left < remaining {
		remaining = left
	}
	return &channelsv1.CheckUploadResponse{Remaining: remaining}, nil
}

// AddFiles publishes uploads whose bytes are stored: all in one revision, or none.
func (s *Service) AddFiles(ctx context.Context, req *channelsv1.AddFilesRequest) (*channelsv1.AddFilesResponse, error) {
	ch, err := s.channel(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	if err := hostedOnly(ch); err != nil {
		return nil, err
	}
	if n := len(req.GetFiles()); n == 0 || n > maxUploadFiles {
		return nil, fault.Field("files", "a request publishes 1 to %d files", maxUploadFiles)
	}
	caller := authn.FromContext(ctx)
	// Names and rights first: they cost nothing.
	for _, f := range req.GetFiles() {
		d, err := parseFilename(f.GetFilename())
		if err != nil {
			return nil, err
		}
		if req.GetPackage() != "" && d.Name != req.GetPackage() {
			return nil, fault.Field("package", "requested package endpoint '%s' does not match the uploaded package name '%s'", shown(req.GetPackage()), d.Name).
				WithReason("PACKAGE_MISMATCH")
		}
		if req.GetForce() {
			if err := s.roles.Allow(ctx, caller, authz.ChannelOverwrite, ch.resource().PackageOf(d.Name)); err != nil {
				return nil, err
			}
		}
	}
	holds, err := claimsOf(caller)
	if err != nil {
		return nil, err
	}
	come := s.uploads.expect(ch.ID)
	defer come()
	u := &upload{force: req.GetForce(), caller: caller, holds: holds, come: come}
	for _, f := range req.GetFiles() {
		in, err := s.inspect(ctx, f, caller.Actor())
		if err != nil {
			return nil, err
		}
		u.files = append(u.files, in)
	}
	if err := s.uploads.submit(ctx, ch.ID, u); err != nil {
		return nil, err
	}
	if len(u.out.fresh) > 0 {
		s.own(ctx, caller, u.out.channel, u.newPackages())
	}
	out := &channelsv1.AddFilesResponse{Revision: u.out.channel.Head}
	for _, in := range u.files {
		f := u.found[in.file.path]
		if f == nil {
			return nil, errors.New("a file that was published is not listed: " + in.file.path)
		}
		out.Files = append(out.Files, f.toProto())
	}
	return out, nil
}
