package jobs

import (
	"embed"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of this package. Every service may write to it in its own transaction, through
// [Client.Enqueue], [Hold] and [Job.Complete].
var Schema = pg.Schema{Name: "jobs", FS: migrations}

// channel is where PostgreSQL notifies the dispatchers; the payload says which half of one should look.
const (
	channel    = "entrepot_jobs"
	wakeRelay  = "relay"
	wakeSweep  = "sweep"
	maxText    = 8 << 10 // of an error, a message or a log line, in bytes
	maxArgs    = 1 << 20 // of a job's arguments: more belongs in a blob whose digest is the argument
	maxResult  = 1 << 20 // of a job's result, likewise
	defaultNS  = "default"
	maxKeyText = 512 // of keys that are indexed
)

// State is where a job stands; the package comment draws how they follow each other.
type State string

// The states. Succeeded, Dead and Cancelled are terminal.
const (
	Queued    State = "queued"
	Scheduled State = "scheduled"
	Running   State = "running"
	Succeeded State = "succeeded"
	Dead      State = "dead"
	Cancelled State = "cancelled"
)

// Terminal reports whether nothing more happens to a job in this state by itself.
func (s State) Terminal() bool { return s == Succeeded || s == Dead || s == Cancelled }

// Priority orders the jobs of one kind. The zero value is Normal.
type Priority int8

// The priorities.
const (
	Normal Priority = iota
	High
	Low
)

// ranks lists the priorities from the most urgent; the position is what the database holds.
var ranks = [...]Priority{High, Normal, Low}

func (p Priority) rank() int16 {
	for i, q := range ranks {
		if p == q {
			return int16(i)
		}
	}
	return 1
}

func priorityOf(rank int16) Priority {
	if rank >= 0 && int(rank) < len(ranks) {
		return ranks[rank]
	}
	return Normal
}

// String returns the priority's name, which is its token in subjects too.
func (p Priority) String() string {
	switch p {
	case High:
		return "high"
	case Low:
		return "low"
	}
	return "normal"
}

// Coalesce says what a request does when a job with the same kind and key is there already. A job that is still queued
// always takes the request in: both want the same work, and it has not begun.
type Coalesce int8

const (
	// ByKind is the zero value: what the kind's KindSpec says, QueueOne for a kind the client does not know.
	ByKind Coalesce = iota
	// QueueOne queues exactly one more job behind the running one, which may have read its input too early.
	QueueOne
	// Join takes a running job's outcome for its own.
	Join
	// None ignores the key: each request is a job.
	None
)

// Lock is a resource that a job holds while it runs. Any number of jobs hold it shared, or one holds it exclusively.
type Lock struct {
	Resource  string
	Exclusive bool
}

// Principal is whom a job runs as. Data is opaque here: what authn needs to re-authorise the principal when the job runs.
type Principal struct {
	// Name is shown to people.
	Name string
	Data []byte
}

// Args is what a job is asked to do: a proto message, kept as its bytes, so that fields a newer version added survive
// an older one.
type Args interface{ proto.Message }

// Progress is how far a running job has come. Total 0 means unknown.
type Progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total"`
	Bytes   int64  `json:"bytes"`
	Message string `json:"message,omitempty"`
}

// Info is a job as it stands in the database.
type Info struct {
	ID   uuid.UUID
	Seq  int64
	Kind string
	// ArgsType is the full name of the message whose bytes are Args.
	ArgsType        string
	Args            []byte
	State           State
	Priority        Priority
	Namespace       string
	Principal       Principal
	Resource        string
	CoalesceKey     string
	Locks           []Lock
	Claim           int64
	Failures        int
	MaxFailures     int
	CancelRequested bool
	// LastError is the message of the latest attempt that failed, also of a job that succeeded afterwards.
	LastError string
	// Result is JSON, nil if there is none.
	Result   []byte
	Progress Progress
	// ScheduleID names the schedule that fired the job, if one did.
	ScheduleID uuid.UUID
	CreatedAt  time.Time
	// The times below are zero until they have happened; StartAt is when a scheduled job is due.
	StartAt    time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	// Runner names who runs it now, LeaseExpires until when its lease lasts; both are zero unless it runs.
	Runner       string
	LeaseExpires time.Time
}

// lastChange is the latest of the times the row remembers.
func (i Info) lastChange() time.Time {
	at := i.CreatedAt
	for _, t := range []time.Time{i.StartedAt, i.FinishedAt} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// clean makes text that a program or an upstream wrote fit for the database: valid UTF-8, no NUL, bounded.
func clean(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
