package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// uploadIdle ends an upload whose client sends nothing for so long.
const uploadIdle = time.Minute

// ErrTooLarge is in the chain of errors of uploads that are larger than allowed.
var ErrTooLarge = errors.New("the upload is too large")

// Uploads brings the bytes of uploads into storage, before channels is told of them.
type Uploads struct {
	storage storagev1.StorageServiceClient
	data    *dataplane.Client
}

// NewUploads returns an Uploads.
func NewUploads(storage storagev1.StorageServiceClient, data *dataplane.Client) *Uploads {
	return &Uploads{storage: storage, data: data}
}

// Staged is an upload whose bytes are stored, but not listed anywhere.
type Staged struct {
	SHA256, MD5 []byte
	Size        int64
}

// Stage stores what r yields, hashed once on the way. size is what the client announced, -1 if nothing; remaining is how
// many bytes may come, negative for any number. A body that ends early stores nothing.
func (u *Uploads) Stage(ctx context.Context, r io.Reader, size, remaining int64) (Staged, error) {
	if remaining == 0 || (remaining > 0 && size > remaining) {
		return Staged{}, tooLarge(remaining)
	}
	resp, err := u.storage.CreateGrant(authn.WithSelf(ctx), &storagev1.CreateGrantRequest{MaxSize: max(remaining, 0)})
	if err != nil {
		return Staged{}, err
	}
	put := blob.PutOptions{MD5: true}
	if size >= 0 {
		put.ExpectSize = &size
	}
	body := &bodyReader{r: r}
	info, err := u.data.Put(ctx, resp.GetGrant(), body, put)
	var f *fault.Error
	switch {
	case body.err != nil:
		return Staged{}, fault.New(fault.Invalid, "the upload ended early: %w", body.err).WithReason("UPLOAD_INCOMPLETE")
	case errors.As(err, &f) && f.Reason == blob.ReasonTooLarge:
		return Staged{}, tooLarge(remaining)
	case err != nil:
		return Staged{}, err
	}
	return Staged{SHA256: info.Digest[:], MD5: info.MD5[:], Size: info.Size}, nil
}

// ReasonUploadTooLarge is the reason of the fault that refuses an upload for the server's own limit.
const ReasonUploadTooLarge = "UPLOAD_TOO_LARGE"

func tooLarge(limit int64) error {
	if limit < 0 {
		return fault.New(fault.Exhausted, "%w for this server", ErrTooLarge).WithReason(ReasonUploadTooLarge)
	}
	return fault.New(fault.Exhausted, "the upload is larger than the %d bytes that are left: %w", limit, ErrTooLarge).WithReason("QUOTA")
}

// bodyReader remembers that the client's side failed, which is not the store's fault.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// idleBody ends a request whose body stalls. Large uploads take as long as they take, so there is no total.
type idleBody struct {
	io.ReadCloser
	ctl *http.ResponseController
}

func (b *idleBody) Read(p []byte) (int, error) {
	_ = b.ctl.SetReadDeadline(time.Now().Add(uploadIdle)) // not every ResponseWriter can; tests' cannot
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		// Once the body is in, net/http watches the connection, and would end the request at the old deadline.
		_ = b.ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}

// PublishTimeout bounds the publication of uploads: their archives are read to the end first, up to a thousand of them.
const PublishTimeout = 15 * time.Minute
