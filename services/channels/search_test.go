package channels_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// fill puts n packages into a hundred public channels, as a server has them that mirrors much.
func fill(t testing.TB, b *bundle, n int) {
	t.Helper()
	ctx := t.Context()
	_, err := b.pool.Exec(ctx, `
		INSERT INTO channels.channels (id, namespace, name, name_key, private, kind, ttl, created_at, updated_at)
		SELECT gen_random_uuid(), 'default', 'fill' || i, 'fill' || i, i % 10 = 0, 1, 36000, now(), now() FROM generate_series(1, 100) i`)
	if err != nil {
		t.Fatal(err)
	}
	if n > 50_000 { // an index that is built at once is built ten times faster
		for _, column := range []string{"summary", "description"} {
			index := "packages_" + column + "_grams"
			if _, err := b.pool.Exec(ctx, `DROP INDEX channels.`+index); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := b.pool.Exec(ctx, `CREATE INDEX `+index+` ON channels.packages USING gin (channels.grams(`+column+`)) WHERE `+column+` NOT IN ('', 'n/a')`); err != nil {
					t.Fatal(err)
				}
				if _, err := b.pool.Exec(ctx, `VACUUM (ANALYZE) channels.packages`); err != nil {
					t.Fatal(err)
				}
			}()
		}
	}
	_, err = b.pool.Exec(ctx, `
		INSERT INTO channels.packages (channel_id, name, summary, description, file_count, current_version, subdirs, created_at, updated_at)
		SELECT c.id, (ARRAY['lib', 'py', 'r-', 'perl-', 'go-', 'rust-', 'bioconductor-', ''])[1 + i % 8] || substr(md5(i::text), 1, 4 + i % 9) || (ARRAY['', '-dev', '-core', '_utils', '.io'])[1 + i % 5] || i % 977,
			'The ' || substr(md5((i * 7)::text), 1, 8) || ' library', '', 3, '1.' || i % 50, ARRAY['linux-64', 'noarch'], now(), now()
		FROM generate_series(1, $1::int) i JOIN (SELECT id, row_number() OVER (ORDER BY name_key) AS n FROM channels.channels WHERE name_key LIKE 'fill%') c ON c.n = 1 + i % 100
		ON CONFLICT DO NOTHING`, n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, `
		INSERT INTO channels.conda_subdirs (channel_id, subdir, revision) SELECT id, s, 1 FROM channels.channels, unnest(ARRAY['linux-64', 'noarch']) s WHERE name_key LIKE 'fill%'`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, `VACUUM (ANALYZE) channels.packages`); err != nil {
		t.Fatal(err)
	}
}

func search(t testing.TB, b *bundle, limit int64, terms ...*channelsv1.SearchTerm) (n int) {
	t.Helper()
	return searchFor(t, b, &channelsv1.SearchPackagesRequest{Terms: terms, Limit: limit})
}

func searchFor(t testing.TB, b *bundle, req *channelsv1.SearchPackagesRequest) (n int) {
	t.Helper()
	stream, err := b.api.SearchPackages(authn.NewContext(t.Context(), b.alice), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.GetHits())
	}
}

func term(field string, values ...string) *channelsv1.SearchTerm {
	return &channelsv1.SearchTerm{Field: field, Values: values}
}

// The index finds what a look at every row finds.
func TestSearchAgreesWithALookAtEveryRow(t *testing.T) {
	b := setup(t)
	fill(t, b, 3000)
	for _, q := range []string{"lib", "a1", "x", "ER-", "core9", "a-d", "_ut", ".io", "The", "éé", "nothing", "n/a", "library"} {
		for field, column := range map[string]string{"name": "p.name", "summary": "p.summary", "description": "p.description"} {
			var want int
			err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id
				WHERE NOT c.private AND strpos(lower(`+column+`), lower($1)) > 0`, q).Scan(&want)
			if err != nil {
				t.Fatal(err)
			}
			if got := search(t, b, 0, term(field, q)); got != want {
				t.Errorf("%s:%s: %d hits, want %d", field, q, got, want)
			}
		}
	}
	if got := search(t, b, 7, term("name", "lib")); got != 7 {
		t.Errorf("%d hits with a limit of 7", got)
	}
}

// A long text has no list of trigrams, and is found nevertheless.
func TestSearchFindsLongTexts(t *testing.T) {
	b := setup(t)
	fill(t, b, 100)
	long := fmt.Sprintf("%02100d needle", 0)
	if _, err := b.pool.Exec(t.Context(), `UPDATE channels.packages SET description = $1 WHERE name = (SELECT min(p.name) FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id WHERE NOT c.private)`, long); err != nil {
		t.Fatal(err)
	}
	if got := search(t, b, 0, term("description", "NEEDLE")); got != 1 {
		t.Errorf("%d hits", got)
	}
}

// What is kept in memory is never older than the database, whoever wrote there, and shows nobody what is not theirs.
func TestSearchSeesWhatAnotherProcessWrote(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	b.create(b.alice, &channelsv1.CreateChannelRequest{Name: "secret"})
	other := b.newService(channels.Config{})
	found := func(as authn.Caller, q string) (names []string) {
		t.Helper()
		stream, err := b.api.SearchPackages(authn.NewContext(t.Context(), as), &channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", q)}})
		if err != nil {
			t.Fatal(err)
		}
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return names
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range page.GetHits() {
				names = append(names, h.GetChannel()+"/"+h.GetPackage().GetName())
			}
		}
	}
	want := func(as authn.Caller, q string, names ...string) {
		t.Helper()
		if d := cmp.Diff(names, found(as, q)); d != "" {
			t.Errorf("%s (-want +got):\n%s", q, d)
		}
	}
	want(b.alice, "needle")
	upload := func(channel, name string) {
		t.Helper()
		f := b.stage(spec{name: name})
		if _, err := other.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: channel, Files: []*channelsv1.StagedFile{f}}); err != nil {
			t.Fatal(err)
		}
	}
	upload("main", "a-needle")
	want(b.alice, "needle", "main/a-needle")
	upload("secret", "a-needle")
	upload("secret", "needles")
	want(b.alice, "NEEDLE", "main/a-needle", "secret/a-needle", "secret/needles")
	want(b.bob, "needle", "main/a-needle")
	want(b.eve, "needle", "main/a-needle")
	// Without a revision.
	if _, err := other.CreatePackage(b.as(b.alice), &channelsv1.CreatePackageRequest{Channel: "main", Name: "needle-work"}); err != nil {
		t.Fatal(err)
	}
	want(b.eve, "needle", "main/a-needle", "main/needle-work")
	if _, err := other.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "main", Package: "needle-work"}); err != nil {
		t.Fatal(err)
	}
	want(b.eve, "needle", "main/a-needle")
	if _, err := other.DeleteChannel(b.as(b.admin), &channelsv1.DeleteChannelRequest{Channel: "main"}); err != nil {
		t.Fatal(err)
	}
	want(b.eve, "needle")
	want(b.alice, "needle", "secret/a-needle", "secret/needles")
}

// Of a channel whose names are known only those are read that came since.
func TestSearchReadsOnlyNewNames(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	b.mustUpload("main", spec{name: "needle-one"})
	if n := search(t, b, 0, term("name", "needle")); n != 1 {
		t.Fatalf("%d hits", n)
	}
	// A row from before, which nobody announced.
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO channels.packages (channel_id, name, created_at) SELECT id, 'needle-old', created_at FROM channels.channels`); err != nil {
		t.Fatal(err)
	}
	b.mustUpload("main", spec{name: "needle-two"}, spec{name: "needle-three"})
	if n := search(t, b, 0, term("name", "needle")); n != 3 {
		t.Errorf("%d hits, want 3: what is known was read again", n)
	}
	if n := search(t, b, 0, term("name", "needle"), term("channel", "main")); n != 3 {
		t.Errorf("%d hits", n)
	}
}

// The names in memory give what a look at every row gives, in its order.
func TestSearchKeepsTheOrder(t *testing.T) {
	b := setup(t)
	fill(t, b, 3000)
	if _, err := b.pool.Exec(t.Context(), `UPDATE channels.packages SET name = upper(name) WHERE substr(name, 4, 1) = 'a'`); err != nil {
		t.Fatal(err)
	}
	type query struct {
		req *channelsv1.SearchPackagesRequest
		sql string
	}
	not := &channelsv1.SearchTerm{Field: "name", Values: []string{"lib", "py"}, Negate: true}
	inChannel, onPlatform := term("channel", "fill7"), term("platform", "NOARCH")
	for name, q := range map[string]query{
		"a word":              {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "Core")}}, `strpos(lower(p.name), 'core') > 0 ORDER BY p.name, c.name_key`},
		"a letter":            {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "a")}, Limit: 700}, `strpos(lower(p.name), 'a') > 0 ORDER BY p.name, c.name_key LIMIT 700`},
		"one of two, not two": {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "core", "12"), not}}, `(strpos(lower(p.name), 'core') > 0 OR strpos(lower(p.name), '12') > 0) AND strpos(lower(p.name), 'lib') = 0 AND strpos(lower(p.name), 'py') = 0 ORDER BY p.name, c.name_key`},
		"ranked":              {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "li")}, Ranked: true}, `strpos(lower(p.name), 'li') > 0 ORDER BY p.name = 'li' DESC, starts_with(p.name, 'li') DESC, length(p.name), p.name, c.name_key`},
		"with other terms":    {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "b"), inChannel, onPlatform, term("summary", "LIBRARY")}}, `strpos(lower(p.name), 'b') > 0 AND strpos(c.name_key, 'fill7') > 0 ORDER BY p.name, c.name_key`},
		"a platform":          {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("platform", "linux"), term("name", "go-")}}, `strpos(lower(p.name), 'go-') > 0 ORDER BY p.name, c.name_key`},
		"not a platform":      {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{{Field: "platform", Values: []string{"osx"}, Negate: true}, term("name", "go-")}}, `strpos(lower(p.name), 'go-') > 0 ORDER BY p.name, c.name_key`},
		"nowhere":             {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("name", "b"), term("channel", "elsewhere")}}, `false`},
	} {
		rows, err := b.pool.Query(t.Context(), `SELECT c.name || '/' || p.name FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id WHERE NOT c.private AND `+q.sql)
		if err != nil {
			t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 && name != "nowhere" {
			t.Errorf("%s: nothing to find", name)
		}
		stream, err := b.api.SearchPackages(authn.NewContext(t.Context(), b.alice), q.req)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range page.GetHits() {
				got = append(got, h.GetChannel()+"/"+h.GetPackage().GetName())
			}
		}
		if d := cmp.Diff(append([]string{}, want...), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// Who asks for everything and reads nothing keeps no connection to the database.
func TestASlowReaderKeepsNoConnection(t *testing.T) {
	b := setup(t)
	fill(t, b, 6000)
	if _, err := b.pool.Exec(t.Context(), `UPDATE channels.packages SET url = repeat('x', 2000)`); err != nil {
		t.Fatal(err)
	}
	for name, terms := range map[string][]*channelsv1.SearchTerm{"by name": {term("name", "lib", "py", "-")}, "by platform": {term("platform", "noarch")}} {
		ctx, cancel := context.WithCancel(authn.NewContext(t.Context(), b.alice))
		stream, err := b.api.SearchPackages(ctx, &channelsv1.SearchPackagesRequest{Terms: terms})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil { // it has begun
			t.Fatal(err)
		}
		free := false
		for begun := time.Now(); !free && time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
			free = b.pool.Stat().AcquiredConns() == 0
		}
		if !free {
			t.Errorf("%s: a connection is held", name)
		}
		n := 0
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n += len(page.GetHits())
		}
		if n < 2000 {
			t.Errorf("%s: %d further hits", name, n)
		}
		cancel()
	}
}

// What the database finds by itself comes in the same order however many pages it takes.
func TestSearchPagesFollowEachOther(t *testing.T) {
	b := setup(t)
	fill(t, b, 6000)
	for name, q := range map[string]struct {
		req *channelsv1.SearchPackagesRequest
		sql string
	}{
		"all":     {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("platform", "noarch")}}, `true ORDER BY p.name, c.name_key`},
		"limited": {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("platform", "noarch")}, Limit: 1700}, `true ORDER BY p.name, c.name_key LIMIT 1700`},
		// Few rows are expected to have the text, so that it is looked for first.
		"ranked": {&channelsv1.SearchPackagesRequest{Terms: []*channelsv1.SearchTerm{term("summary", "library"), term("name", "l")}, Ranked: true}, `strpos(lower(p.name), 'l') > 0 ORDER BY p.name = 'l' DESC, starts_with(p.name, 'l') DESC, length(p.name), p.name, c.name_key`},
	} {
		rows, err := b.pool.Query(t.Context(), `SELECT c.name || '/' || p.name FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id WHERE NOT c.private AND `+q.sql)
		if err != nil {
			t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if len(want) <= 1500 {
			t.Errorf("%s: only %d", name, len(want))
		}
		stream, err := b.api.SearchPackages(authn.NewContext(t.Context(), b.alice), q.req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(name, err)
			}
			for _, h := range page.GetHits() {
				got = append(got, h.GetChannel()+"/"+h.GetPackage().GetName())
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d[:min(len(d), 2000)])
		}
	}
}

// BenchmarkSearch looks through a million packages.
func BenchmarkSearch(b *testing.B) {
	s := setup(b)
	begun := time.Now()
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	fill(b, s, n)
	b.Logf("filled in %s", time.Since(begun).Round(time.Second))
	for _, c := range []struct {
		name   string
		limit  int64
		ranked bool
		terms  []*channelsv1.SearchTerm
	}{
		{"rare", 0, false, []*channelsv1.SearchTerm{term("name", "c4ca42")}},
		{"two-words", 0, false, []*channelsv1.SearchTerm{term("name", "core123"), term("name", "lib")}},
		{"name-and-not", 0, false, []*channelsv1.SearchTerm{term("name", "core123"), {Field: "name", Values: []string{"lib"}, Negate: true}}},
		{"summary", 0, false, []*channelsv1.SearchTerm{term("summary", "a87ff6")}},
		{"none", 0, false, []*channelsv1.SearchTerm{term("name", "nothing-like-this")}},
		{"short-and-rare", 0, false, []*channelsv1.SearchTerm{term("name", "zz")}},
		{"in-one-channel", 0, false, []*channelsv1.SearchTerm{term("name", "lib"), term("channel", "fill7"), term("platform", "noarch")}},
		{"in-one-channel-first-100", 100, false, []*channelsv1.SearchTerm{term("name", "lib"), term("channel", "fill7")}},
		{"common-first-100", 100, false, []*channelsv1.SearchTerm{term("name", "lib")}},
		{"common-ranked-first-100", 100, true, []*channelsv1.SearchTerm{term("name", "lib")}},
		{"two-common-words-first-100", 100, false, []*channelsv1.SearchTerm{term("name", "lib"), term("name", "core")}},
		{"two-common-words-that-never-meet", 100, false, []*channelsv1.SearchTerm{term("name", "bioconductor"), term("name", "rust-")}},
		{"two-letters-first-100", 100, false, []*channelsv1.SearchTerm{term("name", "ab")}},
		{"common-summary-first-100", 100, false, []*channelsv1.SearchTerm{term("summary", "library")}},
		{"platform-first-100", 100, false, []*channelsv1.SearchTerm{term("platform", "noarch")}},
		{"platform-nowhere", 100, false, []*channelsv1.SearchTerm{term("platform", "osx")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			hits := 0
			for b.Loop() {
				hits = searchFor(b, s, &channelsv1.SearchPackagesRequest{Terms: c.terms, Limit: c.limit, Ranked: c.ranked})
			}
			b.ReportMetric(float64(hits), "hits")
		})
	}
}
