package teletest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

var update = flag.Bool("update", false, "write the table of metrics into docs/operations.md")

const operations = "../../../../../docs/operations.md"

// oneOf is a set of values that a label may have.
func oneOf(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

// like is a set of values by their form; it must be one that no stranger can extend.
func like(pattern string) func(string) bool {
	return regexp.MustCompile("^(" + pattern + ")$").MatchString
}

// labels are all labels that a metric of ours may have, with the values that these may have. A label that is not here,
// or a value that is in none of its sets, fails the tests: it may be one that strangers make up.
func labels(t *testing.T) map[string]func(string) bool {
	t.Helper()
	page, err := os.ReadFile("../../../../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	routes := []string{"none", "/{$}"}
	for _, m := range regexp.MustCompile("(?m)^\\| [A-Z]+ \\| `([^`]+)` \\|").FindAllSubmatch(page, -1) {
		routes = append(routes, string(m[1]))
	}
	const number = `[0-9.e+-]+|\+Inf`
	return map[string]func(string) bool{
		"http_request_method": oneOf("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "_OTHER"),
		"http_route":          oneOf(routes...),
		"http_status_class":   like("[1-5]xx"),
		"rpc_method": func(v string) bool {
			return rpc.Linked("/"+v) || "/"+v == rpc.OtherMethod
		},
		"rpc_response_status_code": like("[A-Z_]+"),
		"rpc_system_name":          oneOf("grpc"),
		// Kinds are registered by the binary; the database has no others than a binary put there.
		"kind": like(`(channels|sync|storage|metrics|identity|crawler|environments)\.[a-z]+|audit|findings|metrics|metrics_batches|proxied_files|proxied_documents`),
		"state": oneOf("queued", "scheduled", "running", "succeeded", "dead", "cancelled", "lost", // of jobs
			"idle", "used", "opening"), // of connections
		"operation": oneOf("put", "open", "stat", "delete", "list", "commit"),
		"outcome": oneOf("ok", "not_found", "refused", "error", "not_modified", "added", "unchanged", "removed", "failed", "changed",
			"UPSTREAM_STATUS", "UPSTREAM_REFUSED", "UPSTREAM_TRUNCATED", "UPSTREAM_TOO_LARGE", "UPSTREAM_TIMEOUT", "UPSTREAM_REDIRECT_LOOP", "UPSTREAM_REDIRECT_REFUSED",
			"UPSTREAM_ENCODING", "UPSTREAM_PROTOCOL", "UPSTREAM_SIZE", "UPSTREAM_DIGEST", "UPSTREAM_THROTTLED", "UPSTREAM_NOT_FOUND", "EGRESS_DENIED",
			"other", "cancelled", "local",
			"hit", "miss", "stale", "negative", "redirect", "fetched", "stored", "followed", // of proxies
			"sent", "repeated", "malformed"), // of batches of download counts
		"remote_kind":        oneOf("conda", "rpm", "file", "proxy"),
		"cache":              oneOf("resolve", "grant", "credential", "hot", "card"),
		"result":             oneOf("hit", "miss"),
		"network":            oneOf("tcp", "memory"), // of calls between services
		"problem":            oneOf("corrupt", "missing", "unreadable"),
		"le":                 like(number),
		"quantile":           like(number),
		"db_system_name":     oneOf("postgresql"),
		"pgx_operation_type": like("[a-z_]+"),
		"error_type":         like("[A-Za-z0-9_.*]+"),
		"service_name":       oneOf("all"),
		"service_version":    oneOf("test"),
		"version":            like(`go1\..*`),
	}
}

// family is a metric with its series.
type family struct {
	name, kind, help string
	labels           []string
	series           map[string]bool
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? [^ ]+$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?`)
)

func scrape(t *testing.T, s *platformtest.Stack) []byte {
	t.Helper()
	return s.Anonymous().In(t).Must(200, "GET", "http://"+s.OpsAddr+"/metrics", nil).Body
}

// parse reads Prometheus' text format, and fails on labels and values that are not declared.
func parse(t *testing.T, text []byte) map[string]*family {
	t.Helper()
	allowed := labels(t)
	out := map[string]*family{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(name, " ")
			out[name] = &family{name: name, help: help, series: map[string]bool{}}
			continue
		}
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(name, " ")
			if out[name] == nil {
				t.Errorf("%s has no HELP", name)
				out[name] = &family{name: name, series: map[string]bool{}}
			}
			out[name].kind = kind
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			if line != "" && !strings.HasPrefix(line, "#") {
				t.Errorf("not a sample: %q", line)
			}
			continue
		}
		name := m[1]
		f := out[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if f == nil {
				f = out[strings.TrimSuffix(name, suffix)]
			}
		}
		if f == nil {
			t.Errorf("%s has no HELP", name)
			continue
		}
		f.series[name+"{"+m[2]+"}"] = true
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			valid, known := allowed[l[1]]
			if !known {
				t.Errorf("%s has the label %s, which is not declared", name, l[1])
			} else if !valid(l[2]) {
				t.Errorf("%s has the value %s=%q, which is not declared", name, l[1], l[2])
			}
			if l[1] != "le" && l[1] != "quantile" && !slices.Contains(f.labels, l[1]) {
				f.labels = append(f.labels, l[1])
			}
		}
	}
	for _, f := range out {
		slices.Sort(f.labels)
	}
	return out
}

// everything makes the platform do something of each kind once, with names, paths, methods, hosts and errors that nobody
// has used before.
func everything(t *testing.T, s *platformtest.Stack, bad *fetchtest.Upstream, n int) {
	t.Helper()
	u := func(what string) string { return fmt.Sprintf("%s-%d-unique", what, n) }
	admin, anyone := s.Admin().In(t), s.Anonymous().In(t)
	channel := u("chan")
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": channel, "private": false})
	data, filename := synctest.Package(t, "noarch", u("pkg"), "1.0", dist.Conda)
	admin.Must(201, "POST", "/api/channels/"+channel+"/upload/"+filename+"?sha256=", data)
	admin.Must(200, "GET", "/get/"+channel+"/noarch/"+filename, nil)
	admin.Must(200, "POST", "/entrepot/v1/users", map[string]any{"username": u("user"), "role": "member"})
	for _, path := range []string{
		"/" + u("nowhere"), "/get/" + channel + "/" + u("sub") + "/" + u("file"), "/get/" + u("none") + "/x/y", "/channels/" + channel + "@2/noarch/repodata.json", "/api/" + u("x") + "/y",
		"/entrepot/v1/" + u("x"), "/entrepot/v1/channels/" + u("none"), "/entrepot/v1/jobs/" + u("job"), "/t/" + u("key") + "/api/me", "/api/channels?q=" + u("query"), "/api/dummylogin/" + u("user"),
		"/entrepot/v1/channels/" + channel + "/files?page_size=1&query=" + u("q"), "/api/channels/" + channel + "/packages/" + u("p") + "/versions",
	} {
		anyone.Do("GET", path, nil)
		admin.Do("DELETE", path, nil)
	}
	for _, method := range []string{strings.ToUpper("FOO" + fmt.Sprint(n)), "PROPFIND", "get", "OPTIONS"} {
		anyone.Do(method, "/get/"+channel+"/noarch/repodata.json", nil)
		anyone.Do(method, "/"+u("nowhere"), nil)
	}
	anyone.Send(0, platformtest.Request{Method: "GET", Path: "/api/me", Header: http.Header{
		"X-Api-Key": {u("key")}, "User-Agent": {u("agent")}, "X-Request-Id": {u("request")}, "Traceparent": {fmt.Sprintf("00-%032x-%016x-01", n+1, n+1)},
	}})
	// gRPC: names that nobody serves, at both ports.
	for _, conn := range []interface {
		Invoke(context.Context, string, any, any) error
	}{invoker{s.Conn()}, invoker{s.ServiceConn()}} {
		for _, method := range []string{"/" + u("svc") + "/" + u("Method"), "/entrepot.channels.v1.ChannelService/" + u("Method"), "/grpc.health.v1.Health/" + u("Method")} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.AdminKey, u("x-header"), "v")
			if conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}) == nil {
				t.Errorf("%s answers", method)
			}
		}
	}
	proxied(t, s, u("proxy"))
	// Upstreams: a host that is not there, addresses that are refused, errors whose text is new each time.
	for _, url := range []string{bad.URL + "/" + u("path"), "http://" + u("host") + ".invalid", fmt.Sprintf("http://127.0.0.1:%d", 1+n%1000), fmt.Sprintf("http://10.9.8.%d/", n%256)} {
		name := "up-" + fmt.Sprint(len(url)) + "-" + u("m") + fmt.Sprint(strings.Count(url, "."))
		if admin.Do("POST", "/api/channels", map[string]any{"name": name, "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []string{}}).Status == 201 {
			admin.Do("POST", "/entrepot/v1/channels/"+name+":sync", map[string]any{})
		}
	}
}

// TestNoLabelIsUnbounded: the number of series does not depend on what strangers and users think up.
func TestNoLabelIsUnbounded(t *testing.T) {
	s, _ := traced(t, platformtest.WithConfig(impatient))
	bad := fetchtest.New(t)
	bad.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this error names "+r.URL.Path, http.StatusInternalServerError)
	}))
	const warm, rounds = 3, 40
	for n := range warm {
		everything(t, s, bad, n)
	}
	time.Sleep(time.Second) // the jobs of the first rounds show all outcomes
	before := parse(t, scrape(t, s))
	for n := range rounds {
		everything(t, s, bad, warm+n)
	}
	after := parse(t, scrape(t, s))
	vectors := 0
	for name, f := range after {
		vectors += len(f.series)
		was := 0
		if b := before[name]; b != nil {
			was = len(b.series)
		}
		// A rare outcome may show up late, with all its buckets; a label that grows has a series for each round.
		series := max(1, len(f.series)/max(1, distinct(f)))
		if grown := (len(f.series) - was) / series; grown > rounds/4 {
			t.Errorf("%s had %d series and has %d after %d rounds of new names", name, was, len(f.series), rounds)
		}
		for one := range f.series {
			if strings.Contains(one, "unique") || strings.Contains(one, "FOO") || strings.Contains(one, "10.9.8.") || strings.Contains(one, "127.0.0.1") {
				t.Errorf("a name that somebody made up is in %s", one)
			}
		}
	}
	t.Logf("%d metrics, %d series after %d rounds", len(after), vectors, warm+rounds)
}

// distinct counts a family's label sets without the buckets.
func distinct(f *family) int {
	sets := map[string]bool{}
	for one := range f.series {
		_, l, _ := strings.Cut(one, "{")
		sets[regexp.MustCompile(`,?le="[^"]*"`).ReplaceAllString(l, "")] = true
	}
	return len(sets)
}

func impatient(c *platform.Config) {
	c.Sync.Attempts, c.Sync.HeaderTimeout, c.Sync.StallTimeout = 2, time.Second, 700*time.Millisecond
}

// TestMetricsPage: docs/operations.md lists every metric, with its labels, and no other. -update writes the table.
func TestMetricsPage(t *testing.T) {
	s, _ := traced(t, platformtest.WithConfig(impatient))
	bad := fetchtest.New(t)
	bad.Fallback(fetchtest.Status(500))
	up := upstream(t)
	newMirror(t, s, "good", up.URL)
	syncJob(t, s, "good", nil)
	syncJob(t, s, "good", nil)
	everything(t, s, bad, 0)
	for _, job := range []string{"gc", "scrub"} {
		s.Admin().In(t).Must(200, "POST", "/entrepot/v1/storage/"+job, map[string]any{})
	}
	var all map[string]*family
	eventually(t, "the metrics of upkeep", func() bool {
		all = parse(t, scrape(t, s))
		return all["entrepot_storage_scrub_finished_seconds"] != nil && all["entrepot_storage_blobs"] != nil && all["entrepot_fetch_retries_total"] != nil && all["entrepot_metrics_lag_seconds"] != nil
	})
	var table bytes.Buffer
	table.WriteString("| metric | type | labels | what |\n|---|---|---|---|\n")
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := all[name]
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || name == "target_info" {
			continue // of the client library; they are described elsewhere
		}
		if f.help == "" || !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: HELP is not a sentence: %q", name, f.help)
		}
		if !wellNamed(f) {
			t.Errorf("%s, a %s, does not end in its base unit or, for a counter, in _total", name, f.kind)
		}
		shown := "–"
		if len(f.labels) > 0 {
			shown = "`" + strings.Join(f.labels, "` `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, f.kind, shown, strings.TrimSuffix(f.help, "."))
	}
	page, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics: written by go test ./services/cmd/entrepot/internal/teletest -run MetricsPage -update -->\n", "<!-- end of metrics -->\n"
	head, rest, ok := bytes.Cut(page, []byte(begin))
	old, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of metrics: %q … %q", operations, begin, end)
	}
	if bytes.Equal(old, table.Bytes()) {
		return
	}
	if *update {
		if err := os.WriteFile(operations, slices.Concat(head, []byte(begin), table.Bytes(), []byte(end), tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	was := strings.Split(string(old), "\n")
	is := strings.Split(table.String(), "\n")
	for _, l := range was {
		if !slices.Contains(is, l) {
			t.Errorf("the page says %s", l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			t.Errorf("the page lacks %s", l)
		}
	}
}

// wellNamed: what has a unit says so in its base form, and only counters end in _total.
func wellNamed(f *family) bool {
	if total := strings.HasSuffix(f.name, "_total"); total != (f.kind == "counter") {
		return false
	}
	name := strings.TrimSuffix(f.name, "_total")
	for _, bad := range []string{"_milliseconds", "_ms", "_kib", "_mib", "_kilobytes", "_megabytes", "_minutes", "_percent"} {
		if strings.HasSuffix(name, bad) {
			return false
		}
	}
	if f.kind == "histogram" {
		return strings.HasSuffix(name, "_seconds") || strings.HasSuffix(name, "_bytes")
	}
	return true
}
