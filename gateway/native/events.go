package native

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// heartbeat keeps proxies from cutting a stream on which nothing happens.
const heartbeat = 15 * time.Second

// jobEvents follows a job as server-sent events named state, progress and log. A client that comes back with
// Last-Event-ID gets what it missed; the stream ends after the final state.
func (a *api) jobEvents(w http.ResponseWriter, r *http.Request) error {
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("last_event_id")
	}
	stream, err := a.jobs.WatchJob(r.Context(), &jobsv1.WatchJobRequest{Id: r.PathValue("id"), LastEventId: strings.ToValidUTF8(last, "")})
	if err != nil {
		return err
	}
	// The first event is waited for before the status goes out: an unknown job is a 404, not an empty stream.
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)

	type received struct {
		event *jobsv1.JobEvent
		err   error
	}
	events := make(chan received)
	go func() { // ends with the request's context, which ends the stream
		for {
			ev, err := stream.Recv()
			select {
			case events <- received{ev, err}:
			case <-r.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	next := received{event: first}
	for {
		switch {
		case errors.Is(next.err, io.EOF):
			return nil
		case next.err != nil:
			return nil // the client sees the stream end and comes back with the last id
		case next.event != nil:
			if err := writeEvent(w, next.event); err != nil {
				return nil
			}
		}
		if err := flush.Flush(); err != nil {
			return nil
		}
		select {
		case next = <-events:
		case <-tick.C:
			next = received{}
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
				return nil
			}
		case <-edge.Draining(r.Context()):
			return nil // the client comes back, here or elsewhere
		case <-r.Context().Done():
			return nil
		}
	}
}

func writeEvent(w io.Writer, ev *jobsv1.JobEvent) error {
	name := "state"
	switch ev.GetEvent().(type) {
	case *jobsv1.JobEvent_Progress:
		name = "progress"
	case *jobsv1.JobEvent_Log:
		name = "log"
	}
	data, err := (&edge.Marshaler{}).Marshal(ev)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", ev.GetId(), name, data)
	return err
}
