package jobs

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Backoff is the pause before a failed job is tried again: Initial after the first failure, doubled after each further
// one up to Max, then spread by ±20 % so that jobs which failed together do not come back together.
type Backoff struct {
	Initial time.Duration
	Max     time.Duration
}

// Delay returns the pause after the given number of failures (1 or more). random is in [0, 1).
func (b Backoff) Delay(failures int, random float64) time.Duration {
	d := b.Initial
	for i := 1; i < failures && d < b.Max; i++ {
		d *= 2
	}
	return time.Duration(float64(min(d, b.Max)) * (0.8 + 0.4*random))
}

// KindSpec says how jobs of one kind are run.
type KindSpec struct {
	// Kind is <domain>.<verb> in lower case, such as "channels.index".
	Kind string
	// Timeout ends one attempt, which then counts as failed. Default 1 h. It bounds a worker that hangs while its
	// process still beats for it.
	Timeout time.Duration
	// MaxFailures is the number of failed attempts after which a job is dead. Default 5.
	MaxFailures int
	// Backoff defaults to 2 s, doubling up to 10 min.
	Backoff Backoff
	// Coalesce is what a request with a key does while a job with that key runs. Default QueueOne.
	Coalesce Coalesce
	// Concurrency is the number of slots in one process. Default 2.
	Concurrency int
	// MaxAckPending caps the jobs of this kind that run at once in the whole cluster, per priority. 0 means no cap but
	// the slots.
	MaxAckPending int
}

func (s KindSpec) withDefaults() KindSpec {
	if s.Timeout <= 0 {
		s.Timeout = time.Hour
	}
	if s.MaxFailures <= 0 {
		s.MaxFailures = 5
	}
	if s.Backoff.Initial <= 0 {
		s.Backoff.Initial = 2 * time.Second
	}
	if s.Backoff.Max <= 0 {
		s.Backoff.Max = 10 * time.Minute
	}
	if s.Coalesce == ByKind {
		s.Coalesce = QueueOne
	}
	if s.Concurrency <= 0 {
		s.Concurrency = 2
	}
	return s
}

// kindPattern keeps the way from a kind to its token injective: "." becomes "_", and no kind contains "_".
var kindPattern = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+$`)

func checkKind(kind string) error {
	if len(kind) > 100 || !kindPattern.MatchString(kind) {
		return fault.Field("kind", "job kind %q is not of the form domain.verb in lower case", kind)
	}
	return nil
}

// token is the kind's name in streams and subjects.
func token(kind string) string { return strings.ReplaceAll(kind, ".", "_") }

// Worker does the jobs whose arguments are A. Work is called once per attempt, at the same time for several jobs. What
// it returns besides the error becomes the job's result: nil, a proto message, or anything encoding/json can write.
// The package comment says what each error does, and what a worker owes to its claim.
type Worker[A Args] interface {
	Work(ctx context.Context, job *Job[A]) (result any, err error)
}

// WorkFunc is a function that is a Worker.
type WorkFunc[A Args] func(ctx context.Context, job *Job[A]) (any, error)

// Work calls f.
func (f WorkFunc[A]) Work(ctx context.Context, job *Job[A]) (any, error) { return f(ctx, job) }

// Registry holds the kinds a process knows: their specs, and the workers that do them. A Runner takes what is in it when it
// is made; a Client asks it with each request, also while kinds are added.
type Registry struct {
	mu    sync.RWMutex
	kinds map[string]*registered
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{kinds: make(map[string]*registered)} }

type registered struct {
	spec     KindSpec
	argsType string
	work     func(ctx context.Context, t *task) (any, error)
}

// Register adds a kind and its worker. It panics if the name is malformed or taken: a programmer's mistake.
func Register[A Args](reg *Registry, spec KindSpec, w Worker[A]) {
	if err := checkKind(spec.Kind); err != nil {
		panic(err)
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if _, ok := reg.kinds[spec.Kind]; ok {
		panic(fmt.Sprintf("jobs: kind %s is registered twice", spec.Kind))
	}
	var zero A
	argsType := zero.ProtoReflect().Type()
	reg.kinds[spec.Kind] = &registered{
		spec:     spec.withDefaults(),
		argsType: string(argsType.Descriptor().FullName()),
		work: func(ctx context.Context, t *task) (any, error) {
			args, ok := argsType.New().Interface().(A)
			if !ok {
				return nil, Discard(fault.New(fault.Internal, "%s does not make %T", argsType.Descriptor().FullName(), zero))
			}
			if err := proto.Unmarshal(t.row.Args, args); err != nil {
				return nil, Discard(fault.New(fault.Invalid, "arguments are not a %s: %w", argsType.Descriptor().FullName(), err))
			}
			return w.Work(ctx, newJob(t, args))
		},
	}
}

// Kinds returns the registered kinds in order.
func (r *Registry) Kinds() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.kinds))
}

// Spec returns a kind's spec with its defaults filled in.
func (r *Registry) Spec(kind string) (KindSpec, bool) {
	k, ok := r.get(kind)
	if !ok {
		return KindSpec{}, false
	}
	return k.spec, true
}

func (r *Registry) get(kind string) (*registered, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.kinds[kind]
	return k, ok
}
