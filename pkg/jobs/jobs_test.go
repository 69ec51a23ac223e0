package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/bus/bustest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, bustest.Leftovers()...) }

const (
	kind    = "test.work"
	leaseIn = 600 * time.Millisecond
	patient = 20 * time.Second
)

type (
	args = *wrapperspb.StringValue
	work = jobs.WorkFunc[args]
)

// bundle is a platform of one: a database, a NATS server, and what runs on them.
type bundle struct {
	t      testing.TB
	pool   *pgxpool.Pool
	server *bus.Server
	bus    *bus.Bus
	reg    *jobs.Registry
	client *jobs.Client
	// effects: what workers did, in order
	mu   sync.Mutex
	done []string
}

func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{t: t, pool: pgtest.New(t, jobs.Schema), server: bustest.NewServer(t), reg: jobs.NewRegistry()}
	b.bus = bustest.Connect(t, b.server)
	b.client = jobs.NewClient(jobs.ClientConfig{Pool: b.pool, Bus: b.bus, Registry: b.reg, FollowPoll: 100 * time.Millisecond})
	return b
}

// handle registers the kind with a spec that suits tests.
func (b *bundle) handle(spec jobs.KindSpec, w work) {
	if spec.Kind == "" {
		spec.Kind = kind
	}
	if spec.Backoff.Initial == 0 {
		spec.Backoff = jobs.Backoff{Initial: 10 * time.Millisecond, Max: 20 * time.Millisecond}
	}
	jobs.Register(b.reg, spec, w)
}

func (b *bundle) note(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, s)
}

func (b *bundle) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.done...)
}

func (b *bundle) runner(change ...func(*jobs.RunnerConfig)) *jobs.Runner {
	b.t.Helper()
	cfg := jobs.RunnerConfig{
		Pool: b.pool, Bus: b.bus, Registry: b.reg, LeaseTTL: leaseIn, Poll: 100 * time.Millisecond, CancelGrace: 2 * time.Second,
		Logger: slog.New(slog.DiscardHandler), Rand: func() float64 { return 0.5 },
	}
	for _, f := range change {
		f(&cfg)
	}
	r, err := jobs.NewRunner(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := r.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.Stop(ctx)
	})
	return r
}

func (b *bundle) dispatcher(change ...func(*jobs.DispatcherConfig)) *jobs.Dispatcher {
	b.t.Helper()
	cfg := jobs.DispatcherConfig{
		Pool: b.pool, Bus: b.bus, Poll: 200 * time.Millisecond, Sweep: 200 * time.Millisecond,
		SuspectAfter: 300 * time.Millisecond, RedispatchAfter: time.Second, LeaderTTL: time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	d, err := jobs.NewDispatcher(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := d.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { d.Stop(context.Background()) })
	return d
}

func (b *bundle) start() {
	b.t.Helper()
	b.dispatcher()
	b.runner()
}

func (b *bundle) enqueue(text string, change ...func(*jobs.EnqueueParams)) jobs.EnqueueResult {
	b.t.Helper()
	p := jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String(text)}
	for _, f := range change {
		f(&p)
	}
	res, err := b.client.Enqueue(b.t.Context(), b.pool, p)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *bundle) get(id uuid.UUID) jobs.Info {
	b.t.Helper()
	info, err := b.client.Get(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return info
}

// ends waits for a job's terminal state and demands that it is the one.
func (b *bundle) ends(id uuid.UUID, want jobs.State) jobs.Info {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patient)
	defer cancel()
	for _, err := range b.client.Follow(ctx, id, "") {
		if err != nil {
			b.t.Fatalf("job %s is %s: %v", id, b.get(id).State, err)
		}
	}
	info := b.get(id)
	if info.State != want {
		b.t.Fatalf("job ended as %s (%s), want %s", info.State, info.LastError, want)
	}
	return info
}

// comes waits until the database shows what is expected.
func (b *bundle) comes(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patient)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: never", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (b *bundle) count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	if err := b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// receive takes a signal, or fails after a while.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patient):
		t.Fatal("no signal")
		panic("unreachable")
	}
}

func TestJobs(t *testing.T) {
	t.Run("a job runs with what was asked for and leaves its result", func(t *testing.T) {
		b := setup(t)
		got := make(chan jobs.Job[args], 1)
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			c := *job
			got <- c
			job.Progress(3, 4, 50, "nearly")
			return map[string]int64{"big": 1<<53 + 1}, nil
		})
		b.start()
		res := b.enqueue("x", func(p *jobs.EnqueueParams) {
			p.Priority, p.Namespace, p.Resource = jobs.High, "acme", "channel/7"
			p.Principal = jobs.Principal{Name: "ada", Data: []byte{0, 1}}
		})
		job := receive(t, got)
		if job.ID != res.JobID || job.Seq != res.Seq || job.Claim != 1 || job.Args.GetValue() != "x" || job.Namespace != "acme" ||
			job.Resource != "channel/7" || job.Priority != jobs.High || !cmp.Equal(job.Principal, jobs.Principal{Name: "ada", Data: []byte{0, 1}}) {
			t.Errorf("worker saw %+v", job)
		}
		info := b.ends(res.JobID, jobs.Succeeded)
		if string(info.Result) != `{"big":9007199254740993}` || info.Progress != (jobs.Progress{Done: 3, Total: 4, Bytes: 50, Message: "nearly"}) {
			t.Errorf("result %s, progress %+v", info.Result, info.Progress)
		}
		if info.StartedAt.IsZero() || info.FinishedAt.Before(info.StartedAt) || info.Runner != "" {
			t.Errorf("times or runner wrong: %+v", info)
		}
		bySeq, err := b.client.GetBySeq(t.Context(), res.Seq)
		if err != nil || bySeq.ID != res.JobID {
			t.Errorf("by number: %v %v", bySeq.ID, err)
		}
		b.comes("the books are empty", func() bool {
			return b.count(`SELECT (SELECT count(*) FROM jobs.outbox) + (SELECT count(*) FROM jobs.leases) + (SELECT count(*) FROM jobs.locks)`) == 0
		})
	})

	t.Run("a job exists if and only if its transaction commits", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			b.note(job.Args.GetValue())
			return nil, nil
		})
		b.start()
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gone, err := b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("rolled back")})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		res := b.enqueue("committed")
		b.ends(res.JobID, jobs.Succeeded)
		if _, err := b.client.Get(t.Context(), gone.JobID); !fault.Is(err, fault.NotFound) {
			t.Errorf("rolled back job: %v", err)
		}
		if diff := cmp.Diff([]string{"committed"}, b.noted()); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("fields that a newer version added to the arguments survive", func(t *testing.T) {
		b := setup(t)
		got := make(chan []byte, 1)
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			got <- job.Args.ProtoReflect().GetUnknown()
			return nil, nil
		})
		b.start()
		unknown := []byte{0x7a, 0x03, 'n', 'e', 'w'} // field 15, length-delimited
		newer := wrapperspb.String("x")
		newer.ProtoReflect().SetUnknown(unknown)
		res := b.enqueue("", func(p *jobs.EnqueueParams) { p.Args = newer })
		if diff := cmp.Diff(unknown, receive(t, got)); diff != "" {
			t.Error(diff)
		}
		b.ends(res.JobID, jobs.Succeeded)
	})

	t.Run("effects and the end of the job commit together", func(t *testing.T) {
		b := setup(t)
		if _, err := b.pool.Exec(t.Context(), `CREATE TABLE effects (job uuid)`); err != nil {
			t.Fatal(err)
		}
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			return nil, pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
				if err := job.Hold(ctx, tx); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1)`, job.ID); err != nil {
					return err
				}
				if err := job.Complete(ctx, tx, "from the transaction"); err != nil {
					return err
				}
				if job.Failures == 0 {
					return errors.New("the commit fails")
				}
				return nil
			})
		})
		b.start()
		res := b.enqueue("x")
		info := b.ends(res.JobID, jobs.Succeeded)
		if info.Failures != 1 || string(info.Result) != `"from the transaction"` {
			t.Errorf("failures %d, result %s", info.Failures, info.Result)
		}
		if n := b.count(`SELECT count(*) FROM effects`); n != 1 {
			t.Errorf("%d effects, want 1", n)
		}
		b.comes("lease gone", func() bool { return b.count(`SELECT count(*) FROM jobs.leases`) == 0 })
	})

	t.Run("requests that cannot be taken name the field", func(t *testing.T) {
		b := setup(t)
		for field, p := range map[string]jobs.EnqueueParams{
			"kind":         {Kind: "Nope", Args: wrapperspb.String("")},
			"args":         {Kind: kind},
			"locks[0]":     {Kind: kind, Args: wrapperspb.String(""), Locks: []jobs.Lock{{}}},
			"namespace":    {Kind: kind, Args: wrapperspb.String(""), Namespace: "a\x00b"},
			"max_failures": {Kind: kind, Args: wrapperspb.String(""), MaxFailures: -1},
		} {
			_, err := b.client.Enqueue(t.Context(), b.pool, p)
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0].Field != field {
				t.Errorf("%s: %v", field, err)
			}
		}
	})

	t.Run("many jobs are asked for at once", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{Concurrency: 4}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		var many []jobs.EnqueueParams
		for i := range 50 {
			p := jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String(fmt.Sprint(i))}
			if i >= 45 {
				p.CoalesceKey = "same"
			}
			many = append(many, p)
		}
		var results []jobs.EnqueueResult
		err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) (err error) {
			results, err = b.client.EnqueueMany(t.Context(), tx, many)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Joined != (i > 45) {
				t.Errorf("job %d joined: %v", i, r.Joined)
			}
			b.ends(r.JobID, jobs.Succeeded)
		}
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 46 {
			t.Errorf("%d jobs, want 46", n)
		}
	})

	t.Run("lists are filtered and come in pages", func(t *testing.T) {
		b := setup(t)
		for i := range 5 {
			b.enqueue("a", func(p *jobs.EnqueueParams) { p.Namespace, p.Resource = "a", fmt.Sprintf("channel/%d", i) })
		}
		other := b.enqueue("b", func(p *jobs.EnqueueParams) {
			p.Namespace, p.Resource, p.Principal.Name = "b", "environment/1", "ada"
		})
		var seqs []int64
		cursor := ""
		for {
			infos, next, err := b.client.List(t.Context(), jobs.Filter{Namespaces: []string{"a"}, ResourcePrefix: "channel/", States: []jobs.State{jobs.Queued}},
				jobs.Page{Size: 2, Cursor: cursor})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range infos {
				seqs = append(seqs, i.Seq)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		if diff := cmp.Diff([]int64{5, 4, 3, 2, 1}, seqs); diff != "" {
			t.Error(diff)
		}
		for name, f := range map[string]jobs.Filter{
			"principal": {Principal: "ada"}, "resource": {Resource: "environment/1"}, "namespace": {Namespaces: []string{"b"}},
		} {
			infos, _, err := b.client.List(t.Context(), f, jobs.Page{})
			if err != nil || len(infos) != 1 || infos[0].ID != other.JobID {
				t.Errorf("by %s: %v %v", name, infos, err)
			}
		}
		if n, err := b.client.Count(t.Context(), jobs.Filter{Kinds: []string{kind}}); err != nil || n != 6 {
			t.Errorf("count %d %v", n, err)
		}
		if _, _, err := b.client.List(t.Context(), jobs.Filter{}, jobs.Page{Cursor: "x"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("bad cursor: %v", err)
		}
	})

	t.Run("depth tells demand and supply", func(t *testing.T) {
		b := setup(t)
		hold := make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 1}, func(ctx context.Context, _ *jobs.Job[args]) (any, error) {
			<-hold
			return nil, nil
		})
		b.start()
		defer close(hold)
		for range 3 {
			b.enqueue("x")
		}
		b.enqueue("later", func(p *jobs.EnqueueParams) { p.StartAt = time.Now().Add(time.Hour) })
		b.comes("one runs", func() bool {
			all, err := b.client.Depth(t.Context())
			return err == nil && len(all) == 1 && all[0].Running == 1 && all[0].Queued == 2 && all[0].Scheduled == 1 && all[0].Slots == 1 && all[0].OldestQueued > 0
		})
	})
}
