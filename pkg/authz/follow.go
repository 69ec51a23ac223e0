package authz

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// SubjectChanged is the bus subject that identity publishes on after each change; the message is the new version in
// decimal. It is only a nudge.
const SubjectChanged = "identity.changed"

const (
	// PollEvery is how often a snapshot is asked for without a nudge.
	PollEvery = 2 * time.Second
	// StaleAfter is how old a snapshot may be: the bound within which a revocation acts.
	StaleAfter = 5 * time.Second
	// refreshGap is the least time between two refreshes, however many callers are refused. A snapshot that takes long to
	// read, of very many bindings that change all the time, is read less often: for one part in refreshShare of the time at most, and
	// after maxRefreshGap at the latest.
	refreshGap    = 50 * time.Millisecond
	maxRefreshGap = 500 * time.Millisecond
	refreshShare  = 5
	// refreshTimeout bounds one request; below StaleAfter, so that a lost answer does not cost the whole allowance.
	refreshTimeout = 2 * time.Second
)

// Source gives the snapshot, or nil if known is still the newest version.
type Source interface {
	Snapshot(ctx context.Context, known int64) (*Snapshot, error)
}

// SourceFunc is a Source made of a function.
type SourceFunc func(ctx context.Context, known int64) (*Snapshot, error)

// Snapshot calls f.
func (f SourceFunc) Snapshot(ctx context.Context, known int64) (*Snapshot, error) {
	return f(ctx, known)
}

// Roles decides by the newest snapshot it can get. It is safe for concurrent use.
type Roles struct {
	source Source
	log    *slog.Logger
	now    func() time.Time

	state atomic.Pointer[state]
	ask   chan struct{} // capacity 1: somebody wants a refresh

	mu      sync.Mutex
	next    *round // the refresh that has not begun yet; those who wait for it share it
	stop    context.CancelFunc
	stopped chan struct{}
	over    bool // no refresh will come any more
}

// state is a snapshot and the time before which it was asked for.
type state struct {
	snap  *Snapshot
	asked time.Time
}

// round is one refresh.
type round struct {
	done chan struct{}
	err  error
}

// NewRoles returns Roles that have yet to be started. A nil now means time.Now.
func NewRoles(source Source, log *slog.Logger, now func() time.Time) *Roles {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Roles{source: source, log: log, now: now, ask: make(chan struct{}, 1), next: newRound()}
}

func newRound() *round { return &round{done: make(chan struct{})} }

// Start begins to follow the source in the background. It does not wait for the first snapshot: see Ready.
func (r *Roles) Start(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		return
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx)) // Stop ends it, so that drains still find their answers
	r.stopped = make(chan struct{})
	go r.follow(ctx, r.stopped)
}

// Stop ends following and waits for it; decisions are refused once the snapshot has become stale. It may be called twice.
func (r *Roles) Stop() {
	r.mu.Lock()
	stop, stopped := r.stop, r.stopped
	r.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
}

// Wake makes Roles ask for a newer snapshot soon.
func (r *Roles) Wake() {
	select {
	case r.ask <- struct{}{}:
	default: // somebody asked already
	}
}

// Ready returns nil if decisions can be made, else what is in the way.
func (r *Roles) Ready() error {
	if st := r.state.Load(); st == nil || r.now().Sub(st.asked) > StaleAfter {
		return unavailable(nil)
	}
	return nil
}

// Snapshot returns the snapshot that Roles decides by now; nil before the first.
func (r *Roles) Snapshot() *Snapshot {
	if st := r.state.Load(); st != nil {
		return st.snap
	}
	return nil
}

func (r *Roles) follow(ctx context.Context, stopped chan struct{}) {
	defer close(stopped)
	defer func() { // nobody waits for a refresh that will not come
		r.mu.Lock()
		r.over = true
		r.mu.Unlock()
		r.begin().finish(context.Cause(ctx))
	}()
	tick := time.NewTicker(PollEvery)
	defer tick.Stop()
	failing := false
	for {
		began := time.Now()
		err := r.refresh(ctx)
		gap := min(max(refreshGap, time.Since(began)*(refreshShare-1)), maxRefreshGap)
		if failing != (err != nil) && ctx.Err() == nil {
			if failing = err != nil; failing {
				r.log.WarnContext(ctx, "the role snapshot cannot be refreshed; only public data will be served soon", "error", err)
			} else {
				r.log.InfoContext(ctx, "the role snapshot is being refreshed again")
			}
		}
		// The pause bounds how often refused callers can make us ask.
		select {
		case <-ctx.Done():
			return
		case <-time.After(gap):
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.ask:
		}
	}
}

// begin takes the round that is due: those who come later wait for the next one.
func (r *Roles) begin() *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.next
	r.next = newRound()
	return due
}

func (w *round) finish(err error) {
	w.err = err
	close(w.done)
}

func (r *Roles) refresh(ctx context.Context) (err error) {
	due := r.begin()
	defer func() { due.finish(err) }()
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	asked := r.now() // before the question: what changed while it was answered may be missing
	var known int64
	old := r.state.Load()
	if old != nil {
		known = old.snap.version
	}
	snap, err := r.source.Snapshot(ctx, known)
	switch {
	case err != nil:
		return err
	case snap == nil && old == nil:
		return fault.New(fault.Internal, "identity gave no snapshot")
	case snap == nil:
		snap = old.snap
	}
	r.state.Store(&state{snap: snap, asked: asked})
	return nil
}

// await waits for a refresh that begins after this call.
func (r *Roles) await(ctx context.Context) error {
	r.mu.Lock()
	w := r.next
	running := r.stop != nil && !r.over
	r.mu.Unlock()
	if !running {
		return fault.New(fault.Unavailable, "roles are not being followed")
	}
	r.Wake()
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout+maxRefreshGap)
	defer cancel()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// current returns a snapshot that is not stale.
func (r *Roles) current(ctx context.Context) (*Snapshot, error) {
	st := r.state.Load()
	if st == nil || r.now().Sub(st.asked) > StaleAfter {
		if err := r.await(ctx); err != nil {
			return nil, unavailable(err)
		}
		st = r.state.Load()
	}
	return st.snap, nil
}

func unavailable(cause error) error {
	f := fault.New(fault.Unavailable, "roles cannot be checked now, try again").WithReason("ROLES_STALE").WithRetryAfter(time.Second)
	if cause != nil {
		wrapped := fault.New(fault.Unavailable, "%w", cause)
		wrapped.Message, wrapped.Reason, wrapped.RetryAfter = f.Message, f.Reason, f.RetryAfter
		return wrapped
	}
	return f
}

// decide asks twice: a refusal may only be due to a snapshot that is older than the grant.
func (r *Roles) decide(ctx context.Context, ask func(*Snapshot) error) error {
	snap, err := r.current(ctx)
	if err != nil {
		return err
	}
	refusal := ask(snap)
	if refusal == nil {
		return nil
	}
	if err := r.await(ctx); err != nil {
		return refusal // the snapshot is not stale yet, and what it says is no
	}
	return ask(r.Snapshot())
}

// Allow returns nil if the caller holds the permission on the resource. Otherwise it is Unauthenticated for callers
// who are not or no longer logged in, Denied for the others, Unavailable if that cannot be known now.
func (r *Roles) Allow(ctx context.Context, c authn.Caller, permission Permission, res Resource) error {
	if permission == ChannelRead && res.Public && (res.Kind == Channel || res.Kind == Package) {
		return nil
	}
	if c.Anonymous() {
		return notLoggedIn()
	}
	return r.decide(ctx, func(s *Snapshot) error { return s.decide(c, permission, res, r.now()) })
}

// Login returns nil if the caller is a user who exists, with a key that is valid, or a part of the platform.
func (r *Roles) Login(ctx context.Context, c authn.Caller) error {
	if c.Anonymous() {
		return notLoggedIn()
	}
	return r.decide(ctx, func(s *Snapshot) error { return s.login(c, r.now()) })
}

// Effective returns c if it is logged in, else the anonymous caller: a key that has ended counts as none where anyone
// may come. While identity is away it is Unavailable at once: it guards what is public, which shall not wait.
func (r *Roles) Effective(ctx context.Context, c authn.Caller) (authn.Caller, error) {
	if c.Anonymous() {
		return c, nil
	}
	if r.state.Load() != nil {
		if err := r.Ready(); err != nil {
			r.Wake()
			return authn.Caller{}, err
		}
	}
	switch err := r.Login(ctx, c); {
	case fault.Is(err, fault.Unauthenticated):
		return authn.Caller{}, nil
	case err != nil:
		return authn.Caller{}, err
	}
	return c, nil
}

// Readable returns what the caller may read besides what is public. For callers who are not logged in it is nothing.
func (r *Roles) Readable(ctx context.Context, c authn.Caller) (Readable, error) {
	if c.Anonymous() {
		return Readable{}, nil
	}
	snap, err := r.current(ctx)
	if err != nil {
		return Readable{}, err
	}
	return snap.readable(c, r.now()), nil
}

// Await returns once the snapshot has at least the version: after a change of one's own, that it will be heeded here.
func (r *Roles) Await(ctx context.Context, version int64) error {
	for {
		if s := r.Snapshot(); s != nil && s.version >= version {
			return nil
		}
		if err := r.await(ctx); err != nil {
			return unavailable(err)
		}
	}
}
