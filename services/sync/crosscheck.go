package sync

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// staleAfter is how much newer the plain index may be than the compressed one before that counts as forgotten: servers
// write one after the other, and the largest take minutes.
const staleAfter = 15 * time.Minute

// crossCheck looks for a repodata.json that is newer than the compressed form that was read. There are servers on which
// something writes the one and has long ceased to write the other: whoever trusts the smaller file would stand still
// for ever, without any error. Where the times tell nothing, the plain form is compared only if files of the subdir were
// not what the index says.
func (u *upstream) crossCheck(ctx context.Context, old subdirState, ix index) index {
	plain := ix.Subdir + "/repodata.json"
	doubt := u.doubted[ix.Subdir]
	if ix.IndexPath == "" || ix.IndexPath == plain || ix.IndexPath == ix.Subdir+"/"+indexNames[len(indexNames)-1] || ix.LastModified == nil && !doubt {
		return ix
	}
	if ix.LastModified != nil {
		if u.headless.Load() {
			return ix
		}
		resp, err := u.remote.Get(ctx, fetch.Request{Method: http.MethodHead, Path: plain})
		if err != nil {
			if s := fetch.StatusOf(err); s != http.StatusNotFound && s != http.StatusGone {
				u.headless.Store(true) // a server that does not like to be asked so is not asked once per subdir
			}
			return ix
		}
		slack := staleAfter
		if doubt {
			slack = 0
		}
		if resp.LastModified.Sub(*ix.LastModified) <= slack {
			return ix
		}
	}
	full, err := u.fetchOne(ctx, old, plain, true)
	if err != nil || bytes.Equal(full.says(), ix.says()) {
		return ix // it cannot be had, or was only touched
	}
	full.note = fmt.Sprintf("%s says something else than %s; the former was read", plain, ix.IndexPath)
	if ix.LastModified != nil && full.LastModified != nil {
		full.note = fmt.Sprintf("%s is %s older than %s, which was read instead", ix.IndexPath, full.LastModified.Sub(*ix.LastModified).Round(time.Second), plain)
	}
	return full
}
