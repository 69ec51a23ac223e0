package quetz

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

func (d *dialect) listPackages(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.listed(r)
	if err != nil {
		return err
	}
	list := newList(w)
	_, err = collect(0, -1, func(skip int64, size int32) (int, int64, error) {
		got, err := d.Channels.ListPackages(r.Context(), &channelsv1.ListPackagesRequest{
			Channel: ch.GetName(), Query: r.URL.Query().Get("q"), Skip: skip, PageSize: size,
		})
		if err != nil {
			return 0, 0, err
		}
		for _, p := range got.GetPackages() {
			if err := list.add(packageToQuetz(p)); err != nil {
				return 0, 0, err
			}
		}
		return len(got.GetPackages()), got.GetTotalSize(), nil
	})
	return list.end(err)
}

func (d *dialect) deletePackage(w http.ResponseWriter, r *http.Request) error {
	channel := r.PathValue("channel")
	// Who may not see the files may not delete them either, and is told so below.
	files, _ := d.Channels.ListFiles(r.Context(), &channelsv1.ListFilesRequest{Channel: channel, Package: r.PathValue("package"), NewestFirst: true, PageSize: 100})
	_, err := d.Channels.DeletePackage(r.Context(), &channelsv1.DeletePackageRequest{Channel: channel, Package: r.PathValue("package")})
	if err != nil {
		return err
	}
	bySubdir := map[string]string{} // each has an index of its own
	for _, f := range files.GetFiles() {
		bySubdir[f.GetSubdir()] = f.GetPath()
	}
	d.awaitIndex(r.Context(), channel, slices.Sorted(maps.Values(bySubdir))...)
	return writeNull(w, http.StatusOK)
}

// indexWithin bounds how long the answer to a deletion waits for the index: most need some tens of milliseconds, and no
// request shall wait for one that is large or late.
const indexWithin = 200 * time.Millisecond

// awaitIndex waits a moment for the indexes that list deleted files to follow, one file of each, so that who reads an
// index after the answer finds in it what can be had. It is a courtesy: the edge that took the deletion does not serve the
// files in any case.
func (d *dialect) awaitIndex(ctx context.Context, channel string, paths ...string) {
	ctx, cancel := context.WithTimeout(authn.WithSelf(ctx), indexWithin)
	defer cancel()
	for wait := 10 * time.Millisecond; len(paths) > 0; {
		got, err := d.Channels.Resolve(ctx, &channelsv1.ResolveRequest{Channel: channel, Path: paths[0]})
		if err != nil {
			return
		}
		if !got.GetFound() {
			paths = paths[1:]
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait *= 2
		}
	}
}

// packageVersion is Quetz's PackageVersion.
type packageVersion struct {
	ID            string          `json:"id"`
	ChannelName   string          `json:"channel_name"`
	PackageName   string          `json:"package_name"`
	Platform      string          `json:"platform"`
	Version       string          `json:"version"`
	BuildString   string          `json:"build_string"`
	BuildNumber   int64           `json:"build_number"`
	Filename      string          `json:"filename"`
	Info          json.RawMessage `json:"info"`
	Uploader      profile         `json:"uploader"`
	TimeCreated   string          `json:"time_created"`
	DownloadCount int64           `json:"download_count"`
}

// profiles are how people who uploaded files are shown, by login name.
type profiles struct {
	d     *dialect
	known map[string]profile
}

// find looks up the uploaders of files. Who is no user (any more) is shown by name.
func (p *profiles) find(ctx context.Context, files ...*channelsv1.File) error {
	var names []string
	for _, f := range files {
		name := f.GetUploader()
		if _, ok := p.known[name]; ok {
			continue
		}
		if p.known == nil {
			p.known = map[string]profile{}
		}
		p.known[name] = profile{Name: name}
		if name != "" && !strings.Contains(name, ":") { // service:sync
			names = append(names, name)
		}
	}
	for some := range slices.Chunk(names, 500) {
		resp, err := p.d.Identity.GetUsers(authn.WithSelf(ctx), &identityv1.GetUsersRequest{Usernames: some})
		if err != nil {
			return err
		}
		for _, u := range resp.GetUsers() {
			for _, name := range some {
				if strings.EqualFold(name, u.GetUsername()) {
					p.known[name] = profile{u.GetName(), u.GetAvatarUrl()}
				}
			}
		}
	}
	return nil
}

func versionOf(channel string, f *channelsv1.File, uploaders profiles, downloads map[string]int64) packageVersion {
	return packageVersion{
		ID: f.GetId(), ChannelName: channel, PackageName: f.GetName(), Platform: f.GetSubdir(), Version: f.GetVersion(),
		BuildString: f.GetBuild(), BuildNumber: f.GetBuildNumber(), Filename: f.GetPath()[strings.LastIndexByte(f.GetPath(), '/')+1:],
		Info: rawJSON(f.GetRecord()), Uploader: uploaders.known[f.GetUploader()], TimeCreated: naive(f.GetCreateTime().AsTime()),
		DownloadCount: downloads[f.GetPath()],
	}
}

// versions reads a package's files, newest version first, and hands those that the query asks for to take.
func (d *dialect) versions(r *http.Request, channel string, skip, limit int64, take func(packageVersion) error) (int64, error) {
	base := &channelsv1.ListFilesRequest{Channel: channel, Package: r.PathValue("package"), NewestFirst: true}
	if s := r.URL.Query().Get("time_created__ge"); s != "" {
		t, err := parseTime(s)
		if err != nil {
			return 0, queryProblem("time_created__ge", "datetime_from_date_parsing", "Input should be a valid datetime or date", s)
		}
		base.CreatedSince = timestamppb.New(t)
	}
	if s := r.URL.Query().Get("version_match_str"); s != "" {
		if _, err := version.ParseSpec(s); err != nil {
			return 0, queryProblem("version_match_str", "value_error", "Value error, "+err.Error(), s)
		}
		base.VersionMatch = s
	}
	pkg := r.PathValue("package")
	if _, err := d.Channels.GetPackage(r.Context(), &channelsv1.GetPackageRequest{Channel: channel, Package: pkg}); err != nil {
		return 0, err
	}
	uploaders := profiles{d: d}
	page := func(skip int64, size int32) (int, int64, error) {
		base.Skip, base.PageSize = skip, size
		got, err := d.Channels.ListFiles(r.Context(), base)
		if err != nil {
			return 0, 0, err
		}
		if err := uploaders.find(r.Context(), got.GetFiles()...); err != nil {
			return 0, 0, err
		}
		downloads := d.downloads(r.Context(), channel, got.GetFiles())
		for _, f := range got.GetFiles() {
			if err := take(versionOf(channel, f, uploaders, downloads)); err != nil {
				return 0, 0, err
			}
		}
		return len(got.GetFiles()), got.GetTotalSize(), nil
	}
	return collect(skip, limit, page)
}

func (d *dialect) listVersions(w http.ResponseWriter, r *http.Request) error {
	channel, err := d.listedFor(r)
	if err != nil {
		return err
	}
	list := newList(w)
	_, err = d.versions(r, channel, 0, -1, func(v packageVersion) error { return list.add(v) })
	return list.end(err)
}

type pagination struct {
	Skip            int64 `json:"skip"`
	Limit           int64 `json:"limit"`
	AllRecordsCount int64 `json:"all_records_count"`
}

func (d *dialect) pageVersions(w http.ResponseWriter, r *http.Request) error {
	channel, err := d.listedFor(r)
	if err != nil {
		return err
	}
	return writePage(w, r, func(skip, limit int64, take func(packageVersion) error) (int64, error) {
		return d.versions(r, channel, skip, limit, take)
	})
}

func queryPage(r *http.Request) (skip, limit int64, err error) {
	if err := normaliseQuery(r); err != nil {
		return 0, 0, err
	}
	read := func(name string) *int64 {
		if n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64); err == nil {
			return &n
		}
		return nil
	}
	return pageOf(read("skip"), read("limit"))
}

// findVersion returns the file that the route names.
func (d *dialect) findVersion(r *http.Request, channel string) (*channelsv1.File, error) {
	platform, filename := r.PathValue("platform"), r.PathValue("filename")
	got, err := d.Channels.ListFiles(r.Context(), &channelsv1.ListFilesRequest{
		Channel: channel, Package: r.PathValue("package"), Subdir: platform, PageSize: 1000,
	})
	for err == nil {
		for _, f := range got.GetFiles() {
			if f.GetPath() == platform+"/"+filename {
				return f, nil
			}
		}
		if got.GetNextPageToken() == "" {
			return nil, fault.New(fault.NotFound, "package version %s/%s not found", platform, filename)
		}
		got, err = d.Channels.ListFiles(r.Context(), &channelsv1.ListFilesRequest{
			Channel: channel, Package: r.PathValue("package"), Subdir: platform, PageSize: 1000, PageToken: got.GetNextPageToken(),
		})
	}
	return nil, err
}

func (d *dialect) getVersion(w http.ResponseWriter, r *http.Request) error {
	channel, err := d.listedFor(r)
	if err != nil {
		return err
	}
	f, err := d.findVersion(r, channel)
	if err != nil {
		return err
	}
	uploaders := profiles{d: d}
	if err := uploaders.find(r.Context(), f); err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", versionOf(channel, f, uploaders, d.downloads(r.Context(), channel, []*channelsv1.File{f})))
	return nil
}

func (d *dialect) deleteVersion(w http.ResponseWriter, r *http.Request) error {
	channel, path := r.PathValue("channel"), r.PathValue("platform")+"/"+r.PathValue("filename")
	if _, err := d.Channels.DeleteFile(r.Context(), &channelsv1.DeleteFileRequest{Channel: channel, Path: path}); err != nil {
		return err
	}
	d.awaitIndex(r.Context(), channel, path)
	return writeNull(w, http.StatusOK)
}
