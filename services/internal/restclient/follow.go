package restclient

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

const (
	// silence is how long a stream may say nothing: three of the server's heartbeats.
	silence = 45 * time.Second
	// patience is how often in a row a stream is opened without one event coming out of it; with the usual waits that is
	// about two minutes, in which a server restarts.
	patience = 28
	// maxEvent bounds an event: the last one may hold a result that names a thousand files.
	maxEvent = 8 << 20
)

var errSilent = errors.New("the event stream went silent")

// Follow hands out a job's events until it has ended, and returns the job as it ended. The first event is the job as it
// stands now. When the stream breaks, Follow comes back with the id of the last event it saw, so that nothing is missed;
// it gives up when the server stays away, or at once when the server says that the job is not there or not the caller's.
// Ending ctx ends Follow, not the job.
func (c *Client) Follow(ctx context.Context, id string, each func(*jobsv1.JobEvent)) (*jobsv1.Job, error) {
	f := follower{c: c, id: id, each: each}
	for try := 1; ; try++ {
		before := f.seen
		job, err := f.stream(ctx)
		if job != nil {
			return job, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if f.seen > before {
			try = 1
		}
		var problem *fault.Error
		if errors.As(err, &problem) {
			if problem.Reason == notEntrepot {
				return nil, err
			}
			switch problem.Kind {
			case fault.Unavailable, fault.Timeout, fault.Exhausted, fault.Upstream, fault.Internal:
			default:
				return nil, err
			}
		}
		if try >= patience {
			return nil, err
		}
		if err := wait(ctx, c.cfg.Backoff(try)); err != nil {
			return nil, err
		}
	}
}

type follower struct {
	c    *Client
	id   string
	each func(*jobsv1.JobEvent)
	last string // id of the last event
	seen int    // events in all
}

// stream opens the stream once. It returns the job if that has ended, else why the stream did.
func (f *follower) stream(ctx context.Context) (*jobsv1.Job, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := f.c.request(ctx, http.MethodGet, f.c.api(nil, "jobs", f.id, "events"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	// A connection that died without a word would otherwise be waited on for ever.
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	resp, err := f.c.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if t := resp.Header.Get("Content-Type"); !strings.HasPrefix(t, "text/event-stream") {
		return nil, f.c.decode(nil, &jobsv1.Job{})
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var id string
	var data []byte
	for lines.Scan() {
		watchdog.Reset(silence)
		line := lines.Text()
		if line == "" {
			if len(data) > 0 {
				if job := f.event(id, data); job != nil {
					return job, nil
				}
			}
			data = nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, f.c.transportError(ctx, err)
	}
	return nil, f.c.transportError(ctx, io.ErrUnexpectedEOF)
}

// event hands one event out and returns the job if it says that the job has ended.
func (f *follower) event(id string, data []byte) *jobsv1.Job {
	ev := &jobsv1.JobEvent{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, ev); err != nil {
		return nil // a later server's event; the state events are what counts
	}
	if id != "" {
		f.last = id
	}
	f.seen++
	f.each(ev)
	if job := ev.GetState(); job != nil && Final(job.GetState()) {
		return job
	}
	return nil
}
