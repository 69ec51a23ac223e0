package native

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

const (
	// maxImportFiles is how many packages a batch may have.
	maxImportFiles = 1000
	// maxImportAbout bounds what is said of a package, its record in the main; maxImportAbouts all of a batch, which is
	// held in memory and sent on in one message.
	maxImportAbout  = 4 << 20
	maxImportAbouts = 16 << 20
)

// importAbout is what a part named about says of the package in the next part. Unknown keys are refused: a misspelt one
// would otherwise be lost in silence.
type importAbout struct {
	// Record is the package's record in repodata.json.
	Record json.RawMessage `json:"record"`
	// SHA256 and Size are those that the bytes must have.
	SHA256 string `json:"sha256"`
	Size   *int64 `json:"size"`
	// CreateTime and Uploader are of the package's first publication.
	CreateTime *time.Time `json:"create_time"`
	Uploader   string     `json:"uploader"`
}

// imports takes a batch of packages as multipart/form-data: for each one a part that is named for its subdir and has a
// file name, and before it, if there is anything to say, a part named about. What is refused is named in the answer and
// stops nothing else. Sending a batch again changes nothing.
func (a *api) imports(w http.ResponseWriter, r *http.Request) error {
	channel := r.PathValue("channel")
	check, err := a.channels.CheckUpload(r.Context(), &channelsv1.CheckUploadRequest{Channel: channel})
	if err != nil {
		return err
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return fault.Field("body", "must be multipart/form-data")
	}
	in := &importParts{uploads: a.uploads, left: check.GetRemaining(), req: &channelsv1.ImportFilesRequest{Channel: channel}}
	switch s := r.URL.Query().Get("force"); s {
	case "", "false":
	case "true":
		in.req.Force, in.left = true, -1 // what is replaced gives its bytes back, so channels decides
	default:
		return fault.Field("force", "force must be true or false")
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early").WithReason("UPLOAD_INCOMPLETE")
		}
		if err := in.take(r.Context(), part); err != nil {
			return err
		}
	}
	if in.next != nil {
		return fault.Field("about", "the last part speaks of a package that does not follow")
	}
	resp := &channelsv1.ImportFilesResponse{}
	if len(in.req.GetFiles()) > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), edge.PublishTimeout)
		defer cancel()
		if resp, err = a.channels.ImportFiles(ctx, in.req); err != nil {
			return err
		}
		a.files.Changed(channel)
	}
	resp.Results = append(resp.Results, in.refused...)
	data, err := (&edge.Marshaler{}).Marshal(resp)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
	return nil
}

// importParts is a batch on its way in.
type importParts struct {
	uploads *edge.Uploads
	req     *channelsv1.ImportFilesRequest
	left    int64 // bytes that may still come; negative: any number
	next    *importAbout
	abouts  int64
	refused []*channelsv1.ImportResult
}

func (in *importParts) take(ctx context.Context, part *multipart.Part) error {
	if part.FormName() == "about" {
		return in.about(part)
	}
	// Part.FileName would cut a path down to its last segment, and take what is no name for one.
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil || params["filename"] == "" {
		return fault.Field("body", "a part is neither named about nor has a file name")
	}
	if len(in.req.GetFiles())+len(in.refused) >= maxImportFiles {
		return fault.Field("body", "a batch has at most %d packages", maxImportFiles)
	}
	about := in.next
	in.next = nil
	if about == nil {
		about = &importAbout{}
	}
	size := int64(-1)
	if about.Size != nil {
		size = *about.Size
	}
	staged, err := in.uploads.Stage(ctx, part, size, in.left)
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.Invalid && f.Reason != "UPLOAD_INCOMPLETE" { // another size than was said
		if _, err := io.Copy(io.Discard, part); err != nil {
			return fault.New(fault.Invalid, "the multipart body ended early").WithReason("UPLOAD_INCOMPLETE")
		}
		in.refuse(params, "", f)
		return nil
	}
	if err != nil {
		return err
	}
	if in.left >= 0 {
		in.left -= staged.Size
		if in.left == 0 {
			in.left = 1 // 0 would refuse an empty file; channels counts in any case
		}
	}
	sum := hex.EncodeToString(staged.SHA256)
	if about.SHA256 != "" && !strings.EqualFold(about.SHA256, sum) {
		in.refuse(params, sum, fault.Field("sha256", "its SHA-256 is %s, not %s", sum, about.SHA256).WithReason("DIGEST_MISMATCH"))
		return nil
	}
	file := &channelsv1.ImportedFile{
		File:   &channelsv1.StagedFile{Filename: params["filename"], Sha256: staged.SHA256, Md5: staged.MD5, Size: staged.Size},
		Subdir: params["name"], Record: about.Record, Uploader: about.Uploader,
	}
	if about.CreateTime != nil {
		file.CreateTime = timestamppb.New(*about.CreateTime)
	}
	in.req.Files = append(in.req.Files, file)
	return nil
}

func (in *importParts) about(part io.Reader) error {
	if in.next != nil {
		return fault.Field("about", "two parts speak of one package")
	}
	data, err := io.ReadAll(io.LimitReader(part, maxImportAbout+1))
	if err != nil {
		return fault.New(fault.Invalid, "the multipart body ended early").WithReason("UPLOAD_INCOMPLETE")
	}
	if in.abouts += int64(len(data)); len(data) > maxImportAbout || in.abouts > maxImportAbouts {
		return fault.Field("about", "what is said of a package may have %d bytes, of all of a batch %d", maxImportAbout, maxImportAbouts)
	}
	in.next = &importAbout{}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(in.next); err != nil {
		return fault.Field("about", "what is said of a package cannot be read: %v", err)
	}
	return nil
}

func (in *importParts) refuse(params map[string]string, sum string, f *fault.Error) {
	in.refused = append(in.refused, &channelsv1.ImportResult{
		Filename: params["filename"], Path: params["name"] + "/" + params["filename"], Sha256: sum,
		State: channelsv1.ImportResult_STATE_REFUSED, Reason: f.Reason, Error: f.Message,
	})
}
