package plane

import (
	"context"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// fetchFile gets a document that stands alone: nothing says what it must be, so it is complete if upstream says so.
func (p *Plane) fetchFile(ctx context.Context, remote *fetch.Remote, k familyKey, old *state) (*state, error) {
	req := conditional(old, k.dir, false)
	req.MaxSize = p.deps.MaxFileSize
	info, res, err := p.download(ctx, remote, req, nil, blob.PutOptions{})
	if err != nil {
		return nil, err
	}
	if res.NotModified {
		// What upstream calls unchanged is ours to have: a copy that was lost is found missing when it is read.
		if _, err := p.deps.Blobs.Stat(ctx, old.Body.Digest); err == nil {
			st := *old
			if res.ETag != "" {
				st.ETag = res.ETag
			}
			return &st, nil
		}
		req = conditional(nil, k.dir, true)
		req.MaxSize = p.deps.MaxFileSize
		if info, res, err = p.download(ctx, remote, req, nil, blob.PutOptions{}); err != nil {
			return nil, err
		}
	}
	doc := document{info.Digest, info.Size}
	modified := res.LastModified
	if modified.IsZero() {
		modified = time.Now()
	}
	return &state{
		Source: k.dir, ETag: res.ETag, LastModified: timeOf(res.LastModified), SourceDigest: info.Digest[:], Generation: info.Digest.String()[:24],
		Body: body{document: doc}, Documents: map[string]document{k.dir: doc}, ModifiedAt: modified,
	}, nil
}
