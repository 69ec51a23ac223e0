package channels

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// packageText is what the first upload of a package says about it.
type packageText struct {
	summary, description, url string
}

// packageState is what follows for a package name from its files.
type packageState struct {
	files   int64
	newest  string
	added   time.Time
	subdirs map[string]bool

	parsed version.Version
	build  int64
}

func (p *packageState) add(v string, build int64, subdir string, added time.Time) {
	p.files++
	p.subdirs[subdir] = true
	parsed, err := version.Parse(v)
	if err != nil { // a mirror may list what has no place in the order: it comes last
		parsed = version.Version{}
	}
	if p.files > 1 {
		if c := compareVersions(parsed, p.parsed); c < 0 || c == 0 && (build < p.build || build == p.build && !added.After(p.added)) {
			return
		}
	}
	p.newest, p.parsed, p.build, p.added = v, parsed, build, added
}

// compareVersions puts versions without a place in the order, which are zero, before all others.
func compareVersions(a, b version.Version) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return -1
	case b.IsZero():
		return 1
	}
	return version.Compare(a, b)
}

// writePackages brings the package rows of the touched names up to date and returns by how many the number of names with
// files grew.
func writePackages(ctx context.Context, st *staging, texts map[string]packageText) (delta int64, err error) {
	id := st.channel.ID
	rows, err := st.tx.Query(ctx, `
		SELECT t.name, p.name IS NOT NULL AND p.file_count > 0 FROM (SELECT DISTINCT name FROM channels_touched) t
		LEFT JOIN channels.packages p ON p.channel_id = $1 AND p.name = t.name`, id)
	if err != nil {
		return 0, pg.Classify(err)
	}
	states := make(map[string]*packageState)
	var name string
	var had bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &had}, func() error {
		states[name] = &packageState{subdirs: make(map[string]bool)}
		if had {
			delta--
		}
		return nil
	}); err != nil {
		return 0, pg.Classify(err)
	}
	rows, err = st.tx.Query(ctx, `
		SELECT f.name, f.version, f.build_number, f.arch, f.created_at
		FROM (SELECT DISTINCT name FROM channels_touched) t JOIN channels.files f ON f.channel_id = $1 AND f.name = t.name AND f.removed_rev IS NULL`, id)
	if err != nil {
		return 0, pg.Classify(err)
	}
	var ver, arch string
	var build int64
	var added time.Time
	if _, err := pgx.ForEachRow(rows, []any{&name, &ver, &build, &arch, &added}, func() error {
		states[name].add(ver, build, arch, added)
		return nil
	}); err != nil {
		return 0, pg.Classify(err)
	}
	for _, s := range states {
		if s.files > 0 {
			delta++
		}
	}
	names := slices.Sorted(maps.Keys(states))
	for chunk := range slices.Chunk(names, 5000) {
		if err := upsertPackages(ctx, st, chunk, states, texts); err != nil {
			return 0, err
		}
	}
	return delta, nil
}

func upsertPackages(ctx context.Context, st *staging, names []string, states map[string]*packageState, texts map[string]packageText) error {
	n := len(names)
	summaries, descriptions, urls := make([]string, n), make([]string, n), make([]string, n)
	counts, newest, subdirs, times := make([]int64, n), make([]string, n), make([]string, n), make([]*time.Time, n)
	for i, name := range names {
		s, text := states[name], texts[name]
		summaries[i], descriptions[i], urls[i] = text.summary, text.description, text.url
		counts[i], newest[i], subdirs[i] = s.files, s.newest, strings.Join(slices.Sorted(maps.Keys(s.subdirs)), ",")
		if s.files > 0 {
			times[i] = &s.added
		}
	}
	// A name that is touched only by a mirror's list of removed files is no package of the channel.
	rows, err := st.tx.Query(ctx, `
		INSERT INTO channels.packages AS p (channel_id, name, summary, description, url, file_count, current_version, subdirs, created_at, updated_at)
		SELECT $1, name, summary, description, url, files, newest, string_to_array(subdirs, ','), $2, added
		FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::timestamptz[])
			u(name, summary, description, url, files, newest, subdirs, added)
		WHERE files > 0 OR EXISTS (SELECT 1 FROM channels.packages e WHERE e.channel_id = $1 AND e.name = u.name)
		ON CONFLICT (channel_id, name) DO UPDATE SET file_count = excluded.file_count, current_version = excluded.current_version,
			subdirs = excluded.subdirs, updated_at = excluded.updated_at
		RETURNING name, xmax = 0`, // xmax is 0 in a row that was inserted rather than updated
		st.channel.ID, st.now, names, summaries, descriptions, urls, counts, newest, subdirs, times)
	if err != nil {
		return pg.Classify(err)
	}
	var name string
	var inserted bool
	_, err = pgx.ForEachRow(rows, []any{&name, &inserted}, func() error {
		if inserted {
			st.fresh = append(st.fresh, name)
		}
		return nil
	})
	return pg.Classify(err)
}
