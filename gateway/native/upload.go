package native

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
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
	resp, err := a.channels.AddFiles(r.Context(), &channelsv1.AddFilesRequest{
		Channel: channel, Force: force,
		Files: []*channelsv1.StagedFile{{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size}},
	})
	status := http.StatusCreated
	if f, ok := err.(*fault.Error); ok && f.Reason == "DUPLICATE_EQUAL" {
		status = http.StatusOK
		resp = &channelsv1.AddFilesResponse{Files: []*channelsv1.File{{
			Path: filename, Sha256: hex.EncodeToString(staged.SHA256), Md5: hex.EncodeToString(staged.MD5), Size: staged.Size,
		}}}
	} else if err != nil {
		return err
	}
	a.files.Changed(channel)
	data, err := (&edge.Marshaler{}).Marshal(resp.GetFiles()[0])
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
	return nil
}
