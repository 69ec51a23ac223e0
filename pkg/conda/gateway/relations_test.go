package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a server with channels.
type site struct {
	*httptest.Server
	files map[string][]byte
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{files: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s
}

// channel makes a channel with one package, and relations in one of its subdirs.
func (s *site) channel(t *testing.T, path, subdir, relations string, sharded bool) {
	t.Helper()
	for _, sub := range []string{"linux-64", "noarch"} {
		var rel jsontext.Value
		if sub == subdir && relations != "" {
			rel = jsontext.Value(relations)
		}
		name := "p" + strings.ReplaceAll(strings.ReplaceAll(path, "/", "-"), "-label", "")
		rec, file := []byte(record(name, "1")), name+"-1-0.conda"
		at := path + "/" + sub + "/"
		if !sharded {
			var buf bytes.Buffer
			w := repodata.NewWriter(&buf, repodata.Info{Subdir: sub, ChannelRelations: rel})
			if err := w.Record(repodata.Conda, file, rec); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			s.files[at+"repodata.json"] = buf.Bytes()
			continue
		}
		data, digest, err := repodata.BuildShard(repodata.Shard{Records: []repodata.ShardRecord{{Bucket: repodata.Conda, Key: file, Raw: rec}}})
		if err != nil {
			t.Fatal(err)
		}
		s.files[at+repodata.ShardPath(digest)] = data
		ix := repodata.ShardIndex{Subdir: sub, ChannelRelations: rel, Shards: map[string][32]byte{name: digest}}
		if s.files[at+"repodata_shards.msgpack.zst"], err = repodata.BuildIndex(ix); err != nil {
			t.Fatal(err)
		}
	}
}

// remote reads a channel over HTTP.
type remote string

func (r remote) Open(ctx context.Context, path string, _ gateway.Validators) (*gateway.File, error) {
	url := path
	if !strings.Contains(path, "://") {
		url = string(r) + "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %w", url, fs.ErrNotExist)
	}
	return &gateway.File{Body: resp.Body}, nil
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// loadRelated returns the channels that were read, or the error.
func (s *site) load(t *testing.T, rel *gateway.Relations, names []string, given ...string) string {
	t.Helper()
	var channels []gateway.Channel
	for _, path := range given {
		channels = append(channels, gateway.Channel{URL: s.URL + path, Source: remote(s.URL + path)})
	}
	if rel != nil {
		rel.Open = func(_ context.Context, url string) (gateway.Source, error) { return remote(url), nil }
	}
	res, err := gateway.Load(t.Context(), channels, gateway.Options{
		Subdirs: []string{"linux-64", "noarch"}, Relations: rel, Names: names, Cache: gateway.NewCache(t.TempDir()),
	})
	if err != nil {
		return strings.ReplaceAll(err.Error(), s.URL, "")
	}
	var out []string
	for i, ch := range res.Channels {
		out = append(out, strings.TrimPrefix(ch.URL, s.URL))
		if res.Repos[2*i].Channel != ch.URL || res.Repos[2*i+1].Channel != ch.URL {
			t.Errorf("repos %v are not in the order of the channels", res.Repos)
		}
	}
	return strings.Join(out, " ")
}

func TestChannelsBringThoseTheyAreRelatedTo(t *testing.T) {
	for _, sharded := range []bool{false, true} {
		s := newSite(t)
		for path, relations := range map[string]string{
			"/forge":           "",
			"/bio":             `{"base":"../forge"}`,
			"/mine":            `{"base":"../bio","future":[1]}`,
			"/forge/label/rc":  `{"overrides":"../..","base":null}`,
			"/hotfixes":        "",
			"/both":            `{"base":"../forge","overrides":"../hotfixes"}`,
			"/apart":           "",
			"/bases-overrides": `{"base":"../both"}`,
			"/same":            `{"base":"../forge","overrides":"../forge/"}`,
			"/self":            `{"base":"../self"}`,
			"/circle-1":        `{"base":"../circle-2"}`,
			"/circle-2":        `{"base":"../circle-1"}`,
			"/away":            `{"base":"https://evil.example/forge"}`,
			"/out":             `{"base":"../../forge"}`,
			"/inside":          `{"base":"./forge"}`,
			"/typed":           `{"base":["../forge"]}`,
			"/list":            `[]`,
			"/lost":            `{"base":"../nothing"}`,
		} {
			s.channel(t, path, "noarch", relations, sharded)
		}
		for given, want := range map[string]string{
			"/bio":                "/forge /bio",
			"/mine":               "/forge /bio /mine",
			"/forge/label/rc":     "/forge/label/rc /forge",
			"/both":               "/forge /both /hotfixes",
			"/both /apart":        "/forge /both /hotfixes /apart",
			"/apart /both":        "/apart /forge /both /hotfixes",
			"/apart /bio":         "/apart /forge /bio",
			"/bio /apart":         "/forge /bio /apart",
			"/forge /bio":         "/forge /bio",
			"/bio /forge":         "/bio /forge", // what the user says counts
			"/bio /bio/":          "/forge /bio",
			"/bio /both":          "/forge /bio /both /hotfixes",
			"/both /bio":          "/forge /both /hotfixes /bio",
			"/hotfixes /both":     "/hotfixes /forge /both",
			"/bases-overrides":    "/forge /both /hotfixes /bases-overrides",
			"/mine /forge /bio":   "/mine /forge /bio",
			"/forge /bio /mine":   "/forge /bio /mine",
			"/same":               "/same/noarch: channel_relations: /forge cannot be both base and overridden",
			"/self":               "/self/noarch: channel_relations: a channel cannot be related to itself",
			"/circle-1":           "channels are related in a circle: /circle-1 behind /circle-2 behind /circle-1",
			"/circle-1 /circle-2": "/circle-1 /circle-2",
			"/away":               `/away/noarch: channel_relations: base: "https://evil.example/forge" does not begin with ../`,
			"/out":                `/out/noarch: channel_relations: base: "../../forge" leads out of the server`,
			"/inside":             `/inside/noarch: channel_relations: base: "./forge" does not begin with ../`,
			"/typed":              "/typed/noarch: channel_relations: base is no text",
			"/list":               "/list/noarch: channel_relations: it is no object",
			"/lost":               "a channel related to /lost: /nothing is no channel: it has no index for linux-64 or noarch",
		} {
			for _, names := range [][]string{nil, {"p"}} {
				got := s.load(t, &gateway.Relations{Depth: gateway.DefaultRelationDepth}, names, strings.Fields(given)...)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("sharded=%v, given %s (-want +got):\n%s", sharded, given, diff)
				}
			}
		}
		for _, off := range []*gateway.Relations{nil, {Depth: 0}} {
			if got := s.load(t, off, nil, "/mine"); got != "/mine" {
				t.Errorf("without relations: %s", got)
			}
		}
		if got := s.load(t, &gateway.Relations{Depth: 2}, nil, "/mine"); got != "/forge /bio /mine" {
			t.Errorf("two steps: %s", got)
		}
		if got := s.load(t, &gateway.Relations{Depth: 1}, nil, "/mine"); !strings.Contains(got, "more than 1 steps") {
			t.Errorf("one step: %s", got)
		}
		asked := ""
		policy := &gateway.Relations{Depth: 10, Allow: func(url string) error {
			asked += strings.TrimPrefix(url, s.URL)
			return errors.New("not in this house")
		}}
		if got := s.load(t, policy, nil, "/mine"); got != "/mine names /bio as a related channel: not in this house" || asked != "/bio" {
			t.Errorf("with a policy: %s (asked for %s)", got, asked)
		}
		if got := s.load(t, policy, nil, "/mine", "/bio", "/forge"); got != "/mine /bio /forge" {
			t.Errorf("given channels need no leave: %s", got)
		}
	}
}

func TestALongChainOfChannelsIsRefused(t *testing.T) {
	s := newSite(t)
	for i := range 13 {
		s.channel(t, fmt.Sprintf("/c%d", i), "linux-64", fmt.Sprintf(`{"base":"../c%d"}`, i+1), i%2 == 0)
	}
	s.channel(t, "/c13", "linux-64", "", false)
	if got := s.load(t, &gateway.Relations{Depth: gateway.DefaultRelationDepth}, nil, "/c0"); !strings.Contains(got, "/c10 names /c11: channels are related over more than 10 steps") {
		t.Errorf("got %s", got)
	}
	if got := s.load(t, &gateway.Relations{Depth: gateway.DefaultRelationDepth}, nil, "/c3"); strings.Count(got, " ") != 10 || !strings.HasPrefix(got, "/c13 /c12") {
		t.Errorf("got %s", got)
	}
}
