package channels_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
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
		for _, column := range []string{"name", "summary", "description"} {
			index := map[string]string{"name": "packages_grams"}[column]
			where := ""
			if index == "" {
				index, where = "packages_"+column+"_grams", " WHERE "+column+" NOT IN ('', 'n/a')"
			}
			if _, err := b.pool.Exec(ctx, `DROP INDEX channels.`+index); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := b.pool.Exec(ctx, `CREATE INDEX `+index+` ON channels.packages USING gin (channels.grams(`+column+`))`+where); err != nil {
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
	if _, err := b.pool.Exec(ctx, `VACUUM (ANALYZE) channels.packages`); err != nil {
		t.Fatal(err)
	}
}

func search(t testing.TB, b *bundle, limit int64, terms ...*channelsv1.SearchTerm) (n int) {
	t.Helper()
	stream, err := b.api.SearchPackages(authn.NewContext(t.Context(), b.alice), &channelsv1.SearchPackagesRequest{Terms: terms, Limit: limit})
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

// BenchmarkSearch looks through a million packages. -v shows the plans.
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
		name  string
		limit int64
		terms []*channelsv1.SearchTerm
	}{
		{"rare", 0, []*channelsv1.SearchTerm{term("name", "c4ca42")}},
		{"name-and-not", 0, []*channelsv1.SearchTerm{term("name", "core123"), {Field: "name", Values: []string{"lib"}, Negate: true}}},
		{"summary", 0, []*channelsv1.SearchTerm{term("summary", "a87ff6")}},
		{"none", 0, []*channelsv1.SearchTerm{term("name", "nothing-like-this")}},
		{"in-one-channel", 0, []*channelsv1.SearchTerm{term("name", "lib"), term("channel", "fill7"), term("platform", "noarch")}},
		{"common-first-100", 100, []*channelsv1.SearchTerm{term("name", "lib")}},
		{"two-letters-first-100", 100, []*channelsv1.SearchTerm{term("name", "ab")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			hits := 0
			for b.Loop() {
				hits = search(b, s, c.limit, c.terms...)
			}
			b.ReportMetric(float64(hits), "hits")
		})
	}
	var plan string
	rows, err := s.pool.Query(b.Context(), `EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) SELECT p.name FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id
		WHERE NOT c.private AND channels.grams(p.name) @> channels.grams('c4ca42') AND strpos(lower(p.name), 'c4ca42') > 0 ORDER BY p.name, c.name_key`)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := pgx.ForEachRow(rows, []any{&plan}, func() error { b.Log(plan); return nil }); err != nil {
		b.Fatal(err)
	}
}
