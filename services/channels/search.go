package channels

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Search looks for parts of texts over all packages of all channels. What is asked of names is answered from memory
// (names.go). Summaries and descriptions are indexed by their trigrams (channels.grams): a part of three letters or more
// must have its own trigrams among those of the text, which leaves few rows to look at. If both are asked for, the text
// decides if the planner's statistics say that few rows have it, else the names.

const (
	// maxSearchTerms and maxSearchValues bound what one request may make the database compare.
	maxSearchTerms  = 50
	maxSearchValues = 200
	maxSearchText   = 1500
	// searchPage is how many hits are sent at once.
	searchPage = 500
	// commonRows is how many rows a part of a text may be in for its index to be better than a look at the names: each of them
	// is fetched and compared, at some microseconds.
	commonRows = 10_000
	// firstProposals and mostProposals are how many packages that were found in memory are looked up at once: few at first,
	// for who waits for the first page, then more.
	firstProposals = 128
	mostProposals  = 2048
)

// conditions writes search terms as SQL over p (packages) and c (channels).
type conditions struct {
	sql  []string
	args pgx.NamedArgs
	n    int
	// channel are those of sql that are about c alone.
	channel []string
	// names are what is asked of names.
	names []nameTerm
	// rows is in how many rows the planner expects a part of a text, by column and part; what is not in it was not asked.
	rows map[[2]string]float64
	// subdirs are all there are.
	subdirs []string
}

func newConditions(f channelFilter) *conditions {
	readable := `(@all OR NOT c.private OR c.id = ANY(@ids) OR c.namespace = ANY(@namespaces))`
	return &conditions{
		sql: []string{readable}, channel: []string{readable},
		args: pgx.NamedArgs{
			"all": f.all, "ids": nonNil(f.ids), "namespaces": nonNil(f.namespaces),
		},
	}
}

func (c *conditions) where() string { return strings.Join(c.sql, " AND ") }

func (c *conditions) channels() string { return strings.Join(c.channel, " AND ") }

func (c *conditions) arg(v any) string {
	c.n++
	name := fmt.Sprintf("v%d", c.n)
	c.args[name] = v
	return "@" + name
}

// contains is true for texts with a part, without case.
func (c *conditions) contains(column, part string) string {
	return fmt.Sprintf(`strpos(lower(%s), lower(%s)) > 0`, column, c.arg(part))
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
			any = append(any, c.contains("p.name", v))
		case field == "summary" && packages:
			any = append(any, c.text("p.summary", v, t.GetNegate()))
		case field == "description" && packages:
			any = append(any, c.text("p.description", v, t.GetNegate()))
		case field == "platform" && packages:
			if subdirs := c.subdirsWith(strings.ToLower(v)); len(subdirs) > 0 {
				any = append(any, fmt.Sprintf(`p.subdirs && %s`, c.arg(subdirs)))
			} else { // no look at every row to find nothing
				any = append(any, `false`)
			}
		case field == "name":
			any = append(any, c.contains("c.name", v))
		case field == "description":
			any = append(any, c.contains("c.description", v))
		case field == "channel":
			any = append(any, fmt.Sprintf(`strpos(c.name_key, lower(%s)) > 0`, c.arg(v)))
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
	if packages {
		switch t.GetField() {
		case "name":
			n := nameTerm{negate: t.GetNegate()}
			for _, v := range t.GetValues() {
				n.values = append(n.values, bytes.ToLower([]byte(v)))
			}
			c.names = append(c.names, n)
		case "channel":
			c.channel = append(c.channel, sql)
		}
	}
	return nil
}

// text is contains for a column that may say nothing, by nothing at all or by "n/a". Its index leaves those out.
func (c *conditions) text(column, part string, negate bool) string {
	sql := c.contains(column, part)
	if negate || !indexed(part) || c.rows[[2]string{column, part}] > commonRows {
		return sql // found in the order of names
	}
	return fmt.Sprintf(`%[1]s NOT IN ('', 'n/a') AND (channels.grams(%[1]s) @> channels.grams(%[2]s) OR channels.grams(%[1]s) @> '{*}') AND %[3]s`, column, c.arg(part), sql)
}

// indexed reports whether the index of texts knows of a part.
func indexed(part string) bool {
	return len([]rune(part)) >= 3 && !strings.Contains("n/a", strings.ToLower(part))
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
		if c.rows, err = s.expectedRows(ctx, terms); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(terms, func(t *channelsv1.SearchTerm) bool { return t.GetField() == "platform" }) {
			if c.subdirs, err = allSubdirs(ctx, s.pool); err != nil {
				return nil, err
			}
		}
	}
	for _, t := range terms {
		if err := c.add(t, packages); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// allSubdirs returns the names of all subdirs that any channel has or had.
func allSubdirs(ctx context.Context, db pg.DB) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT DISTINCT subdir FROM channels.conda_subdirs`)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return all, pg.Classify(err)
}

func (c *conditions) subdirsWith(part string) (out []string) {
	for _, s := range c.subdirs {
		if strings.Contains(s, part) {
			out = append(out, s)
		}
	}
	return out
}

// maxExpected bounds how many parts the planner is asked about; the index is used for the others.
const maxExpected = 8

// expectedRows asks the planner in how many rows the texts are that are looked for.
func (s *Service) expectedRows(ctx context.Context, terms []*channelsv1.SearchTerm) (map[[2]string]float64, error) {
	out := make(map[[2]string]float64)
	for _, t := range terms {
		if t.GetField() != "summary" && t.GetField() != "description" || t.GetNegate() {
			continue
		}
		column := "p." + t.GetField()
		for _, v := range t.GetValues() {
			if !indexed(v) || len(v) > maxSearchText || !isText(v) || len(out) == maxExpected {
				continue
			}
			var plan []struct {
				Plan struct {
					Rows float64 `json:"Plan Rows"`
				}
			}
			err := s.pool.QueryRow(ctx, `EXPLAIN (FORMAT JSON) SELECT 1 FROM channels.packages p WHERE `+column+` NOT IN ('', 'n/a')
				AND channels.grams(`+column+`) @> channels.grams($1)`, v).Scan(&plan)
			if err != nil {
				return nil, pg.Classify(err)
			}
			if len(plan) > 0 {
				out[[2]string{column, v}] = plan[0].Plan.Rows
			}
		}
	}
	return out, nil
}

// rareText reports whether one of the terms is a text that few packages have, by the planner's estimate.
func (c *conditions) rareText(terms []*channelsv1.SearchTerm) bool {
	return slices.ContainsFunc(terms, func(t *channelsv1.SearchTerm) bool {
		if t.GetNegate() || len(t.GetValues()) != 1 {
			return false
		}
		rows, asked := c.rows[[2]string{"p." + t.GetField(), t.GetValues()[0]}]
		return asked && rows <= commonRows
	})
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
	h := &hits{send: stream.Send, left: req.GetLimit()}
	if h.left == 0 {
		h.left = -1
	}
	word := ""
	for _, t := range req.GetTerms() {
		if req.GetRanked() && t.GetField() == "name" && !t.GetNegate() {
			word = strings.ToLower(t.GetValues()[0])
			break
		}
	}
	if slices.ContainsFunc(c.names, func(t nameTerm) bool { return !t.negate }) && !c.rareText(req.GetTerms()) {
		all, err := s.named(ctx, c)
		if err != nil {
			return err
		}
		if all != nil {
			if err := s.lookUp(ctx, c, all, word, h); err != nil {
				return err
			}
			return h.flush()
		}
	}
	if err := s.searchRows(ctx, c, word, h); err != nil {
		return err
	}
	return h.flush()
}

// lookUp sends those of the packages that the names propose which the database agrees to.
func (s *Service) lookUp(ctx context.Context, c *conditions, all []searched, word string, h *hits) error {
	q := newNameQuery(c.names)
	var ids []uuid.UUID
	var names []string
	most := firstProposals
	ask := func() error {
		if len(ids) == 0 {
			return nil
		}
		c.args["found_ids"], c.args["found_names"] = ids, names
		_, err := h.query(ctx, s.pool, `SELECT `+hitColumns+` FROM unnest(@found_ids::uuid[], @found_names::text[]) WITH ORDINALITY f(id, name, place)
			JOIN channels.packages p ON p.channel_id = f.id AND p.name = f.name JOIN channels.channels c ON c.id = p.channel_id
			WHERE `+c.where()+` ORDER BY f.place`, c.args)
		ids, names, most = ids[:0], names[:0], min(2*most, mostProposals)
		return err
	}
	take := func(p proposal) (bool, error) {
		ids, names = append(ids, p.channel.ID), append(names, string(p.name()))
		if len(ids) < most {
			return true, nil
		}
		if err := ask(); err != nil {
			return false, err
		}
		return h.left != 0, ctx.Err()
	}
	var err error
	if word != "" {
		err = q.ranked(ctx, all, word, take)
	} else {
		err = q.merge(ctx, all, take)
	}
	if err != nil || h.left == 0 {
		return err
	}
	return ask()
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
