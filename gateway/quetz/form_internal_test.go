package quetz

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// oneChannel is a channels service with one hosted channel, whose index never follows.
type oneChannel struct {
	channelsv1.ChannelServiceClient
	resolved int
}

func (c *oneChannel) GetChannel(context.Context, *channelsv1.GetChannelRequest, ...grpc.CallOption) (*channelsv1.Channel, error) {
	return &channelsv1.Channel{Name: "main", Kind: channelsv1.ChannelKind_CHANNEL_KIND_MIRROR}, nil
}

func (c *oneChannel) Resolve(ctx context.Context, _ *channelsv1.ResolveRequest, _ ...grpc.CallOption) (*channelsv1.ResolveResponse, error) {
	c.resolved++
	return &channelsv1.ResolveResponse{Found: true}, ctx.Err()
}

// refused posts a body and returns the answer, which must be a 422.
func refused(t *testing.T, handler func(http.ResponseWriter, *http.Request) error, body string) (answer []byte, list []invalidField) {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	if err := handler(w, r); err != nil {
		writeError(w, r, err)
	}
	var got struct{ Detail []invalidField }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusUnprocessableEntity || len(got.Detail) == 0 {
		t.Fatalf("%.60s: %d, %v", body, w.Code, err)
	}
	return w.Body.Bytes(), got.Detail
}

// A body says little, and so does the answer: whoever sends it, also nobody, could have us write for ever otherwise.
func TestAnswersToBadBodiesAreBounded(t *testing.T) {
	d := &dialect{Deps{Channels: &oneChannel{}}}
	many := func(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	long := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, row := range []struct {
		name     string
		handler  func(http.ResponseWriter, *http.Request) error
		body     string
		problems int
		first    string
	}{
		{"actions", d.createChannel, `{"name":"x","actions":[` + many("1", 90) + `]}`, maxProblems, "enum"},
		{"too many actions", d.createChannel, `{"name":"x","actions":[` + many("1", 1<<17) + `]}`, 1, "too_long"},
		{"too many actions that are some", d.createChannel, `{"name":"x","actions":[` + many(`"reindex"`, maxActions+1) + `]}`, 1, "too_long"},
		{"roles that are none", d.createKey, `{"description":"x","roles":[` + many("1", maxKeyRoles) + `]}`, maxProblems, "model_attributes_type"},
		{"roles with two problems each", d.createKey, `{"description":"x","roles":[` + many("{}", maxKeyRoles) + `]}`, maxProblems, "missing"},
		{"too many roles", d.createKey, `{"roles":[` + many("1", 1<<20) + `]}`, 2, "missing"},
		{"lists", d.createChannel, `{"name":"x","metadata":{"includelist":[` + many("1", 8000) + `],"proxylist":[` + many("1", 8000) + `]}}`, maxProblems, "string_type"},
		{"a list without end", d.createChannel, `{"name":"x","metadata":{"includelist":[` + many("1", maxItems+1) + `]}}`, 1, "too_long"},
		{"lists of a patch", func(w http.ResponseWriter, r *http.Request) error {
			f, err := readForm(r)
			if err != nil {
				return err
			}
			meta := f.object("metadata")
			_, _ = meta.strings("includelist")
			f.merge(meta)
			return f.err()
		}, `{"metadata":{"includelist":[` + many("1", 1000) + `]}}`, maxProblems, "string_type"},
		{"one long field", d.createChannel, `{"name":` + long + `,"description":` + long + `}`, 2, "string_too_long"},
		{"a long body without what is needed", d.createKey, `{"x":` + long + `}`, 1, "missing"},
		{"a long body that is no object", d.createKey, `[` + long + `]`, 1, "model_attributes_type"},
	} {
		answer, list := refused(t, row.handler, row.body)
		if len(answer) > 64<<10 || len(list) != row.problems || list[0].Type != row.first {
			t.Errorf("%s: %d bytes answer %d, with %d problems, want %d; the first is %s", row.name, len(row.body), len(answer), len(list), row.problems, list[0].Type)
		}
	}
}

func TestWhatIsTooLongIsNotRepeated(t *testing.T) {
	_, list := refused(t, (&dialect{}).createChannel, `{"name":"`+strings.Repeat("n", maxInput-2)+`","description":"`+strings.Repeat("d", maxInput-1)+`"}`)
	if len(list) != 2 || len(list[0].Input) != maxInput || string(list[1].Input) != `"(4097 bytes, too long to repeat)"` {
		t.Errorf("%d problems: %.60s, %.60s", len(list), list[0].Input, list[1].Input)
	}
}

// Of several things that are wrong, all are told in the order of the fields, or always the same one.
func TestProblemsHaveAnOrder(t *testing.T) {
	d := &dialect{Deps{Channels: &oneChannel{}}}
	for range 20 { // a map's order is another each time
		_, list := refused(t, d.registerMirror, `{"url":"x","api_endpoint":"y","metrics_endpoint":"z"}`)
		var got []any
		for _, p := range list {
			got = append(got, p.Loc[1])
		}
		if diff := cmp.Diff([]any{"url", "api_endpoint", "metrics_endpoint"}, got); diff != "" {
			t.Fatal(diff)
		}
		err := normaliseQuery(httptest.NewRequest(http.MethodGet, "/?skip=x&limit=y&public=z", nil))
		if problems, ok := err.(invalidFields); !ok || problems[0].Loc[1] != "limit" {
			t.Fatal(err)
		}
	}
}

// An index that is late holds up nobody who deletes.
func TestADeletionWaitsForTheIndexOnlyAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := &oneChannel{}
		d := &dialect{Deps{Channels: ch, Files: edge.NewFiles(edge.FilesDeps{Channels: ch})}}
		began := time.Now()
		d.awaitIndex(t.Context(), "main", "noarch/a-1-0.conda", "linux-64/a-1-0.conda")
		if waited := time.Since(began); waited != indexWithin || ch.resolved > 6 {
			t.Errorf("it waits %s and asks %d times", waited, ch.resolved)
		}
	})
}
