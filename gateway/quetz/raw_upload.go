package quetz

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

const (
	// maxFormFiles bounds the files of one multipart request, which land in one revision together.
	maxFormFiles = 1000
	// maxOtherParts and maxOtherPart bound what is read of parts that mean nothing here: forms of browsers may have some.
	maxOtherParts = 16
	maxOtherPart  = 4 << 10
)

// upload takes one package as the request's body. Who may not upload is told so before the body is read.
func (d *dialect) upload(w http.ResponseWriter, r *http.Request) error {
	channel, filename := r.PathValue("channel"), r.PathValue("filename")
	force, err := queryBool(r, "force", false)
	if err != nil {
		return err
	}
	check := &channelsv1.CheckUploadRequest{Channel: channel, Filename: filename, Size: max(r.ContentLength, 0), Force: force}
	left, err := d.Channels.CheckUpload(r.Context(), check)
	if err != nil {
		return err
	}
	if !r.URL.Query().Has("sha256") {
		return queryMissing("sha256")
	}
	staged, err := d.Uploads.Stage(r.Context(), r.Body, r.ContentLength, left.GetRemaining())
	if err != nil {
		return d.overQuota(r, check, err)
	}
	if want := r.URL.Query().Get("sha256"); want != "" && !strings.EqualFold(want, hex.EncodeToString(staged.SHA256)) {
		return &statusError{http.StatusNotAcceptable, "Wrong SHA256 checksum"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), edge.PublishTimeout)
	defer cancel()
	_, err = d.Channels.AddFiles(ctx, &channelsv1.AddFilesRequest{
		Channel: channel, Force: force,
		Files: []*channelsv1.StagedFile{{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size}},
	})
	if err != nil {
		return err
	}
	d.Files.Changed(channel)
	return writeNull(w, http.StatusCreated)
}

// uploadForm takes any number of packages as multipart parts named files; all are published together or none is.
func (d *dialect) uploadForm(w http.ResponseWriter, r *http.Request) error {
	channel := r.PathValue("channel")
	_, err := d.Channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{Channel: channel})
	// Who may not upload here may yet have a role on the package, which only the parts' headers name: each is checked
	// before its bytes are read.
	if err != nil && !fault.Is(err, fault.Denied) {
		return err
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return formMissing("files")
	}
	form := &uploadParts{d: d, r: r, req: &channelsv1.AddFilesRequest{Channel: channel, Package: r.PathValue("package")}}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early")
		}
		if err := form.take(part); err != nil {
			return err
		}
	}
	if len(form.req.GetFiles()) == 0 {
		return formMissing("files")
	}
	ctx, cancel := context.WithTimeout(r.Context(), edge.PublishTimeout)
	defer cancel()
	if _, err := d.Channels.AddFiles(ctx, form.req); err != nil {
		var f *fault.Error
		if errors.As(err, &f) && f.Kind == fault.Conflict && len(f.Violations) > 0 {
			return fault.New(fault.Conflict, "Duplicate %s", f.Violations[0].Description)
		}
		return err
	}
	d.Files.Changed(channel)
	return writeNull(w, http.StatusCreated)
}

// uploadParts is a multipart request on its way in.
type uploadParts struct {
	d      *dialect
	r      *http.Request
	req    *channelsv1.AddFilesRequest
	staged int64 // bytes so far
	others int   // parts that are no files
}

// take takes one part. It does not close it: that would read it to its end, also when it is refused.
func (u *uploadParts) take(part *multipart.Part) error {
	if part.FormName() != "files" {
		if u.others++; u.others > maxOtherParts {
			return unknownPart()
		}
	}
	switch part.FormName() {
	case "force":
		value, err := io.ReadAll(io.LimitReader(part, maxOtherPart))
		if err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early")
		}
		if u.req.Force, err = parseBool(string(value)); err != nil {
			return invalidFields{{Type: "bool_parsing", Loc: []any{"body", "force"}, Msg: "Input should be a valid boolean, unable to interpret input", Input: []byte("null")}}
		}
		return nil
	case "files":
		return u.takeFile(part)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(part, maxOtherPart+1)); err != nil || n > maxOtherPart {
		return unknownPart()
	}
	return nil
}

func unknownPart() error {
	return fault.Field("files", "only the parts files and force are known here").WithReason("PACKAGE_FILE")
}

// takeFile checks the name and the right to it at the part's header, before its bytes are stored.
func (u *uploadParts) takeFile(part *multipart.Part) error {
	if len(u.req.GetFiles()) == maxFormFiles {
		return fault.Field("files", "at most %d files fit in one request", maxFormFiles).WithReason("PACKAGE_FILE")
	}
	filename := strings.ToValidUTF8(part.FileName(), "\uFFFD") // which no package is called
	check := &channelsv1.CheckUploadRequest{Channel: u.req.GetChannel(), Filename: filename, Force: u.req.GetForce()}
	left, err := u.d.Channels.CheckUpload(u.r.Context(), check)
	if err != nil {
		return err
	}
	remaining := left.GetRemaining()
	if remaining >= 0 {
		remaining = max(remaining-u.staged, 0)
	}
	staged, err := u.d.Uploads.Stage(u.r.Context(), part, -1, remaining)
	if err != nil {
		return u.d.overQuota(u.r, check, err)
	}
	u.staged += staged.Size
	u.req.Files = append(u.req.Files, &channelsv1.StagedFile{Filename: filename, Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size})
	return nil
}

// overQuota words an upload that broke the channel's limit as the channel does when it is told of such a size before.
func (d *dialect) overQuota(r *http.Request, check *channelsv1.CheckUploadRequest, err error) error {
	if !errors.Is(err, edge.ErrTooLarge) {
		return err
	}
	check.Size = math.MaxInt64
	if _, cerr := d.Channels.CheckUpload(r.Context(), check); cerr != nil {
		return cerr
	}
	return err
}

func formMissing(name string) error {
	return invalidFields{{Type: "missing", Loc: []any{"body", name}, Msg: "Field required", Input: []byte("null")}}
}
