package quetz

import (
	"encoding/hex"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// maxFormFiles bounds the files of one multipart request, which land in one revision together.
const maxFormFiles = 1000

// upload takes one package as the request's body. Who may not upload is told so before the body is read.
func (d *dialect) upload(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.writable(r)
	if err != nil {
		return err
	}
	force, err := queryBool(r, "force", false)
	if err != nil {
		return err
	}
	filename := r.PathValue("filename")
	check, err := d.Channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{
		Channel: ch.GetName(), Filename: filename, Size: max(r.ContentLength, 0), Force: force,
	})
	if err != nil {
		return err
	}
	if !r.URL.Query().Has("sha256") {
		return queryMissing("sha256")
	}
	staged, err := d.Uploads.Stage(r.Context(), r.Body, r.ContentLength, check.GetRemaining())
	if err != nil {
		return overQuota(err, ch)
	}
	if want := r.URL.Query().Get("sha256"); want != "" && !strings.EqualFold(want, hex.EncodeToString(staged.SHA256)) {
		return &statusError{http.StatusNotAcceptable, "Wrong SHA256 checksum"}
	}
	_, err = d.Channels.AddFiles(r.Context(), &channelsv1.AddFilesRequest{
		Channel: ch.GetName(), Force: force,
		Files: []*channelsv1.StagedFile{{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size}},
	})
	if err != nil {
		if fault.Is(err, fault.Conflict) {
			return fault.New(fault.Conflict, "Duplicate")
		}
		return err
	}
	d.Files.Changed(ch.GetId())
	return writeNull(w, http.StatusCreated)
}

// uploadForm takes any number of packages as multipart parts named files; all are published together or none is.
func (d *dialect) uploadForm(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.writable(r)
	if err != nil {
		return err
	}
	check, err := d.Channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{Channel: ch.GetName()})
	if err != nil {
		return err
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return invalidFields{{Type: "missing", Loc: []any{"body", "files"}, Msg: "Field required", Input: []byte("null")}}
	}
	req := &channelsv1.AddFilesRequest{Channel: ch.GetName(), Package: r.PathValue("package")}
	remaining := check.GetRemaining()
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early")
		}
		if err := d.takePart(r, ch, part, req, &remaining); err != nil {
			return err
		}
	}
	if len(req.GetFiles()) == 0 {
		return invalidFields{{Type: "missing", Loc: []any{"body", "files"}, Msg: "Field required", Input: []byte("null")}}
	}
	if _, err := d.Channels.AddFiles(r.Context(), req); err != nil {
		return err
	}
	d.Files.Changed(ch.GetId())
	return writeNull(w, http.StatusCreated)
}

func (d *dialect) takePart(r *http.Request, ch *channelsv1.Channel, part *multipart.Part, req *channelsv1.AddFilesRequest, remaining *int64) error {
	defer part.Close()
	switch part.FormName() {
	case "force":
		value, err := io.ReadAll(io.LimitReader(part, 16))
		if err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early")
		}
		force, err := parseBool(string(value))
		if err != nil {
			return invalidFields{{Type: "bool_parsing", Loc: []any{"body", "force"}, Msg: "Input should be a valid boolean, unable to interpret input", Input: []byte("null")}}
		}
		req.Force = force
		return nil
	case "files":
		if len(req.GetFiles()) == maxFormFiles {
			return fault.Field("files", "at most %d files fit in one request", maxFormFiles).WithReason("PACKAGE_FILE")
		}
		// The name and the right to it are checked at the part's header, before its bytes are stored.
		filename := part.FileName()
		if _, err := d.Channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{
			Channel: ch.GetName(), Filename: filename, Force: req.GetForce(),
		}); err != nil {
			return err
		}
		staged, err := d.Uploads.Stage(r.Context(), part, -1, *remaining)
		if err != nil {
			return overQuota(err, ch)
		}
		if *remaining >= 0 {
			*remaining -= min(*remaining, staged.Size)
		}
		req.Files = append(req.Files, &channelsv1.StagedFile{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size})
		return nil
	default:
		_, err := io.Copy(io.Discard, io.LimitReader(part, 1<<20))
		return err
	}
}

// overQuota words the size limit of an upload as the channel's quota.
func overQuota(err error, ch *channelsv1.Channel) error {
	if errors.Is(err, edge.ErrTooLarge) && ch.SizeLimit != nil {
		return fault.New(fault.Exhausted, "%s is above quota of %d bytes", ch.GetName(), ch.GetSizeLimit()).WithReason("QUOTA")
	}
	return err
}
