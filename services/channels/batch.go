package channels

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

// Group commit. Uploads to one channel that come together share a revision: one shard index, one transaction, one build of
// the subdir's large files. A channel has at most one group under way in a process, and what comes meanwhile is the next.
//
// Who comes alone does not wait for others. A group is waited for, at most for the window, while uploads to the channel
// are known to be on their way, being looked through, and after a group of several until as many are there again: clients
// that upload side by side send their next ones at about the time at which they got their answers.

const (
	// maxGroup is how many files a revision of uploads takes.
	maxGroup = 1000
	// publishTimeout bounds one publication of a group or of a part of it, which no single request's end may stop.
	publishTimeout = 2 * time.Minute
)

// uploads collects uploads by channel. Stop waits for the groups under way.
type uploads struct {
	window  time.Duration
	publish func(ctx context.Context, channel uuid.UUID, group []*upload)

	mu      sync.Mutex
	queues  map[uuid.UUID]*uploadQueue
	stopped bool
	stops   chan struct{} // closed with stopped
	runners sync.WaitGroup
}

// uploadQueue is the uploads to one channel. It is there while somebody comes or waits, or a runner is at work.
type uploadQueue struct {
	coming  int
	waiting []*upload
	running bool
	changed chan struct{} // one token: look again
}

// queue returns the channel's queue; the lock is held.
func (q *uploads) queue(channel uuid.UUID) *uploadQueue {
	c := q.queues[channel]
	if c == nil {
		c = &uploadQueue{changed: make(chan struct{}, 1)}
		q.queues[channel] = c
	}
	return c
}

// drop forgets a queue that nobody needs; the lock is held.
func (q *uploads) drop(channel uuid.UUID, c *uploadQueue) {
	if c.coming == 0 && len(c.waiting) == 0 && !c.running {
		delete(q.queues, channel)
	}
}

func (c *uploadQueue) poke() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// expect says that an upload is on its way; come is to be called when it has come, or will not, and may be called twice.
func (q *uploads) expect(channel uuid.UUID) (come func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.queue(channel)
	c.coming++
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		c.coming--
		c.poke()
		q.drop(channel, c)
	})
}

// submit waits until u is published or refused. If ctx ends first the upload may still be published: it is then
// for the caller to look.
func (q *uploads) submit(ctx context.Context, channel uuid.UUID, u *upload) error {
	u.done = make(chan struct{})
	u.requestID, u.span = telemetry.RequestID(ctx), trace.SpanContextFromContext(ctx)
	if err := q.add(ctx, channel, u); err != nil {
		return err
	}
	if u.come != nil {
		u.come() // after it is there: nobody shall miss it in between
	}
	select {
	case <-u.done:
		return u.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *uploads) add(ctx context.Context, channel uuid.UUID, u *upload) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return fault.New(fault.Unavailable, "the server is stopping, try again")
	}
	c := q.queue(channel)
	c.waiting = append(c.waiting, u)
	c.poke()
	if !c.running {
		c.running = true
		// The group belongs to all its members: the one whose request began it may go away, and what follows is not its own.
		ctx := trace.ContextWithSpanContext(telemetry.WithRequestID(context.WithoutCancel(ctx), ""), trace.SpanContext{})
		q.runners.Go(func() { q.run(ctx, channel, c) })
	}
	return nil
}

// run publishes groups until for a window nobody has come.
func (q *uploads) run(ctx context.Context, channel uuid.UUID, c *uploadQueue) {
	last := 1
	for {
		q.gather(c, last)
		group := q.take(channel, c)
		if len(group) == 0 {
			return
		}
		q.publish(ctx, channel, group)
		last = len(group)
	}
}

// gather waits for company: until as many wait as are wanted and none is on its way, but not for longer than the window.
func (q *uploads) gather(c *uploadQueue, want int) {
	if q.window <= 0 {
		return
	}
	end := time.NewTimer(q.window)
	defer end.Stop()
	for {
		q.mu.Lock()
		enough := len(c.waiting) >= want && c.coming == 0
		q.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-c.changed:
		case <-end.C:
			return
		case <-q.stops:
			return
		}
	}
}

// take returns the next group; if nobody waits it ends the channel's run.
func (q *uploads) take(channel uuid.UUID, c *uploadQueue) []*upload {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(c.waiting) == 0 {
		c.running = false
		q.drop(channel, c)
		return nil
	}
	n, files := 0, 0
	for n < len(c.waiting) && (n == 0 || files+len(c.waiting[n].files) <= maxGroup) {
		files += len(c.waiting[n].files)
		n++
	}
	group := slices.Clone(c.waiting[:n])
	c.waiting = slices.Clone(c.waiting[n:])
	return group
}

func (q *uploads) stop() {
	q.mu.Lock()
	if !q.stopped {
		q.stopped = true
		close(q.stops)
	}
	q.mu.Unlock()
	q.runners.Wait()
}

// publishUploads publishes a group and tells each member what came of it. An error that one member alone may have caused
// halves the group, again and again, until it meets only who caused it: of a thousand uploads with a bad one among them all
// others are published, in some ten revisions. Any other error is everybody's: a database that is away is not asked a
// thousand times.
func (s *Service) publishUploads(ctx context.Context, channel uuid.UUID, group []*upload) {
	for len(group) > 0 {
		var accepted, later []*upload
		out, found, err := s.publishGroup(ctx, channel, group, &accepted, &later)
		if err != nil && len(group) > 1 && isOnesOwn(err) {
			half := len(group) / 2
			s.publishUploads(ctx, channel, group[:half])
			s.publishUploads(ctx, channel, group[half:])
			return
		}
		for _, u := range group {
			if err == nil && slices.Contains(later, u) {
				continue
			}
			if u.err == nil {
				u.out, u.found, u.err = out, found, err
			}
			close(u.done)
		}
		if err != nil {
			return
		}
		group = later
	}
}

// isOnesOwn reports whether a group's error may be that of one of its members: a record that the index does not take,
// bytes that are not stored or are not those that were looked through, the claim of a job that has lost it, or a quota
// that fewer files may fit into.
func isOnesOwn(err error) bool {
	var sql *pgconn.PgError
	if errors.As(err, &sql) && strings.HasPrefix(sql.Code, "22") { // a value that the database does not take
		return true
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return false
	}
	switch f.Reason {
	case reasonRecord, reasonBlobMissing, reasonSize, reasonQuota, jobs.ReasonClaimLost:
		return true
	}
	return false
}

// groupSpan begins the span of a group's publication: of one upload within its request's, of several beside theirs.
func (s *Service) groupSpan(ctx context.Context, group []*upload) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithAttributes(attribute.Int("channels.uploads", len(group)))}
	if len(group) == 1 {
		ctx = trace.ContextWithSpanContext(telemetry.WithRequestID(ctx, group[0].requestID), group[0].span)
		return s.tracer.Start(ctx, "channels.publish", opts...)
	}
	for _, u := range group {
		if u.span.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: u.span}))
		}
	}
	return s.tracer.Start(ctx, "channels.publish", append(opts, trace.WithNewRoot())...)
}

func (s *Service) publishGroup(ctx context.Context, channel uuid.UUID, group []*upload, accepted, later *[]*upload) (*published, map[string]*fileRow, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ctx, span := s.groupSpan(ctx, group)
	defer span.End()
	var paths []string
	var holds []claim
	for _, u := range group {
		for _, in := range u.files {
			paths = append(paths, in.file.path)
		}
		holds = append(holds, u.holds...) // one that is gone fails the group, which is then halved
	}
	var found map[string]*fileRow
	p := publication{channel: channel, cause: causeUpload, author: authors(group), holds: holds, texts: make(map[string]packageText)}
	p.stage = func(ctx context.Context, st *staging) error {
		if err := hostedOnly(st.channel); err != nil {
			return err
		}
		live, err := filesAt(ctx, st.tx, channel, paths)
		if err != nil {
			return err
		}
		left := int64(-1)
		if len(group) > 1 { // who is alone is told when the file is written
			if left, _, err = tenantLeft(ctx, st.tx, st.channel.Namespace); err != nil {
				return err
			}
		}
		*accepted, *later = decide(st.channel, left, live, group)
		var files []plannedFile
		for _, u := range *accepted {
			for _, in := range u.files {
				files = append(files, in.file)
				if _, ok := p.texts[in.file.name]; !ok {
					p.texts[in.file.name] = in.text
				}
			}
		}
		if len(files) == 0 {
			return nil
		}
		if !s.cfg.stageAll && st.addFew(files, live) {
			return s.checkFew(ctx, st.adds)
		}
		i := 0
		if err := st.plan(ctx, func() (plannedFile, bool, error) {
			if i == len(files) {
				return plannedFile{}, false, nil
			}
			i++
			return files[i-1], true, nil
		}); err != nil {
			return err
		}
		if err := st.diff(ctx); err != nil {
			return err
		}
		return s.checkStored(ctx, st)
	}
	p.finish = func(ctx context.Context, tx pgx.Tx, _ *published) (err error) {
		found, err = filesAt(ctx, tx, channel, paths)
		return err
	}
	p.moved = func(ctx context.Context, tx pgx.Tx, out *published) error {
		for _, u := range *accepted {
			ctx := telemetry.WithRequestID(ctx, u.requestID) // each entry of the audit log is that of its request
			if err := putFacts(ctx, tx, channel, u.files); err != nil {
				return err
			}
			for _, in := range u.files {
				if err := s.record(ctx, tx, u.caller, "file.upload", out.channel, map[string]any{"path": in.file.path, "revision": out.channel.Head}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	out, err := s.publish(ctx, p)
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		err = fault.New(fault.Timeout, "publishing took longer than %s", publishTimeout)
	}
	if err != nil {
		span.SetStatus(codes.Error, fault.KindOf(err).String())
	}
	return out, found, err
}

// authors names the uploaders of a group in the history.
func authors(group []*upload) string {
	var names []string
	for _, u := range group {
		names = append(names, u.caller.Actor())
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 5 {
		names = append(names[:5], "…")
	}
	return strings.Join(names, ", ")
}
