package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	searchPackages = 1_000_000
	searchChannels = 100
	// searchTimes is how often each search is made in a run.
	searchTimes = 40
	searchFirst = 100
)

// searches are what is looked for. With first, only the first hits are asked for; without, all of them.
var searches = []struct {
	name, q string
	first   bool
	ranked  bool
	hits    func(n int) bool
}{
	{"a rare word", "c4ca42", false, false, some},
	{"no hit", "nothing-like-this", false, false, none},
	{"two words", "core123 lib", false, false, some},
	{"a word and not another", "core123 NOT lib", false, false, some},
	{"a common word, first 100", "lib", true, false, full},
	{"a common word, first 100, ranked", "lib", true, true, full},
	{"two common words, first 100", "lib core", true, false, full},
	{"two common words that never meet", "bioconductor rust-", true, false, none},
	{"two letters, first 100", "ab", true, false, full},
	{"one letter, first 100", "a", true, false, full},
	{"a word in one channel, first 100", "lib channel:fill7", true, false, full},
	{"a rare word with platform: and summary:", "c4ca42 platform:noarch summary:library", false, false, some},
	{"summary: alone", "summary:a87ff6", false, false, some},
	{"platform: alone, first 100", "platform:linux-64", true, false, full},
}

func some(n int) bool { return n > 0 }
func none(n int) bool { return n == 0 }
func full(n int) bool { return n == searchFirst }

// searchPart measures searches over a million packages.
func (b *bench) searchPart(ctx context.Context) (r *report, err error) {
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r = &report{
		Title: "Search",
		Load: fmt.Sprintf("%d packages in %d public channels, put into the database by SQL: names of 5 to 30 letters with common beginnings and ends, summaries of three words; one client with keep-alive; "+
			"GET /api/packages/search, each search %d times a run, until the whole answer is read; p50 and p95 of a run; the first search of all, which reads the names into memory, stands by itself", searchPackages, searchChannels, searchTimes),
	}
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := s.fillNames(ctx); err != nil {
		return nil, err
	}
	fmt.Printf("made %d packages in %.1f s\n", searchPackages, time.Since(begin).Seconds())
	rows := newRows(r)
	rows.goals = map[string]goal{
		"search: the first of all": {unit: "ms"}, "search: memory before": {unit: "MiB VmHWM"}, "search: memory after": {unit: "MiB VmHWM"},
		"search: a common word, all hits": {unit: "ms"}, "search: a common word, all hits, until the first": {unit: "ms", atMost: 100},
	}
	for _, c := range searches {
		rows.goals["search: "+c.name+", p50"] = goal{unit: "ms", atMost: 100}
		rows.goals["search: "+c.name+", p95"] = goal{unit: "ms", atMost: 100}
	}
	memory, err := peakMiB(s.pid())
	if err != nil {
		return nil, err
	}
	rows.add("search: memory before", memory)
	end := s.profile(b.cpuProfile)
	r.Runs = min(b.runs, fewRuns)
	for run := range r.Runs {
		for i, c := range searches {
			query := url.Values{"q": {c.q}}
			if c.first {
				query.Set("limit", fmt.Sprint(searchFirst))
			}
			if c.ranked {
				query.Set("ranked", "true")
			}
			path := "/api/packages/search?" + query.Encode()
			if run == 0 && i == 0 {
				_, whole, n, err := s.search(ctx, path)
				if err != nil || !c.hits(n) {
					return nil, fmt.Errorf("%s: %d hits, %w", c.name, n, err)
				}
				rows.add("search: the first of all", whole)
			}
			var times []float64
			for range searchTimes {
				_, whole, n, err := s.search(ctx, path)
				if err == nil && !c.hits(n) {
					err = errors.New("that is not what there is")
				}
				if err != nil {
					return nil, fmt.Errorf("%s: %d hits: %w", c.name, n, err)
				}
				times = append(times, whole)
			}
			slices.Sort(times)
			rows.add("search: "+c.name+", p50", times[len(times)/2])
			rows.add("search: "+c.name+", p95", times[len(times)*95/100])
		}
		first, whole, n, err := s.search(ctx, "/api/packages/search?q=lib")
		if err != nil || n < searchPackages/8 {
			return nil, fmt.Errorf("all of a common word: %d hits: %w", n, err)
		}
		rows.add("search: a common word, all hits, until the first", first)
		rows.add("search: a common word, all hits", whole)
	}
	if memory, err = peakMiB(s.pid()); err != nil {
		return nil, err
	}
	rows.add("search: memory after", memory)
	return r, end()
}

// search returns after how many milliseconds the answer began and ended, and how many hits it has.
func (t target) search(ctx context.Context, path string) (first, whole float64, hits int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return 0, 0, 0, err
	}
	req.Header.Set("X-API-Key", t.key)
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, 0, err
	}
	defer resp.Body.Close()
	body := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, body); err != nil {
		return 0, 0, 0, err
	}
	first = float64(time.Since(begin).Microseconds()) / 1000
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0, 0, err
	}
	whole = float64(time.Since(begin).Microseconds()) / 1000
	if resp.StatusCode != http.StatusOK {
		return 0, 0, 0, fmt.Errorf("%s: %s: %s%s", path, resp.Status, body, rest)
	}
	var found []struct {
		Name string `json:"name"`
	}
	err = json.Unmarshal(append(body, rest...), &found)
	return first, whole, len(found), err
}

// fillNames makes the packages by SQL: to upload a million would take longer than all that is measured.
func (s *server) fillNames(ctx context.Context) error {
	socket, err := s.postgresSocket()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, "postgres:///entrepot?user=entrepot&host="+socket)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO channels.channels (id, namespace, name, name_key, private, kind, format, ttl, created_at, updated_at)
			SELECT gen_random_uuid(), 'default', 'fill' || i, 'fill' || i, false, 1, 1, 36000, now(), now() FROM generate_series(1, %d) i`, searchChannels),
		`INSERT INTO channels.conda_subdirs (channel_id, subdir, revision) SELECT id, s, 1 FROM channels.channels, unnest(ARRAY['linux-64', 'noarch']) s`,
		fmt.Sprintf(`INSERT INTO channels.packages (channel_id, name, summary, description, file_count, current_version, subdirs, created_at, updated_at)
			SELECT c.id, (ARRAY['lib', 'py', 'r-', 'perl-', 'go-', 'rust-', 'bioconductor-', ''])[1 + i %% 8] || substr(md5(i::text), 1, 4 + i %% 9) || (ARRAY['', '-dev', '-core', '_utils', '.io'])[1 + i %% 5] || i %% 977,
				'The ' || substr(md5((i * 7)::text), 1, 8) || ' library', '', 3, '1.' || i %% 50, ARRAY['linux-64', 'noarch'], now(), now()
			FROM generate_series(1, %d) i JOIN (SELECT id, row_number() OVER (ORDER BY name_key) AS n FROM channels.channels) c ON c.n = 1 + i %% %d
			ON CONFLICT DO NOTHING`, searchPackages, searchChannels),
		`UPDATE channels.channels c SET package_count = (SELECT count(*) FROM channels.packages p WHERE p.channel_id = c.id)`,
		`VACUUM (ANALYZE) channels.packages`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
