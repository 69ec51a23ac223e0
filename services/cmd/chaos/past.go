package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
)

// former chooses an index file with a revision that it had. The caller holds mu.
func (r *reader) former() (f *indexFile, revision int64, want indexAt) {
	for range 8 {
		f := r.paths[rand.N(len(r.paths))]
		// The others are not kept for former revisions; their readers fall back to these.
		if f.upstream != nil || !strings.HasSuffix(f.path, "/repodata.json") && !strings.HasSuffix(f.path, ".msgpack.zst") {
			continue
		}
		for revision, want := range f.content { // any of them
			return f, revision, want
		}
	}
	return nil, 0, want
}

// formerIndex reads an index as it was at a revision, and one of the files that it listed then.
func (r *reader) formerIndex(ctx context.Context, path string, revision int64, want indexAt) {
	channel, rest, _ := strings.Cut(path, "/")
	pinned := fmt.Sprintf("%s@%d/%s", channel, revision, rest)
	a, ok := r.get(ctx, pinned, "", true)
	if !ok {
		return
	}
	if a.status != http.StatusOK {
		r.violation(lieStatus, "%s was served as the newest, and as a former one answers %d: %.200s", pinned, a.status, a.body)
		return
	}
	l, err := parseIndex(path, a.body)
	if err != nil {
		r.violation(lieBytes, "%s: %v", pinned, err)
		return
	}
	if a.revision > revision || l.digest() != want.listing {
		r.violation(lieTwo, "%s, of revision %d, lists something else than when it was the newest", pinned, a.revision)
		return
	}
	r.past.Add(1)
	if len(l.files) > 0 {
		f := l.files[rand.N(len(l.files))]
		f.path = fmt.Sprintf("%s@%d/%s", channel, revision, strings.TrimPrefix(f.path, channel+"/"))
		r.read(ctx, f, true)
	}
}
