package native

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// upload takes a package as the request's body and answers with the file as it is listed. Sending the same bytes
// again is a success without effect, so that a client may repeat what it is not sure of.
func (a *api) upload(w http.ResponseWriter, r *http.Request) error {
	channel, filename := r.PathValue("channel"), r.PathValue("filename")
	force := false
	if s := r.URL.Query().Get("force"); s != "" {
		var err error
		if force, err = strconv.ParseBool(s); err != nil {
			return fault.Field("force", "force must be true or false")
		}
	}
	check, err := a.channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{
		Channel: channel, Filename: filename, Size: max(r.ContentLength, 0), Force: force,
	})
	if err != nil {
		return err
	}
	staged, err := a.uploads.Stage(r.Context(), r.Body, r.ContentLength, check.GetRemaining())
	if err != nil {
		return err
	}
	if want := r.URL.Query().Get("sha256"); want != "" && !strings.EqualFold(want, hex.EncodeToString(staged.SHA256)) {
		return fault.Field("sha256", "the body's SHA-256 is %x, not %s", staged.SHA256, want).WithReason("DIGEST_MISMATCH")
	}
	ctx, cancel := context.WithTimeout(r.Context(), edge.PublishTimeout)
	defer cancel()
	resp, err := a.channels.AddFiles(ctx, &channelsv1.AddFilesRequest{
		Channel: channel, Force: force,
		Files: []*channelsv1.StagedFile{{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size}},
	})
	status, file := http.StatusCreated, (*channelsv1.File)(nil)
	var f *fault.Error
	switch {
	case errors.As(err, &f) && f.Reason == "DUPLICATE_EQUAL":
		status = http.StatusOK
		if file, err = a.listed(r.Context(), channel, filename, hex.EncodeToString(staged.SHA256)); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		file = resp.GetFiles()[0]
		a.files.Changed(channel)
	}
	data, err := (&edge.Marshaler{}).Marshal(file)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
	return nil
}

// listed returns the file as it stands in the channel.
func (a *api) listed(ctx context.Context, channel, filename, sha256 string) (*channelsv1.File, error) {
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return nil, fault.Field("filename", "%w", err)
	}
	req := &channelsv1.ListFilesRequest{Channel: channel, Package: d.Name, PageSize: 1000}
	for {
		resp, err := a.channels.ListFiles(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, f := range resp.GetFiles() {
			if path.Base(f.GetPath()) == filename && f.GetSha256() == sha256 {
				return f, nil
			}
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return nil, fault.New(fault.LostRace, "%s was there and is gone", filename) // deleted in between: a repeat will do
		}
	}
}
