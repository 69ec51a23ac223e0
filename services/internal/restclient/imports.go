package restclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Import is a package of a batch that is brought from elsewhere.
type Import struct {
	// Subdir and Filename say where it was found.
	Subdir, Filename string
	// Size in bytes, and SHA256 in hex if it is known: the server refuses other bytes.
	Size   int64
	SHA256 string
	// Record is its repodata record; nil lets the package speak for itself.
	Record []byte
	// CreateTime and Uploader are of its first publication; the zero values are unknown.
	CreateTime time.Time
	Uploader   string
	// Open opens its bytes. They are read once, to their end.
	Open func(context.Context) (io.ReadCloser, error)
}

// SourceError says that a package could not be read where it is. The batch was not taken.
type SourceError struct {
	// Index is the package's place in the batch.
	Index int
	Err   error
}

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Import sends a batch of packages, which become visible in one revision. What the server refuses is in its answer and
// stops no other package; sending the batch again changes nothing. moved is told of bytes as they go.
func (c *Client) Import(ctx context.Context, channel string, batch []Import, force bool, moved func(int64)) (*channelsv1.ImportFilesResponse, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	var source error // of the goroutine; read after done
	done := make(chan struct{})
	go func() {
		defer close(done)
		source = writeImports(ctx, form, batch, moved)
		if source == nil {
			source = form.Close()
		}
		_ = pw.CloseWithError(source) // nil is io.EOF: the body's end
	}()
	resp, err := c.sendImports(ctx, channel, form.FormDataContentType(), pr, force)
	cancel(nil)
	_ = pr.CloseWithError(errBodyDropped) // the writer ends, if the server answered before it was done
	<-done
	var se *SourceError
	if errors.As(source, &se) && !errors.Is(se.Err, context.Canceled) { // cancelled: by us, above
		return nil, se
	}
	return resp, err
}

var errBodyDropped = errors.New("the server answered before the end of the batch")

func (c *Client) sendImports(ctx context.Context, channel, contentType string, body io.Reader, force bool) (*channelsv1.ImportFilesResponse, error) {
	q := values()
	if force {
		q.Set("force", "true")
	}
	req, err := c.request(ctx, http.MethodPost, c.api(q, "channels", channel, "imports"), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	out := &channelsv1.ImportFilesResponse{}
	return out, c.decode(data, out)
}

func writeImports(ctx context.Context, form *multipart.Writer, batch []Import, moved func(int64)) error {
	for i, f := range batch {
		if err := writeImport(ctx, form, f, moved); err != nil {
			var se *SourceError
			if errors.As(err, &se) {
				se.Index = i
			}
			return err
		}
	}
	return nil
}

func writeImport(ctx context.Context, form *multipart.Writer, f Import, moved func(int64)) error {
	body, err := f.Open(ctx)
	if err != nil {
		return &SourceError{Err: err}
	}
	defer body.Close()
	about := map[string]any{"size": f.Size}
	if f.SHA256 != "" {
		about["sha256"] = f.SHA256
	}
	if f.Record != nil {
		about["record"] = json.RawMessage(f.Record)
	}
	if !f.CreateTime.IsZero() {
		about["create_time"] = f.CreateTime.UTC()
	}
	if f.Uploader != "" {
		about["uploader"] = f.Uploader
	}
	var said bytes.Buffer
	enc := json.NewEncoder(&said)
	enc.SetEscapeHTML(false) // the record shall be listed as it is spelled
	if err := enc.Encode(about); err != nil {
		return &SourceError{Err: fmt.Errorf("its record is no JSON: %w", err)}
	}
	w, err := form.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="about"`}, "Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	if _, err := w.Write(said.Bytes()); err != nil {
		return err
	}
	w, err = form.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {fmt.Sprintf(`form-data; name="%s"; filename="%s"`, quoted.Replace(f.Subdir), quoted.Replace(f.Filename))},
		"Content-Type":        {"application/octet-stream"},
	})
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for {
		n, rerr := body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			moved(int64(n))
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return &SourceError{Err: rerr}
		}
	}
}

var quoted = strings.NewReplacer("\\", "\\\\", `"`, "\\\"")
