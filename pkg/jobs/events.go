package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/bus"
)

// EventKind says what an event tells.
type EventKind string

// The kinds of events.
const (
	EventState    EventKind = "state"
	EventProgress EventKind = "progress"
	EventLog      EventKind = "log"
)

// Event is something that happened to a job, for those who watch. Exactly one of State, Progress and Log is set.
type Event struct {
	// ID is "<epoch>-<sequence>": hand it to Follow to go on behind this event. It is not part of the JSON.
	ID       string      `json:"-"`
	Kind     EventKind   `json:"kind"`
	Job      uuid.UUID   `json:"job"`
	Time     time.Time   `json:"time"`
	State    *StateEvent `json:"state,omitempty"`
	Progress *Progress   `json:"progress,omitempty"`
	Log      *LogEvent   `json:"log,omitempty"`
}

// StateEvent tells a job's state, and how far it had come.
type StateEvent struct {
	State    State           `json:"state"`
	Failures int             `json:"failures,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Progress Progress        `json:"progress"`
}

// LogEvent is a line of a job's log.
type LogEvent struct {
	Level slog.Level `json:"level"`
	Line  string     `json:"line"`
}

// Data returns the event as JSON, for the data line of a server-sent event.
func (e Event) Data() []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // no field can fail: a Result comes from jobs.jobs, which holds what encodeResult wrote
	}
	return data
}

// events publishes without waiting for anybody: what nobody stores is lost, which its readers expect.
type events struct{ bus *bus.Bus }

func (e *events) publish(ev Event) {
	if e.bus == nil {
		return
	}
	ev.Time = time.Now().UTC()
	// Core NATS, not JetStream: the stream stores it all the same, and nobody waits for the acknowledgement.
	_ = e.bus.Conn().Publish(subjectEvents+ev.Job.String(), ev.Data())
}

func (e *events) state(job uuid.UUID, s StateEvent) {
	e.publish(Event{Kind: EventState, Job: job, State: &s})
}

func (e *events) nudge(subject string) {
	if e.bus != nil {
		_ = e.bus.Conn().Publish(subject, nil) // the heartbeat or the poll finds out otherwise
	}
}

// position is a place in the stream of events. The epoch is when the stream was made, in nanoseconds: a new stream counts
// from 1 again. 0 is a stream that could not be asked.
type position struct {
	epoch int64
	seq   uint64
}

func (p position) String() string {
	return strconv.FormatInt(p.epoch, 10) + "-" + strconv.FormatUint(p.seq, 10)
}

func parsePosition(id string) (position, bool) {
	epoch, seq, ok := strings.Cut(id, "-")
	if !ok {
		return position{}, false
	}
	e, err1 := strconv.ParseInt(epoch, 10, 64)
	s, err2 := strconv.ParseUint(seq, 10, 64)
	return position{e, s}, err1 == nil && err2 == nil && e > 0
}

func decodeEvent(data []byte) (Event, bool) {
	var e Event
	if err := json.Unmarshal(data, &e); err != nil {
		return e, false
	}
	return e, true
}

// sleep waits for d or until ctx ends, which it reports.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
