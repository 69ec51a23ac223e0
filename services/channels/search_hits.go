package channels

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const hitColumns = `p.name, p.summary, p.description, p.url, p.file_count, p.current_version, p.subdirs, p.updated_at, c.name, c.name_key`

// hits sends what is found, a page at a time. While it sends no query is open: one who reads slowly, or not at all, keeps no
// connection of the pool.
type hits struct {
	send func(*channelsv1.SearchPackagesResponse) error
	left int64 // how many more are wanted; negative: all
	page []*channelsv1.SearchPackagesResponse_Hit
	// name and channel are of the last one.
	name, channel string
}

// query sends the rows of a query for hitColumns, which are at most some thousands, and returns how many there were.
func (h *hits) query(ctx context.Context, db pg.DB, sql string, args pgx.NamedArgs) (n int, err error) {
	rows, err := db.Query(ctx, sql, args)
	if err != nil {
		return 0, pg.Classify(err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*channelsv1.SearchPackagesResponse_Hit, error) {
		var p packageRow
		var channel string
		err := row.Scan(&p.Name, &p.Summary, &p.Description, &p.URL, &p.FileCount, &p.CurrentVersion, &p.Subdirs, &p.UpdatedAt, &channel, &h.channel)
		h.name = p.Name
		return &channelsv1.SearchPackagesResponse_Hit{Package: p.toProto(), Channel: channel}, err
	})
	if err != nil {
		return 0, pg.Classify(err)
	}
	n = len(found)
	if h.left >= 0 {
		found = found[:min(int64(n), h.left)]
		h.left -= int64(len(found))
	}
	h.page = append(h.page, found...)
	for len(h.page) >= searchPage {
		page := h.page[:searchPage]
		h.page = slices.Clone(h.page[searchPage:])
		if err := h.send(&channelsv1.SearchPackagesResponse{Hits: page}); err != nil {
			return n, err
		}
	}
	return n, nil
}

// flush sends what is left.
func (h *hits) flush() error {
	if len(h.page) == 0 {
		return nil
	}
	page := &channelsv1.SearchPackagesResponse{Hits: h.page}
	h.page = nil
	return h.send(page)
}

// searchRows sends what the database finds by itself, in pages that begin after the last hit of the one before: few at first,
// for who waits for them, then more.
func (s *Service) searchRows(ctx context.Context, c *conditions, word string, h *hits) error {
	order, last := `p.name, c.name_key`, `@last_name, @last_channel`
	if word != "" {
		w := c.arg(word)
		// What is false comes first.
		order = `p.name <> ` + w + `, NOT starts_with(p.name, ` + w + `), length(p.name), p.name, c.name_key`
		last = `@last_name <> ` + w + `, NOT starts_with(@last_name, ` + w + `), length(@last_name), @last_name, @last_channel`
	}
	after := ""
	for most := int64(searchPage); h.left != 0; most = min(2*most, mostProposals) {
		want := most
		if h.left > 0 {
			want = min(want, h.left)
		}
		c.args["page"] = want
		n, err := h.query(ctx, s.pool, `SELECT `+hitColumns+` FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id
			WHERE `+c.where()+after+` ORDER BY `+order+` LIMIT @page`, c.args)
		if err != nil || int64(n) < want {
			return err
		}
		c.args["last_name"], c.args["last_channel"] = h.name, h.channel
		after = ` AND (` + order + `) > (` + last + `)`
		if word == "" {
			after += ` AND p.name >= @last_name` // which an index knows
		}
	}
	return nil
}
