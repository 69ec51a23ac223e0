package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// Who is who toward a channel that bob made. The names are those of the columns in quetz_rights_test.go.
const (
	anonymous   = "anonymous"
	stranger    = "stranger"    // erin: a member of the server, with no role in the channel
	member      = "member"      // dave
	maintainer  = "maintainer"  // carol
	owner       = "owner"       // bob
	serverOwner = "serverOwner" // alice
	scoped      = "scoped"      // a key of bob's with the role member on the channel and nothing else
	expired     = "expired"     // a key of bob's that has ended
)

// world is a platform with people.
type world struct {
	*platformtest.Stack
	expiredKey string
	names      atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Stack: platformtest.Start(t)}
	w.Admin().Must(200, "POST", "/entrepot/v1/users", map[string]any{"username": "erin", "role": "member"})
	w.expiredKey = w.endedKey(t)
	return w
}

// endedKey makes a key of bob's and moves its end into the past, where no request could put it.
func (w *world) endedKey(t *testing.T) string {
	t.Helper()
	var key struct{ Key string }
	w.User("bob").Must(201, "POST", "/api/api-keys", map[string]any{"description": "old", "expire_at": "2099-12-31", "roles": []any{}}).JSON(&key)
	n := w.exec(t, "UPDATE identity.api_keys SET expire_time = now() - interval '1 hour' WHERE id = $1", key.Key[:authn.KeyIDLength])
	if n != 1 {
		t.Fatalf("%d keys were ended", n)
	}
	return key.Key
}

func (w *world) exec(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tag, err := conn.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return tag.RowsAffected()
}

// channel is a channel with one of everything.
type channel struct {
	name      string
	scopedKey string
	pkg       *pkg // that is in it
}

// newChannel makes a private channel of bob's with carol, dave and a package in it.
func (w *world) newChannel(t *testing.T) *channel {
	t.Helper()
	ch := &channel{name: w.name(), pkg: packages(t)[0]}
	bob := w.User("bob").In(t)
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": ch.name})
	bob.Must(201, "POST", "/api/channels/"+ch.name+"/members", map[string]any{"username": "carol", "role": "maintainer"})
	bob.Must(201, "POST", "/api/channels/"+ch.name+"/members", map[string]any{"username": "dave", "role": "member"})
	bob.Must(201, "POST", "/api/channels/"+ch.name+"/upload/"+ch.pkg.filename+"?sha256=", ch.pkg.data)
	var key struct{ Key string }
	bob.Must(201, "POST", "/api/api-keys", map[string]any{
		"description": "narrow", "roles": []any{map[string]any{"channel": ch.name, "package": nil, "role": "member"}},
	}).JSON(&key)
	ch.scopedKey = key.Key
	return ch
}

// name returns a channel name that nobody has used.
func (w *world) name() string { return fmt.Sprintf("c%d", w.names.Add(1)) }

// as returns somebody's client.
func (w *world) as(t *testing.T, who string, ch *channel) *platformtest.Client {
	t.Helper()
	c := w.Anonymous()
	switch who {
	case stranger:
		c = w.User("erin")
	case member:
		c = w.User("dave")
	case maintainer:
		c = w.User("carol")
	case owner:
		c = w.User("bob")
	case serverOwner:
		c = w.Admin()
	case scoped:
		c = w.As(ch.scopedKey)
	case expired:
		c = w.As(w.expiredKey)
	}
	return c.In(t)
}

// pkg is a package file that may be uploaded.
type pkg struct {
	name, version, subdir, filename, sha256, md5 string
	data                                         []byte
}

// packages returns some small packages: three versions of one name in linux-64, then more of other names.
func packages(t *testing.T) []*pkg {
	t.Helper()
	all, err := samplePackages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var samplePackages = sync.OnceValues(func() ([]*pkg, error) {
	dir, err := os.MkdirTemp("", "entrepot-apitest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ch, err := sample.Build(dir, sample.Options{Packages: 24, Tiny: true})
	if err != nil {
		return nil, err
	}
	var all []*pkg
	for _, f := range ch.Files {
		data, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil {
			return nil, err
		}
		p := &pkg{sha256: f.SHA256, md5: f.MD5, data: data}
		p.subdir, p.filename, _ = strings.Cut(f.Path, "/")
		stem := strings.TrimSuffix(p.filename, ".conda")
		parts := strings.Split(stem, "-")
		p.name, p.version = strings.Join(parts[:len(parts)-2], "-"), parts[len(parts)-2]
		all = append(all, p)
	}
	return all, nil
})

// formBody returns a multipart body with fields and files, and its content type.
func formBody(fields map[string]string, files ...*pkg) (body []byte, contentType string) {
	var buf bytes.Buffer // which never fails
	w := multipart.NewWriter(&buf)
	for k, v := range fields {
		_ = w.WriteField(k, v)
	}
	for _, f := range files {
		part, _ := w.CreateFormFile("files", f.filename)
		_, _ = part.Write(f.data)
	}
	_ = w.Close()
	return buf.Bytes(), w.FormDataContentType()
}

// detail returns the body's "detail" as text; a list becomes its JSON.
func detail(t *testing.T, resp *platformtest.Response) string {
	t.Helper()
	var body map[string]json.RawMessage
	resp.JSON(&body)
	if len(body) != 1 || body["detail"] == nil {
		t.Fatalf("an error of the dialect has the key detail and no other: %s", resp.Body)
	}
	var s string
	if json.Unmarshal(body["detail"], &s) == nil {
		return s
	}
	return string(body["detail"])
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
