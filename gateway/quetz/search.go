package quetz

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
)

// The search grammar. Terms split like a shell line; all of them must hold.
//
//	word           a part of the name, without case
//	"two words"    quotes group, as do '…' and a backslash
//	NOT term       turns the next term round
//	key:a,b        one of the values; -key:a,b none of them
//	other:thing    a word with a colon whose key is not known is ignored

// packageKeys and channelKeys are the keys of the two searches.
var (
	packageKeys = map[string]bool{"channel": true, "description": true, "summary": true, "platform": true}
	channelKeys = map[string]bool{"description": true, "private": true}
)

// parseSearch reads a search.
func parseSearch(q string, keys map[string]bool) ([]*channelsv1.SearchTerm, error) {
	words, err := splitShell(q)
	if err != nil {
		return nil, err
	}
	var terms []*channelsv1.SearchTerm
	not := false
	for _, word := range words {
		if word == "NOT" && !not {
			not = true
			continue
		}
		term := &channelsv1.SearchTerm{Field: "name", Values: []string{word}, Negate: not}
		not = false
		if key, values, ok := strings.Cut(word, ":"); ok {
			bare, minus := strings.CutPrefix(key, "-")
			if !keys[bare] {
				continue
			}
			term.Field, term.Values, term.Negate = bare, nil, term.Negate != minus
			for v := range strings.SplitSeq(values, ",") {
				if bare == "private" { // as its words for true and false are many
					if b, err := parseBool(v); err == nil {
						v = strconv.FormatBool(b)
					}
				}
				if v != "" {
					term.Values = append(term.Values, v)
				}
			}
			if len(term.Values) == 0 {
				continue
			}
		}
		if word != "" {
			terms = append(terms, term)
		}
	}
	if not {
		return nil, errors.New("NOT has nothing after it")
	}
	return terms, nil
}

// splitShell splits a line as a POSIX shell does, without expanding anything.
func splitShell(s string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			in, escaped = true, true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '"' || c == '\'':
			in, quote = true, c
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			in = true
			word.WriteRune(c)
		}
	}
	switch {
	case quote != 0:
		return nil, errors.New("a quote is not closed")
	case escaped:
		return nil, errors.New("a backslash has nothing after it")
	case in:
		words = append(words, word.String())
	}
	return words, nil
}

func searchOf(r *http.Request, keys map[string]bool) ([]*channelsv1.SearchTerm, error) {
	if !r.URL.Query().Has("q") {
		return nil, queryMissing("q")
	}
	q := r.URL.Query().Get("q")
	terms, err := parseSearch(strings.ToValidUTF8(strings.ReplaceAll(q, "\x00", ""), ""), keys)
	if err != nil {
		return nil, queryProblem("q", "value_error", "Value error, "+err.Error(), q)
	}
	for _, t := range terms {
		for _, v := range t.GetValues() {
			if t.GetField() == "private" && v != "true" && v != "false" {
				return nil, queryProblem("q", "value_error", "Value error, private is true or false", q)
			}
		}
	}
	return terms, nil
}

// foundPackage is a Package with the name of its channel.
type foundPackage struct {
	pkg     *quetzv1.Package // not embedded: it would make this a message, too
	channel string
}

func (f foundPackage) MarshalJSON() ([]byte, error) {
	data, err := (&edge.Marshaler{NullWhenEmpty: nullWhenEmpty}).Marshal(f.pkg)
	if err != nil {
		return nil, err
	}
	name, err := edge.MarshalJSON(f.channel)
	if err != nil {
		return nil, err
	}
	data = append(data[:len(data)-1], `,"channel_name":`...)
	return append(append(data, name...), '}'), nil
}

// searchPackages answers with all that is found, as it is found.
func (d *dialect) searchPackages(w http.ResponseWriter, r *http.Request) error {
	terms, err := searchOf(r, packageKeys)
	if err != nil {
		return err
	}
	ranked, err := queryBool(r, "ranked", false)
	if err != nil {
		return err
	}
	limit := int64(0) // all, as in Quetz
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.ParseInt(text, 10, 64); err != nil || limit < 1 {
			return queryProblem("limit", "greater_than_equal", "Input should be an integer greater than or equal to 1", text)
		}
	}
	found, err := d.Channels.SearchPackages(r.Context(), &channelsv1.SearchPackagesRequest{Terms: terms, Ranked: ranked, Limit: limit})
	if err != nil {
		return err
	}
	list := newList(w)
	for {
		page, err := found.Recv()
		if errors.Is(err, io.EOF) {
			return list.end(nil)
		}
		if err != nil {
			return list.end(err)
		}
		for _, hit := range page.GetHits() {
			if err := list.add(foundPackage{packageToQuetz(hit.GetPackage()), hit.GetChannel()}); err != nil {
				return list.end(err)
			}
		}
	}
}

// foundChannel is what a search for channels tells.
type foundChannel struct {
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Private     bool    `json:"private"`
}

func (d *dialect) searchChannels(w http.ResponseWriter, r *http.Request) error {
	terms, err := searchOf(r, channelKeys)
	if err != nil {
		return err
	}
	resp, err := d.Channels.SearchChannels(r.Context(), &channelsv1.SearchChannelsRequest{Terms: terms})
	if err != nil {
		return err
	}
	out := make([]foundChannel, 0, len(resp.GetChannels()))
	for _, ch := range resp.GetChannels() {
		c := foundChannel{Name: ch.GetName(), Private: ch.GetPrivate()}
		if ch.GetDescription() != "" {
			c.Description = proto.String(ch.GetDescription())
		}
		out = append(out, c)
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", out)
	return nil
}
