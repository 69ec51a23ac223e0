package quetz

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
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
	_, err := d.Channels.DeletePackage(r.Context(), &channelsv1.DeletePackageRequest{Channel: channel, Package: r.PathValue("package")})
	if err != nil {
		return err
	}
	d.Files.Changed(channel)
	return writeNull(w, http.StatusOK)
}

// version is Quetz's PackageVersion.
type version struct {
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

func versionOf(channel string, f *channelsv1.File) version {
	return version{
		ID: f.GetId(), ChannelName: channel, PackageName: f.GetName(), Platform: f.GetSubdir(), Version: f.GetVersion(),
		BuildString: f.GetBuild(), BuildNumber: f.GetBuildNumber(), Filename: f.GetPath()[strings.LastIndexByte(f.GetPath(), '/')+1:],
		Info: rawJSON(f.GetRecord()), Uploader: profile{Name: f.GetUploader()}, TimeCreated: naive(f.GetCreateTime().AsTime()),
	}
}

// versions reads a package's files, newest version first, and hands those that the query asks for to take.
func (d *dialect) versions(r *http.Request, channel string, skip, limit int64, take func(version) error) (int64, error) {
	var since time.Time
	if s := r.URL.Query().Get("time_created__ge"); s != "" {
		t, err := parseTime(s)
		if err != nil {
			return 0, queryProblem("time_created__ge", "datetime_from_date_parsing", "Input should be a valid datetime or date", s)
		}
		since = t
	}
	pkg := r.PathValue("package")
	if _, err := d.Channels.GetPackage(r.Context(), &channelsv1.GetPackageRequest{Channel: channel, Package: pkg}); err != nil {
		return 0, err
	}
	base := &channelsv1.ListFilesRequest{Channel: channel, Package: pkg, NewestFirst: true}
	page := func(skip int64, size int32) (int, int64, error) {
		base.Skip, base.PageSize = skip, size
		got, err := d.Channels.ListFiles(r.Context(), base)
		if err != nil {
			return 0, 0, err
		}
		for _, f := range got.GetFiles() {
			if f.GetCreateTime().AsTime().Before(since) {
				continue
			}
			if err := take(versionOf(channel, f)); err != nil {
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
	_, err = d.versions(r, channel, 0, -1, func(v version) error { return list.add(v) })
	return list.end(err)
}

type page struct {
	Pagination pagination `json:"pagination"`
	Result     []version  `json:"result"`
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
	skip, limit, err := queryPage(r)
	if err != nil {
		return err
	}
	filtered := r.URL.Query().Get("time_created__ge") != ""
	all := page{Pagination: pagination{Skip: skip, Limit: limit}, Result: []version{}}
	from, most := skip, limit
	if filtered { // the filter comes before the page
		from, most = 0, -1
	}
	total, err := d.versions(r, channel, from, most, func(v version) error { all.Result = append(all.Result, v); return nil })
	if err != nil {
		return err
	}
	if filtered {
		total = int64(len(all.Result))
		all.Result = all.Result[min(skip, total):]
		if limit >= 0 {
			all.Result = all.Result[:min(limit, int64(len(all.Result)))]
		}
	}
	all.Pagination.AllRecordsCount = total
	edge.WriteJSON(w, http.StatusOK, "application/json", all)
	return nil
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
	edge.WriteJSON(w, http.StatusOK, "application/json", versionOf(channel, f))
	return nil
}

func (d *dialect) deleteVersion(w http.ResponseWriter, r *http.Request) error {
	channel := r.PathValue("channel")
	_, err := d.Channels.DeleteFile(r.Context(), &channelsv1.DeleteFileRequest{
		Channel: channel, Path: r.PathValue("platform") + "/" + r.PathValue("filename"),
	})
	if err != nil {
		return err
	}
	d.Files.Changed(channel)
	return writeNull(w, http.StatusOK)
}
