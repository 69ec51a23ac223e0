package quetz

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Pages for people: what a channel and a subdir hold, made when they are asked for, so that they show what is there. All
// that comes from packages is escaped, and links are http and https only.

// pageRows is how many packages or files a page has.
const pageRows = 500

// subdirs are those that a channel may have.
var subdirs = []string{
	"noarch", "linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64", "linux-ppc64le", "linux-riscv32",
	"linux-riscv64", "linux-s390x", "osx-64", "osx-arm64", "win-32", "win-64", "win-arm64", "freebsd-64", "emscripten-wasm32", "wasi-wasm32", "zos-z",
}

// pageOfPath tells which page a path of a channel is: the channel's own (empty), or a subdir's.
func pageOfPath(path string) (subdir string, ok bool) {
	path = strings.TrimSuffix(strings.TrimSuffix(path, "index.html"), "/")
	if path == "" {
		return "", true
	}
	for _, s := range subdirs {
		if s == path {
			return s, true
		}
	}
	return "", false
}

// file serves a channel's files, and its pages.
func (d *dialect) file(w http.ResponseWriter, r *http.Request) {
	channel, path := r.PathValue("channel"), r.PathValue("path")
	subdir, ok := pageOfPath(path)
	if !ok || strings.Contains(channel, "@") {
		d.Files.Serve(w, r, channel, path, writeError)
		return
	}
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: channel})
	if err != nil {
		writeError(w, r, err)
		return
	}
	if ch.GetKind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY { // whose pages are upstream's
		d.Files.Serve(w, r, channel, strings.TrimPrefix(subdir+"/index.html", "/"), writeError)
		return
	}
	if subdir == "" {
		err = d.channelPage(w, r, ch)
	} else {
		err = d.subdirPage(w, r, ch, subdir)
	}
	if err != nil {
		writeError(w, r, err)
	}
}

// page is what every page has.
type pageHead struct {
	Title, Channel, Base string
	Prev, Next           string
	Total                int64
}

type channelView struct {
	pageHead
	Description string
	Subdirs     []string
	Packages    []packageView
}

type packageView struct {
	Name, Summary, Version, Home string
	Subdirs                      []string
}

type subdirView struct {
	pageHead
	Subdir string
	Files  []fileView
}

type fileView struct {
	Name, Path, SHA256, Added string
	Size                      string
}

const pageStyle = `<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #ddd;vertical-align:top}code{font-size:85%}</style>`

var (
	channelTemplate = template.Must(template.New("channel").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>` + pageStyle + `</head><body>
<h1>{{.Title}}</h1>{{with .Description}}<p>{{.}}</p>{{end}}
<p>{{range .Subdirs}}<a href="{{$.Base}}/{{.}}/">{{.}}</a> {{end}}</p>
<table><tr><th>package</th><th>latest version</th><th>subdirs</th><th>summary</th></tr>
{{range .Packages}}<tr><td>{{if .Home}}<a href="{{.Home}}" rel="nofollow noopener">{{.Name}}</a>{{else}}{{.Name}}{{end}}</td><td>{{.Version}}</td><td>{{range .Subdirs}}{{.}} {{end}}</td><td>{{.Summary}}</td></tr>
{{end}}</table><p>{{.Total}} packages {{with .Prev}}<a href="{{.}}">back</a>{{end}} {{with .Next}}<a href="{{.}}">more</a>{{end}}</p></body></html>
`))
	subdirTemplate = template.Must(template.New("subdir").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>` + pageStyle + `</head><body>
<h1>{{.Title}}</h1><p><a href="{{.Base}}/">{{.Channel}}</a></p>
<table><tr><th>file</th><th>bytes</th><th>added</th><th>SHA-256</th></tr>
<tr><td><a href="{{.Base}}/{{.Subdir}}/repodata.json">repodata.json</a></td><td></td><td></td><td></td></tr>
{{range .Files}}<tr><td><a href="{{.Path}}">{{.Name}}</a></td><td>{{.Size}}</td><td>{{.Added}}</td><td><code>{{.SHA256}}</code></td></tr>
{{end}}</table><p>{{.Total}} files {{with .Prev}}<a href="{{.}}">back</a>{{end}} {{with .Next}}<a href="{{.}}">more</a>{{end}}</p></body></html>
`))
)

// writeHTML answers with a page. Nothing on it may run, and nothing may frame it.
func writeHTML(w http.ResponseWriter, r *http.Request, t *template.Template, view any) error {
	var b strings.Builder
	if err := t.Execute(&b, view); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodHead {
		_, err := w.Write([]byte(b.String()))
		return ignoreGone(err)
	}
	return nil
}

func cacheOf(w http.ResponseWriter, ch *channelsv1.Channel) {
	value := fmt.Sprintf("max-age=%d", min(ch.GetTtl(), 60))
	if ch.GetPrivate() {
		value = "private, " + value
	}
	w.Header().Set("Cache-Control", value)
}

// newPage fills in the head and the links to the neighbours.
func newPage(r *http.Request, ch *channelsv1.Channel, title string, skip, total int64) pageHead {
	root := "/get/"
	if strings.HasPrefix(r.Pattern, "GET /channels/") {
		root = "/channels/"
	}
	p := pageHead{Title: title, Channel: ch.GetName(), Base: root + url.PathEscape(ch.GetName()), Total: total}
	if skip > 0 {
		p.Prev = "?skip=" + strconv.FormatInt(max(skip-pageRows, 0), 10)
	}
	if skip+pageRows < total {
		p.Next = "?skip=" + strconv.FormatInt(skip+pageRows, 10)
	}
	return p
}

func querySkip(r *http.Request) (int64, error) {
	s := r.URL.Query().Get("skip")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, queryProblem("skip", "int_parsing", "Input should be a valid integer, unable to parse string as an integer", s)
	}
	return n, nil
}

func (d *dialect) channelPage(w http.ResponseWriter, r *http.Request, ch *channelsv1.Channel) error {
	skip, err := querySkip(r)
	if err != nil {
		return err
	}
	got, err := d.Channels.ListPackages(r.Context(), &channelsv1.ListPackagesRequest{Channel: ch.GetName(), Skip: skip, PageSize: pageRows})
	if err != nil {
		return err
	}
	v := channelView{pageHead: newPage(r, ch, ch.GetName(), skip, got.GetTotalSize()), Description: ch.GetDescription(), Subdirs: d.subdirsOf(r.Context(), ch.GetName())}
	for _, p := range got.GetPackages() {
		row := packageView{Name: p.GetName(), Summary: p.GetSummary(), Version: p.GetCurrentVersion(), Subdirs: p.GetSubdirs()}
		if u, err := url.Parse(p.GetUrl()); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
			row.Home = p.GetUrl()
		}
		v.Packages = append(v.Packages, row)
	}
	cacheOf(w, ch)
	return writeHTML(w, r, channelTemplate, v)
}

// subdirsOf finds out which subdirs a channel has an index of. The caller may read the channel.
func (d *dialect) subdirsOf(ctx context.Context, channel string) (out []string) {
	has := make([]bool, len(subdirs))
	var asking sync.WaitGroup
	for i, s := range subdirs {
		asking.Go(func() {
			got, err := d.Channels.Resolve(authn.WithSelf(ctx), &channelsv1.ResolveRequest{Channel: channel, Path: s + "/repodata_shards.msgpack.zst"})
			has[i] = err == nil && got.GetFound()
		})
	}
	asking.Wait()
	for i, s := range subdirs {
		if has[i] {
			out = append(out, s)
		}
	}
	return out
}

func (d *dialect) subdirPage(w http.ResponseWriter, r *http.Request, ch *channelsv1.Channel, subdir string) error {
	skip, err := querySkip(r)
	if err != nil {
		return err
	}
	got, err := d.Channels.ListFiles(r.Context(), &channelsv1.ListFilesRequest{Channel: ch.GetName(), Subdir: subdir, Skip: skip, PageSize: pageRows})
	if err != nil {
		return err
	}
	if got.GetTotalSize() == 0 && subdir != "noarch" {
		return fault.New(fault.NotFound, "%s/%s/index.html not found", ch.GetName(), subdir)
	}
	v := subdirView{pageHead: newPage(r, ch, ch.GetName()+"/"+subdir, skip, got.GetTotalSize()), Subdir: subdir}
	for _, f := range got.GetFiles() {
		row := fileView{Name: strings.TrimPrefix(f.GetPath(), subdir+"/"), SHA256: f.GetSha256(), Added: f.GetCreateTime().AsTime().UTC().Format(time.DateOnly)}
		row.Path = v.Base + "/" + (&url.URL{Path: f.GetPath()}).EscapedPath()
		if f.GetSize() >= 0 {
			row.Size = strconv.FormatInt(f.GetSize(), 10)
		}
		v.Files = append(v.Files, row)
	}
	cacheOf(w, ch)
	return writeHTML(w, r, subdirTemplate, v)
}

var docsTemplate = template.Must(template.New("docs").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>API</title>` + pageStyle + `</head><body>
<h1>API</h1><p>The description for programs: <a href="/openapi.json">/openapi.json</a>.</p>
<table><tr><th>method</th><th>path</th><th></th></tr>
{{range .}}<tr><td>{{.Method}}</td><td><code>{{.Pattern}}</code></td><td>{{.Summary}}</td></tr>
{{end}}</table></body></html>
`))

// docs lists the dialect's routes for people.
func docs(routes []edge.Route) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error { return writeHTML(w, r, docsTemplate, routes) }
}
