package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// DefaultRelationDepth is how far relations are followed where nothing else is said (CEP 42).
const DefaultRelationDepth = 10

// Relations follow what channels say about each other (CEP 42): a channel may name one as its base, which then comes before
// it, and one that it overrides, which comes behind it. Both are references below the same root ("../conda-forge"), and both
// may name further channels.
//
// The order of the given channels counts first: what contradicts it is ignored. Any other circle is an error. Related
// channels stand next to each other where that is possible.
type Relations struct {
	// Depth is how many relations lead from a given channel to the last one; 0 follows none. More of them are an error.
	Depth int
	// Open returns where the files of a related channel are.
	Open func(ctx context.Context, url string) (Source, error)
	// Allow refuses channels by an error; nil allows all. It is asked before a channel is opened. The policy of a service
	// stands here, or the user's consent.
	Allow func(url string) error
}

// Resolved is a channel that was read.
type Resolved struct {
	URL string
	// From is the channel that named it first; empty for one that was given.
	From string
}

// node is a channel among those that are related.
type node struct {
	Channel
	Resolved
	given   int // place in the user's order; -1 if it was not given
	depth   int
	subdirs []*subdir
	before  []*node // have a higher priority
	behind  []*node // are overridden by this one
	state   byte    // of the sort: 0 not seen, 1 entered, 2 placed
}

// canonicalURL makes two spellings of a channel equal.
func canonicalURL(text string) string {
	text = strings.TrimRight(text, "/")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	return u.String()
}

// resolve opens the given channels and those they are related to, and returns all in order of priority.
func (l *loader) resolve(ctx context.Context, channels []Channel) ([]Resolved, []*subdir, error) {
	var nodes []*node
	byURL := map[string]*node{}
	for _, ch := range channels {
		n := &node{Channel: ch, Resolved: Resolved{URL: ch.URL}, given: len(nodes)}
		if byURL[canonicalURL(ch.URL)] != nil {
			continue // the first one counts
		}
		byURL[canonicalURL(ch.URL)] = n
		if len(nodes) > 0 {
			n.before = append(n.before, nodes[len(nodes)-1])
		}
		nodes = append(nodes, n)
	}
	for level := nodes; len(level) > 0; {
		list := make([]*Channel, len(level))
		for i, n := range level {
			list[i] = &n.Channel
		}
		found, err := l.open(ctx, list)
		if err != nil {
			if level[0].From != "" {
				err = fmt.Errorf("a channel related to %s: %w", level[0].From, err)
			}
			return nil, nil, err
		}
		var next []*node
		for i, n := range level {
			n.subdirs = found[i]
			more, err := l.relate(ctx, n, byURL)
			if err != nil {
				return nil, nil, err
			}
			next = append(next, more...)
		}
		nodes = append(nodes, next...)
		level = next
	}
	sorted, err := order(nodes)
	if err != nil {
		return nil, nil, err
	}
	var resolved []Resolved
	var subdirs []*subdir
	for _, n := range sorted {
		resolved = append(resolved, n.Resolved)
		subdirs = append(subdirs, n.subdirs...)
	}
	return resolved, subdirs, nil
}

// relate adds the relations that the subdirs of a channel declare, and returns the channels that are new.
func (l *loader) relate(ctx context.Context, n *node, byURL map[string]*node) ([]*node, error) {
	rel := l.opts.Relations
	if rel == nil || rel.Depth <= 0 {
		return nil, nil
	}
	var fresh []*node
	for _, s := range n.subdirs {
		base, overrides, err := parseRelations(n.Channel.URL, s.relations())
		if err != nil {
			return nil, fmt.Errorf("%s/%s: channel_relations: %w", n.Channel.URL, s.subdir, err)
		}
		for i, ref := range []string{base, overrides} {
			if ref == "" {
				continue
			}
			other := byURL[canonicalURL(ref)]
			if other == nil {
				if other, err = l.related(ctx, n, ref); err != nil {
					return nil, err
				}
				byURL[canonicalURL(ref)] = other
				fresh = append(fresh, other)
			}
			high, low := other, n
			if i == 1 {
				high, low = n, other
			}
			if high.given >= 0 && low.given >= 0 && high.given > low.given {
				continue // the user wants it otherwise
			}
			if !slices.Contains(low.before, high) {
				low.before = append(low.before, high)
				if i == 1 {
					high.behind = append(high.behind, low)
				}
			}
		}
	}
	return fresh, nil
}

// related opens a channel that another one names.
func (l *loader) related(ctx context.Context, n *node, ref string) (*node, error) {
	rel := l.opts.Relations
	if n.depth >= rel.Depth {
		return nil, fmt.Errorf("%s names %s: channels are related over more than %d steps", n.Channel.URL, ref, rel.Depth)
	}
	if rel.Allow != nil {
		if err := rel.Allow(ref); err != nil {
			return nil, fmt.Errorf("%s names %s as a related channel: %w", n.Channel.URL, ref, err)
		}
	}
	if rel.Open == nil {
		return nil, errors.New("related channels cannot be opened")
	}
	src, err := rel.Open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("%s names %s as a related channel: %w", n.Channel.URL, ref, err)
	}
	return &node{Channel: Channel{URL: ref, Source: src}, Resolved: Resolved{URL: ref, From: n.Channel.URL}, given: -1, depth: n.depth + 1}, nil
}

// parseRelations reads channel_relations of a channel's index; references become URLs, "" where there is none. Keys that are
// not known are for clients to come.
func parseRelations(channel string, raw []byte) (base, overrides string, err error) {
	if len(raw) == 0 {
		return "", "", nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return "", "", errors.New("it is no object")
	}
	for key, into := range map[string]*string{"base": &base, "overrides": &overrides} {
		var ref *string
		if err := json.Unmarshal([]byte(cmp.Or(string(members[key]), "null")), &ref); err != nil {
			return "", "", fmt.Errorf("%s is no text", key)
		}
		if ref == nil {
			continue
		}
		if *into, err = relatedURL(channel, *ref); err != nil {
			return "", "", fmt.Errorf("%s: %w", key, err)
		}
	}
	switch own := canonicalURL(channel); {
	case base != "" && canonicalURL(base) == canonicalURL(overrides):
		return "", "", fmt.Errorf("%s cannot be both base and overridden", base)
	case base != "" && canonicalURL(base) == own, overrides != "" && canonicalURL(overrides) == own:
		return "", "", errors.New("a channel cannot be related to itself")
	}
	return base, overrides, nil
}

// relatedURL resolves a reference of a channel, which must begin with ../ and may not leave the channel's server.
func relatedURL(channel, ref string) (string, error) {
	if ref != ".." && !strings.HasPrefix(ref, "../") || strings.ContainsAny(ref, "?#\\%") {
		return "", fmt.Errorf("%q does not begin with ../", ref)
	}
	u, err := url.Parse(strings.TrimRight(channel, "/"))
	if err != nil || u.Scheme == "" {
		return "", fmt.Errorf("%q has nothing to begin at", ref)
	}
	rel := path.Join(strings.TrimPrefix(u.Path, "/"), ref) // as no absolute path, so that it does not stop at the root
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("%q leads out of the server", ref)
	}
	if rel == "." {
		rel = ""
	}
	u.Path, u.RawPath = "/"+rel, ""
	return strings.TrimRight(u.String(), "/"), nil
}

// order sorts channels so that each stands behind those of higher priority, by depth: what a channel waits for comes right
// before it, and what it overrides right behind it.
func order(nodes []*node) ([]*node, error) {
	var sorted, path []*node
	var visit func(n *node) error
	visit = func(n *node) error {
		switch n.state {
		case 2:
			return nil
		case 1:
			var names []string
			for _, p := range path[slices.Index(path, n):] {
				names = append(names, p.Channel.URL)
			}
			return fmt.Errorf("channels are related in a circle: %s", strings.Join(append(names, n.Channel.URL), " behind "))
		}
		n.state = 1
		path = append(path, n)
		for _, p := range n.before {
			if err := visit(p); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		n.state = 2
		sorted = append(sorted, n)
		for _, o := range n.behind {
			if o.given < 0 && o.state == 0 && !slices.ContainsFunc(o.before, func(p *node) bool { return p.state != 2 }) {
				if err := visit(o); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, n := range nodes {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return sorted, nil
}
