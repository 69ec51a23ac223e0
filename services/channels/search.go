package channels

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Search looks for parts of texts over all packages of all channels. Texts are indexed by their trigrams
// (channels.grams): a part of three letters or more must have its own trigrams among those of the text, which leaves few
// rows to look at. A part that is shorter, or that the planner's statistics say is in very many names, is looked for in
// the names in their order: that finds the first page at once, and all of them no slower.

const (
	// maxSearchTerms and maxSearchValues bound what one request may make the database compare.
	maxSearchTerms  = 50
	maxSearchValues = 200
	maxSearchText   = 1500
	// searchPage is how many hits are sent at once.
	searchPage = 500
	// commonRows is how many rows a part may be in for the index to be worth it: each of them is fetched and compared, at
	// some microseconds.
	commonRows = 10_000
)

// conditions writes search terms as SQL over p (packages) and c (channels).
type conditions struct {
	sql  []string
	args pgx.NamedArgs
	n    int
	// common are parts of names for which the index is of no use.
	common map[string]bool
}

func newConditions(f channelFilter) *conditions {
	return &conditions{
		sql: []string{`(@all OR NOT c.private OR c.id = ANY(@ids) OR c.namespace = ANY(@namespaces))`},
		args: pgx.NamedArgs{
			"all": f.all, "ids": nonNil(f.ids), "namespaces": nonNil(f.namespaces),
		},
	}
}

func (c *conditions) where() string { return strings.Join(c.sql, " AND ") }

func (c *conditions) arg(v any) string {
	c.n++
	name := fmt.Sprintf("v%d", c.n)
	c.args[name] = v
	return "@" + name
}

// contains is true for texts with a part, without case. grams is true if the column has an index on its trigrams, and
// partial if that index leaves out texts that say nothing.
func (c *conditions) contains(column, part string, grams, partial bool) string {
	a := c.arg(part)
	sql := fmt.Sprintf(`strpos(lower(%s), lower(%s)) > 0`, column, a)
	if !grams || len([]rune(part)) < 3 {
		return sql
	}
	index := fmt.Sprintf(`channels.grams(%s) @> channels.grams(%s)`, column, a)
	if !partial {
		return index + ` AND ` + sql
	}
	return fmt.Sprintf(`%s NOT IN ('', 'n/a') AND (%s OR channels.grams(%s) @> '{*}') AND %s`, column, index, column, sql)
}

// add adds a term. packages says whether p is there.
func (c *conditions) add(t *channelsv1.SearchTerm, packages bool) error {
	if len(t.GetValues()) == 0 || len(t.GetValues()) > maxSearchValues {
		return fault.Field("terms", "a term has 1 to %d values", maxSearchValues)
	}
	var any []string
	for _, v := range t.GetValues() {
		if len(v) > maxSearchText || !isText(v) {
			return fault.Field("terms", "a value is text of at most %d bytes", maxSearchText)
		}
		switch field := t.GetField(); {
		case field == "name" && packages:
			any = append(any, c.contains("p.name", v, !t.GetNegate() && !c.common[v], false))
		case field == "summary" && packages:
			any = append(any, c.text("p.summary", v, t.GetNegate()))
		case field == "description" && packages:
			any = append(any, c.text("p.description", v, t.GetNegate()))
		case field == "platform" && packages:
			any = append(any, fmt.Sprintf(`EXISTS (SELECT 1 FROM unnest(p.subdirs) s WHERE strpos(s, lower(%s)) > 0)`, c.arg(v)))
		case field == "name":
			any = append(any, c.contains("c.name", v, false, false))
		case field == "description":
			any = append(any, c.contains("c.description", v, false, false))
		case field == "channel":
			any = append(any, fmt.Sprintf(`c.name_key = lower(%s)`, c.arg(v)))
		case field == "private":
			if v != "true" && v != "false" {
				return fault.Field("terms", "private is true or false")
			}
			any = append(any, fmt.Sprintf(`c.private = %s`, c.arg(v == "true")))
		default:
			return fault.Field("terms", "there is no field %s to search by", shown(field))
		}
	}
	sql := "(" + strings.Join(any, " OR ") + ")"
	if t.GetNegate() {
		sql = "NOT " + sql
	}
	c.sql = append(c.sql, sql)
	return nil
}

// text is contains for a column that may say nothing, by nothing at all or by "n/a".
func (c *conditions) text(column, part string, negate bool) string {
	if strings.Contains("n/a", strings.ToLower(part)) {
		return c.contains(column, part, false, false) // the index leaves those out
	}
	return c.contains(column, part, !negate, true)
}

// searchConditions checks a search and narrows it to what its caller may read.
func (s *Service) searchConditions(ctx context.Context, terms []*channelsv1.SearchTerm, packages bool) (*conditions, error) {
	if len(terms) > maxSearchTerms {
		return nil, fault.Field("terms", "a search has at most %d terms", maxSearchTerms)
	}
	f, err := s.visible(ctx, authn.FromContext(ctx), false)
	if err != nil {
		return nil, err
	}
	readable, err := s.roles.Readable(ctx, authn.FromContext(ctx))
	if err != nil {
		return nil, err
	}
	f.all = readable.All // a search shows all that may be read, unlike a list
	c := newConditions(f)
	if packages {
		if c.common, err = s.commonParts(ctx, terms); err != nil {
			return nil, err
		}
	}
	for _, t := range terms {
		if err := c.add(t, packages); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// commonParts finds out which of the parts are in very many names, by the planner's estimate.
func (s *Service) commonParts(ctx context.Context, terms []*channelsv1.SearchTerm) (map[string]bool, error) {
	out := make(map[string]bool)
	for _, t := range terms {
		if t.GetField() != "name" || t.GetNegate() {
			continue
		}
		for _, v := range t.GetValues() {
			if len([]rune(v)) < 3 || len(v) > maxSearchText || !isText(v) {
				continue
			}
			var plan []struct {
				Plan struct {
					Rows float64 `json:"Plan Rows"`
				}
			}
			err := s.pool.QueryRow(ctx, `EXPLAIN (FORMAT JSON) SELECT 1 FROM channels.packages p WHERE channels.grams(p.name) @> channels.grams($1)`, v).Scan(&plan)
			if err != nil {
				return nil, pg.Classify(err)
			}
			out[v] = len(plan) > 0 && plan[0].Plan.Rows > commonRows
		}
	}
	return out, nil
}

// SearchPackages finds packages, and sends them as they are read.
func (s *Service) SearchPackages(req *channelsv1.SearchPackagesRequest, stream grpc.ServerStreamingServer[channelsv1.SearchPackagesResponse]) error {
	ctx := stream.Context()
	c, err := s.searchConditions(ctx, req.GetTerms(), true)
	if err != nil {
		return err
	}
	if req.GetLimit() < 0 {
		return fault.Field("limit", "must not be negative")
	}
	order := `p.name, c.name_key`
	if req.GetRanked() {
		order = `p.name, c.name_key`
		for _, t := range req.GetTerms() {
			if t.GetField() == "name" && !t.GetNegate() {
				a := c.arg(strings.ToLower(t.GetValues()[0]))
				order = fmt.Sprintf(`p.name = %[1]s DESC, starts_with(p.name, %[1]s) DESC, length(p.name), p.name, c.name_key`, a)
				break
			}
		}
	}
	limit := ""
	if n := req.GetLimit(); n > 0 {
		limit = " LIMIT " + c.arg(n)
	}
	rows, err := s.pool.Query(ctx, `SELECT p.name, p.summary, p.description, p.url, p.file_count, p.current_version, p.subdirs, p.updated_at, c.name
		FROM channels.packages p JOIN channels.channels c ON c.id = p.channel_id WHERE `+c.where()+` ORDER BY `+order+limit, c.args)
	if err != nil {
		return pg.Classify(err)
	}
	defer rows.Close()
	out := new(channelsv1.SearchPackagesResponse)
	for rows.Next() {
		var p packageRow
		var channel string
		if err := rows.Scan(&p.Name, &p.Summary, &p.Description, &p.URL, &p.FileCount, &p.CurrentVersion, &p.Subdirs, &p.UpdatedAt, &channel); err != nil {
			return pg.Classify(err)
		}
		out.Hits = append(out.Hits, &channelsv1.SearchPackagesResponse_Hit{Package: p.toProto(), Channel: channel})
		if len(out.Hits) == searchPage {
			if err := stream.Send(out); err != nil {
				return err
			}
			out = new(channelsv1.SearchPackagesResponse)
		}
	}
	if err := rows.Err(); err != nil {
		return pg.Classify(err)
	}
	if len(out.Hits) > 0 {
		return stream.Send(out)
	}
	return nil
}

// SearchChannels finds channels by name.
func (s *Service) SearchChannels(ctx context.Context, req *channelsv1.SearchChannelsRequest) (*channelsv1.SearchChannelsResponse, error) {
	c, err := s.searchConditions(ctx, req.GetTerms(), false)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+channelColumns+` FROM channels.channels c WHERE `+c.where()+` ORDER BY name_key`, c.args)
	if err != nil {
		return nil, pg.Classify(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[channelRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := new(channelsv1.SearchChannelsResponse)
	for _, ch := range found {
		p, err := s.toProto(ch)
		if err != nil {
			return nil, err
		}
		out.Channels = append(out.Channels, p)
	}
	return out, nil
}
