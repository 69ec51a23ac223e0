package apitest

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// rightsRow is one row of testdata/rights.tsv: what each person gets from a route.
type rightsRow struct {
	route, kase string
	want        []int // in the order of the file's columns
}

// unasked stands for a cell that another row is about.
const unasked = 0

// rightsTable reads the hand-written table: the names of the people, and the rows.
func rightsTable(t *testing.T) (people []string, rows []rightsRow) {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(readFile(t, filepath.Join("testdata", "rights.tsv"))))
	r.Comma, r.Comment, r.LazyQuotes = '\t', '#', true
	all, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	people = all[0][2:]
	for _, line := range all[1:] {
		row := rightsRow{route: line[0], kase: line[1]}
		for _, cell := range line[2:] {
			if cell == "-" {
				row.want = append(row.want, unasked)
				continue
			}
			n, err := strconv.Atoi(cell)
			if err != nil {
				t.Fatalf("%s: %v", line[0], err)
			}
			row.want = append(row.want, n)
		}
		rows = append(rows, row)
	}
	return people, rows
}

// cast is a platform with the people of the table. All roles on channels go to the same users, so that a fresh channel
// only needs its roles.
type cast struct {
	*world
	t    testing.TB
	keys map[string]string // of people; scoped and expired belong to a stage

	upstream string // a channel's URL that nobody answers
	// calm, if set, undoes what a mutation did to the policy, and again does it once more.
	calm func() (again func())
	// spare are stages that were made ahead.
	spare chan *stage
}

// stage is a private channel with one of everything, and what the cases need beside it.
type stage struct {
	channel, mirror, source string // source is readable by all, to copy from
	open                    string // as channel, but public: who may read it may not therefore write
	pkg                     *pkg
	scoped, expired         string
	victim                  string // a user to be changed
	victimKey               string // its key's id
	job                     string // another's job
	mirrorID                string
}

// newCast makes the people.
func newCast(t *testing.T) *cast {
	t.Helper()
	w := &world{Stack: platformtest.Start(t)}
	c := &cast{world: w, t: t, keys: map[string]string{"anonymous": "", "serverowner": w.AdminKey}, upstream: "http://127.0.0.1:8999/get/upstream"}
	for who, role := range map[string]string{
		"nobody": "", "stranger": "member", "member": "", "maintainer": "", "owner": "", "pkgmember": "", "pkgmaintainer": "", "pkgowner": "", "servermaintainer": "maintainer",
	} {
		c.keys[who] = c.newUser(who, role)
	}
	return c
}

// newUser makes a user and returns a key.
func (c *cast) newUser(name, role string) string {
	c.t.Helper()
	c.Admin().In(c.t).Must(200, "POST", "/entrepot/v1/users", map[string]any{"username": name, "role": role})
	return c.User(name).Key
}

// newStage makes a stage. The server's owner makes it and hands it over.
func (c *cast) newStage() *stage {
	c.t.Helper()
	if c.calm != nil {
		defer c.calm()()
	}
	all, err := samplePackages()
	if err != nil {
		c.t.Fatal(err)
	}
	admin := c.Admin().In(c.t)
	s := &stage{channel: c.name(), mirror: c.name(), source: c.name(), open: c.name(), pkg: all[0], victim: "v" + c.name()}
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": s.channel})
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": s.source, "private": false})
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": s.mirror, "mirror_channel_url": c.upstream, "mirror_mode": "mirror", "actions": []any{}})
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": s.open, "private": false})
	for _, channel := range []string{s.channel, s.mirror, s.open} {
		for _, role := range []string{"owner", "maintainer", "member"} {
			admin.Must(201, "POST", "/api/channels/"+channel+"/members", map[string]any{"username": role, "role": role})
		}
	}
	admin.Must(201, "POST", "/api/channels/"+s.source+"/upload/"+all[2].filename+"?sha256=", all[2].data)
	for _, channel := range []string{s.channel, s.open} {
		admin.Must(201, "POST", "/api/channels/"+channel+"/upload/"+s.pkg.filename+"?sha256=", s.pkg.data)
		for who, role := range map[string]string{"pkgowner": "owner", "pkgmaintainer": "maintainer", "pkgmember": "member"} {
			admin.Must(201, "POST", "/api/channels/"+channel+"/packages/"+s.pkg.name+"/members", map[string]any{"username": who, "role": role})
		}
	}
	admin.Must(201, "POST", "/api/channels/"+s.channel+"/mirrors", map[string]any{"url": c.URL + "/get/" + s.mirror})
	// Who made them goes, so that what the server's owner may do here follows from that role alone.
	for _, path := range []string{
		"/api/channels/" + s.channel, "/api/channels/" + s.channel + "/packages/" + s.pkg.name,
		"/api/channels/" + s.open, "/api/channels/" + s.open + "/packages/" + s.pkg.name, "/api/channels/" + s.mirror,
	} {
		admin.Must(200, "DELETE", path+"/members?username=alice", nil)
	}
	var mirrors []struct{ ID string }
	admin.Must(200, "GET", "/api/channels/"+s.channel+"/mirrors", nil).JSON(&mirrors)
	s.mirrorID = mirrors[0].ID
	s.victimKey = c.newUser(s.victim, "")[:authn.KeyIDLength]
	var job struct{ ID int64 }
	admin.Must(201, "POST", "/api/jobs", map[string]any{"manifest": "cleanup_dry_run", "items_spec": "no-such-package"}).JSON(&job)
	s.job = strconv.FormatInt(job.ID, 10)
	owner := c.As(c.keys["owner"]).In(c.t)
	var key struct{ Key string }
	owner.Must(201, "POST", "/api/api-keys", map[string]any{"description": "narrow", "roles": []any{map[string]any{"channel": s.channel, "role": "member"}}}).JSON(&key)
	s.scoped = key.Key
	owner.Must(201, "POST", "/api/api-keys", map[string]any{"description": "old", "expire_at": "2099-12-31", "roles": []any{}}).JSON(&key)
	s.expired = key.Key
	if n := c.exec(c.t, "UPDATE identity.api_keys SET expire_time = now() - interval '1 hour' WHERE id = $1", key.Key[:authn.KeyIDLength]); n != 1 {
		c.t.Fatalf("%d keys were ended", n)
	}
	return s
}

// fresh returns a stage that nobody has used.
func (c *cast) fresh() *stage {
	select {
	case s := <-c.spare:
		return s
	default:
		return c.newStage()
	}
}

// prepare makes the stages that a walk through the rows uses up, many at a time: one takes twenty requests.
func (c *cast) prepare(rows []rightsRow) {
	n := 0
	for _, row := range rows {
		for _, want := range row.want {
			if row.uses() && want < 300 && want != unasked {
				n++
			}
		}
	}
	c.spare = make(chan *stage, n)
	var making sync.WaitGroup
	slots := make(chan struct{}, 6)
	for range n {
		slots <- struct{}{}
		making.Go(func() {
			c.spare <- c.newStage()
			<-slots
		})
	}
	making.Wait()
}

func (c *cast) client(t testing.TB, who string, s *stage) *platformtest.Client {
	key, ok := c.keys[who]
	switch who {
	case "scoped":
		key, ok = s.scoped, true
	case "expired":
		key, ok = s.expired, true
	}
	if !ok {
		t.Fatalf("the table has a column %s, which is nobody here", who)
	}
	return c.As(key).In(t)
}

// request fills in what a case sends.
func (c *cast) request(t testing.TB, row rightsRow, who string, s *stage) platformtest.Request {
	all, err := samplePackages()
	if err != nil {
		t.Fatal(err)
	}
	next := all[1] // another version of the package that is there
	method, pattern, _ := strings.Cut(row.route, " ")
	channel := s.channel
	if kase, ok := strings.CutPrefix(row.kase, "public "); ok {
		channel, row.kase = s.open, kase
	}
	provider, username := "github", s.victim
	if strings.Contains(pattern, "dummylogin") {
		username = "dave"
	}
	path := strings.NewReplacer(
		"{channel}", channel, "{channel_name}", channel, "{package}", s.pkg.name, "{package_name}", s.pkg.name,
		"{platform}", s.pkg.subdir, "{filename}", s.pkg.filename, "{path...}", s.pkg.subdir+"/"+s.pkg.filename,
		"{key}", s.victimKey, "{username}", username, "{provider}", provider,
	).Replace(pattern)
	if strings.Contains(pattern, "/mirrors/{id}") {
		path = strings.Replace(path, "{id}", s.mirrorID, 1)
	}
	path = strings.Replace(path, "{id}", s.job, 1)
	req := platformtest.Request{Method: method, Path: path}
	form := func(fields map[string]string, p *pkg) {
		data, contentType := formBody(fields, p)
		req.Body, req.Header = data, http.Header{"Content-Type": {contentType}}
	}
	switch row.route {
	case "POST /api/channels":
		body := map[string]any{"name": c.name()}
		switch row.kase {
		case "size_limit":
			body["size_limit"] = 1000
		case "proxy", "mirror":
			body["mirror_channel_url"], body["mirror_mode"], body["actions"] = c.upstream, row.kase, []any{}
		}
		req.Body = body
	case "PATCH /api/channels/{channel}":
		req.Body = map[string]any{row.kase: map[string]any{"private": true, "ttl": 7, "size_limit": 1 << 40}[row.kase]}
	case "POST /api/channels/{channel}/members":
		req.Body = map[string]any{"username": s.victim, "role": "member"}
	case "DELETE /api/channels/{channel}/members":
		req.Path += "?username=member"
	case "POST /api/channels/{channel}/mirrors":
		req.Body = map[string]any{"url": c.URL + "/get/" + s.mirror}
	case "PUT /api/channels/{channel_name}/actions":
		if row.kase == "synchronize" || row.kase == "synchronize_repodata" {
			req.Path = strings.Replace(req.Path, s.channel, s.mirror, 1)
		}
		req.Body = map[string]any{"action": row.kase, "start_at": "2099-01-01T00:00:00"}
	case "GET /api/channels/search", "GET /api/packages/search":
		req.Path += "?q=x"
	case "POST /api/channels/{channel}/packages":
		req.Body = map[string]any{"name": "fresh"}
	case "POST /api/channels/{channel}/packages/copy":
		req.Path += fmt.Sprintf("?source_channel=%s&source_package=%s&subdir=%s&filename=%s", s.source, all[2].name, all[2].subdir, all[2].filename)
	case "POST /api/channels/{channel}/packages/{package}/members":
		req.Body = map[string]any{"username": s.victim, "role": "member"}
	case "DELETE /api/channels/{channel}/packages/{package}/members":
		req.Path += "?username=pkgmaintainer"
	case "POST /api/channels/{channel}/upload/{filename}":
		p := next
		if row.kase == "force" {
			p = s.pkg
		}
		req.Path = strings.Replace(req.Path, s.pkg.filename, p.filename, 1) + "?sha256=" + p.sha256 + "&force=" + strconv.FormatBool(row.kase == "force")
		req.Body = p.data
	case "POST /api/channels/{channel}/files", "POST /api/channels/{channel}/packages/{package}/files":
		if row.kase == "force" {
			form(map[string]string{"force": "true"}, s.pkg)
		} else {
			form(nil, next)
		}
	case "PUT /api/users/{username}/role":
		var role any = row.kase
		if row.kase == "null" {
			role = nil
		}
		req.Body = map[string]any{"role": role}
	case "POST /api/api-keys":
		roles := []any{}
		switch row.kase {
		case "owner", "maintainer", "member":
			roles = []any{map[string]any{"channel": s.channel, "role": row.kase}}
		case "package":
			roles = []any{map[string]any{"channel": s.channel, "package": s.pkg.name, "role": "maintainer"}}
		}
		req.Body = map[string]any{"description": "x", "roles": roles}
	case "POST /api/jobs":
		req.Body = map[string]any{"manifest": "cleanup_dry_run", "items_spec": "*", "start_at": "2099-01-01T00:00:00"}
	case "PATCH /api/jobs/{id}":
		req.Body = map[string]any{"status": "cancelled"}
	}
	return req
}

// uses are the routes whose success uses the stage up.
var uses = []string{
	"DELETE /api/channels/{channel}", "POST /api/channels/{channel}/members", "DELETE /api/channels/{channel}/members", "DELETE /api/channels/{channel}/mirrors/{id}",
	"DELETE /api/channels/{channel}/packages/{package}", "POST /api/channels/{channel}/packages", "POST /api/channels/{channel}/packages/copy",
	"POST /api/channels/{channel}/packages/{package}/members", "DELETE /api/channels/{channel}/packages/{package}/members",
	"DELETE /api/channels/{channel}/packages/{package}/versions/{platform}/{filename}", "POST /api/channels/{channel}/upload/{filename}",
	"POST /api/channels/{channel}/files", "POST /api/channels/{channel}/packages/{package}/files", "DELETE /api/users/{username}", "PUT /api/users/{username}/role",
	"DELETE /api/api-keys/{key}",
}

// uses reports whether a success of the row uses its stage up.
func (r rightsRow) uses() bool {
	return slices.Contains(uses, r.route) && !strings.HasSuffix(r.kase, "force")
}

// walk asks for one row as everybody and calls wrong for each cell that is not as written. It returns the stage that the
// next row stands on.
func (c *cast) walk(t testing.TB, people []string, row rightsRow, s *stage, wrong func(who string, got int, body []byte)) *stage {
	ask := func(i int, s *stage) int {
		resp := c.client(t, people[i], s).Send(0, c.request(t, row, people[i], s))
		bad := resp.Status != row.want[i]
		switch body := string(resp.Body); resp.Status {
		case 401:
			bad = bad || (body != `{"detail":"Not logged in"}` && !(strings.Contains(row.route, "/api/jobs") && body == `{"detail":"Not allowed"}`))
		case 403:
			bad = bad || (body != `{"detail":"No permission"}` && !strings.HasPrefix(body, `{"detail":["this operation requires `) &&
				body != `{"detail":["only server maintainer or owner can set channel size limit"]}`)
		}
		if bad {
			wrong(people[i], resp.Status, resp.Body)
		}
		return resp.Status
	}
	changes := row.uses()
	// Those who change nothing ask at the same time: a refusal waits for the next look at the roles.
	var asking sync.WaitGroup
	var used sync.Map
	for i := range people {
		if row.want[i] == unasked || changes && row.want[i] < 300 {
			continue
		}
		asking.Go(func() {
			if ask(i, s) < 300 && changes {
				used.Store("refusal expected", true)
			}
		})
	}
	asking.Wait()
	if _, ok := used.Load("refusal expected"); ok {
		s = c.fresh()
	}
	for i := range people {
		if changes && row.want[i] < 300 && row.want[i] != unasked && ask(i, s) < 300 {
			s = c.fresh()
		}
	}
	return s
}

// TestQuetzRights asks for every route as everybody.
func TestQuetzRights(t *testing.T) {
	people, rows := rightsTable(t)
	covered := map[string]bool{}
	for _, r := range rows {
		covered[r.route] = true
	}
	for _, route := range routesOf(t, "quetz", true) {
		name := route.Method + " " + route.Pattern
		if !covered[name] {
			t.Errorf("%s has no row in testdata/rights.tsv", name)
		}
		delete(covered, name)
	}
	for name := range covered {
		t.Errorf("%s has a row in testdata/rights.tsv, but is no route", name)
	}
	c := newCast(t)
	s := c.newStage()
	run := func(t *testing.T, row rightsRow) {
		s2 := c.walk(t, people, row, s, func(who string, got int, body []byte) {
			t.Errorf("%s %s, %s: status %d, want %d: %.300s", row.route, row.kase, who, got, row.want[slices.Index(people, who)], body)
		})
		if row.uses() {
			s = s2
		}
	}
	t.Run("what leaves all as it was", func(t *testing.T) { // most of the time goes into refusals, which look twice
		var asking sync.WaitGroup
		slots := make(chan struct{}, 12)
		for _, row := range rows {
			if !row.uses() {
				slots <- struct{}{}
				asking.Go(func() {
					run(t, row)
					<-slots
				})
			}
		}
		asking.Wait()
	})
	c.prepare(rows)
	for _, row := range rows {
		if row.uses() {
			t.Run(row.route+" "+row.kase, func(t *testing.T) { run(t, row) })
		}
	}
}
