package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// A batch becomes one revision, and is what is sent again if the connection breaks: large enough that revisions are few,
// small enough that little is lost.
const (
	batchFiles = 250
	batchBytes = 256 << 20
	// batchAbout bounds the records of a batch; the server takes 16 MiB.
	batchAbout = 8 << 20
	// batchTries is how often a batch is sent while the server cannot be reached or is busy.
	batchTries = 6
)

// problem is a file that was not imported.
type importProblem struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
	Error  string `json:"error"`
}

// importReport says what came of an import.
type importReport struct {
	Channel string `json:"channel"`
	// DryRun: Added and Bytes are what would be sent.
	DryRun bool `json:"dry_run,omitempty"`
	// Found are package files at the source.
	Found int `json:"found"`
	// Added are listed now, Present were before; Bytes were sent.
	Added   int   `json:"added"`
	Present int   `json:"present"`
	Bytes   int64 `json:"bytes"`
	// Unlisted are files that the source's index does not name; they were left out.
	Unlisted int `json:"unlisted"`
	// Revisions is how many revisions the channel moved on by.
	Revisions int             `json:"revisions"`
	Problems  []importProblem `json:"problems"`

	revisions map[int64]bool
}

func (r *importReport) refuse(path, reason string, err error) {
	r.Problems = append(r.Problems, importProblem{path, reason, err.Error()})
}

// lines are the report as a table.
func (r *importReport) lines() [][]string {
	added, sent := "Added:", "Sent:"
	if r.DryRun {
		added, sent = "Would add:", "Would send:"
	}
	return [][]string{
		{"Channel:", r.Channel},
		{"Packages found:", fmt.Sprint(r.Found)},
		{added, fmt.Sprint(r.Added)},
		{"Already there:", fmt.Sprint(r.Present)},
		{"Not in the index:", fmt.Sprint(r.Unlisted)},
		{"Refused:", fmt.Sprint(len(r.Problems))},
		{sent, progress.Bytes(r.Bytes)},
		{"Revisions:", fmt.Sprint(r.Revisions)},
	}
}

// print shows the report; problems go to standard error as well as into structured output.
func (r *importReport) print(a *app, cmd *cobra.Command) error {
	slices.SortFunc(r.Problems, func(a, b importProblem) int { return strings.Compare(a.Path, b.Path) })
	var err error
	if a.output == "table" {
		err = table(cmd.OutOrStdout(), r.lines())
	} else {
		if r.Problems == nil {
			r.Problems = []importProblem{}
		}
		err = a.printStructured(cmd.OutOrStdout(), r)
	}
	for _, p := range r.Problems {
		note(cmd, "refused: %s: %s", printable(p.Path), printable(p.Error))
	}
	return err
}

// importer sends packages into channels.
type importer struct {
	c           *restclient.Client
	force       bool
	concurrency int
	backoff     func(int) time.Duration
	meter       *progress.Meter

	mu    sync.Mutex
	state progress.State
}

func (im *importer) moved(n int64) {
	im.mu.Lock()
	im.state.Bytes += n
	state := im.state
	im.mu.Unlock()
	im.meter.Update(state)
}

func (im *importer) done(files int) {
	im.mu.Lock()
	im.state.Done += int64(files)
	state := im.state
	im.mu.Unlock()
	im.meter.Update(state)
}

// listed are the files that a channel has, by path.
func listed(ctx context.Context, c *restclient.Client, channel string) (map[string]*channelsv1.File, error) {
	files, err := c.Files(ctx, channel)
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", channel, err)
	}
	out := make(map[string]*channelsv1.File, len(files))
	for _, f := range files {
		out[f.GetPath()] = f
	}
	return out, nil
}

// sift leaves out what the channel has already, as far as that can be told without sending it, and what it has otherwise.
func (im *importer) sift(ctx context.Context, files []restclient.Import, has map[string]*channelsv1.File, r *importReport) (left []restclient.Import, err error) {
	for _, f := range files {
		path := f.Subdir + "/" + f.Filename
		old := has[path]
		if old == nil || im.force {
			left = append(left, f)
			continue
		}
		sum := f.SHA256
		if sum == "" && old.GetSize() == f.Size { // no index tells: the file itself must
			if sum, err = hashOf(ctx, f); err != nil {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				r.refuse(path, "UNREADABLE", err)
				continue
			}
		}
		if strings.EqualFold(sum, old.GetSha256()) {
			r.Present++
			continue
		}
		r.refuse(path, "DUPLICATE", fmt.Errorf("the channel has other bytes under this name; --force replaces them"))
	}
	return left, nil
}

func hashOf(ctx context.Context, f restclient.Import) (string, error) {
	body, err := f.Open(ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// batches cuts files into what is sent at once.
func batches(files []restclient.Import) (out [][]restclient.Import) {
	var size, about int64
	start := 0
	for i, f := range files {
		if n := i - start; n > 0 && (n == batchFiles || size+f.Size > batchBytes || about+int64(len(f.Record)) > batchAbout) {
			out, start, size, about = append(out, files[start:i]), i, 0, 0
		}
		size += f.Size
		about += int64(len(f.Record))
	}
	if start < len(files) {
		out = append(out, files[start:])
	}
	return out
}

// send sends files into a channel, several batches at a time. Packages that are refused are in the report; the error is
// of what concerns all.
func (im *importer) send(ctx context.Context, channel string, files []restclient.Import, r *importReport) error {
	if r.revisions == nil {
		r.revisions = map[int64]bool{}
	}
	slices.SortFunc(files, func(a, b restclient.Import) int {
		return cmp.Or(strings.Compare(a.Subdir, b.Subdir), strings.Compare(a.Filename, b.Filename))
	})
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(im.concurrency)
	for _, batch := range batches(files) {
		g.Go(func() error { return im.sendBatch(ctx, channel, batch, r) })
	}
	err := g.Wait()
	r.Revisions = len(r.revisions)
	return err
}

func (im *importer) sendBatch(ctx context.Context, channel string, batch []restclient.Import, r *importReport) error {
	whole := len(batch)
	for try := 1; len(batch) > 0; try++ {
		var sent int64
		resp, err := im.c.Import(ctx, channel, batch, im.force, func(n int64) { sent += n; im.moved(n) })
		var source *restclient.SourceError
		switch {
		case err == nil:
			im.mu.Lock()
			r.take(resp, sent)
			im.mu.Unlock()
			im.done(whole)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &source): // the others of its batch can do nothing for it
			im.moved(-sent)
			im.mu.Lock()
			r.refuse(batch[source.Index].Subdir+"/"+batch[source.Index].Filename, "UNREADABLE", source)
			im.mu.Unlock()
			batch = slices.Delete(slices.Clone(batch), source.Index, source.Index+1)
			try = 0
			continue
		case try == batchTries || !passing(err):
			return fmt.Errorf("import into %s: %w", channel, err)
		}
		im.moved(-sent)
		var f *fault.Error
		after := im.pause(try)
		if errors.As(err, &f) {
			after = max(after, f.RetryAfter)
		}
		im.meter.Println(fmt.Sprintf("%v; the batch is sent again", printable(err.Error())))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(after):
		}
	}
	im.done(whole)
	return nil
}

func (im *importer) pause(try int) time.Duration {
	if im.backoff != nil {
		return im.backoff(try)
	}
	return min(time.Second<<min(try-1, 5), 20*time.Second)
}

// passing reports whether a refusal may be another one in a moment. A quota does not pass.
func passing(err error) bool {
	var f *fault.Error
	if !errors.As(err, &f) {
		return false
	}
	switch f.Kind {
	case fault.Unavailable, fault.Timeout, fault.Upstream, fault.LostRace, fault.Conflict:
		return true
	case fault.Exhausted:
		return f.Reason != "QUOTA"
	}
	return f.Reason == "UPLOAD_INCOMPLETE"
}

// take adds the server's answer to a batch.
func (r *importReport) take(resp *channelsv1.ImportFilesResponse, sent int64) {
	r.Bytes += sent
	added := 0
	for _, f := range resp.GetResults() {
		switch f.GetState() {
		case channelsv1.ImportResult_STATE_ADDED:
			added++
		case channelsv1.ImportResult_STATE_PRESENT:
			r.Present++
		default:
			r.refuse(f.GetPath(), f.GetReason(), errors.New(f.GetError()))
		}
	}
	if r.Added += added; added > 0 {
		r.revisions[resp.GetRevision()] = true
	}
}
