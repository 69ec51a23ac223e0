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

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Group commit. Uploads to one channel that come within the window share a revision: one shard index, one transaction,
// one build of the subdir's large files. A channel has at most one group under way in a process.

const (
	// maxGroup is how many files a revision of uploads takes.
	maxGroup = 1000
	// publishTimeout bounds the publication of a group, which no single request's end may stop.
	publishTimeout = 2 * time.Minute
)

// uploads collects uploads by channel. Stop waits for the groups under way.
type uploads struct {
	window  time.Duration
	publish func(ctx context.Context, channel uuid.UUID, group []*upload)

	mu      sync.Mutex
	waiting map[uuid.UUID][]*upload // a key is present while a runner is at work
	stopped bool
	runners sync.WaitGroup
}

// submit waits until u is published or refused. If ctx ends first the upload may still be published: it is then
// for the caller to look.
func (q *uploads) submit(ctx context.Context, channel uuid.UUID, u *upload) error {
	u.done = make(chan struct{})
	if err := q.add(ctx, channel, u); err != nil {
		return err
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
	_, running := q.waiting[channel]
	q.waiting[channel] = append(q.waiting[channel], u)
	if !running {
		// The group belongs to all its members: the one whose request began it may go away.
		ctx := context.WithoutCancel(ctx)
		q.runners.Go(func() { q.run(ctx, channel) })
	}
	return nil
}

func (q *uploads) run(ctx context.Context, channel uuid.UUID) {
	for {
		time.Sleep(q.window)
		group := q.take(channel)
		if len(group) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, publishTimeout)
		q.publish(ctx, channel, group)
		cancel()
	}
}

// take returns the next group; if nobody waits it ends the channel's run.
func (q *uploads) take(channel uuid.UUID) []*upload {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting[channel]
	if len(all) == 0 {
		delete(q.waiting, channel)
		return nil
	}
	n, files := 0, 0
	for n < len(all) && (n == 0 || files+len(all[n].files) <= maxGroup) {
		files += len(all[n].files)
		n++
	}
	group := slices.Clone(all[:n])
	q.waiting[channel] = slices.Clone(all[n:])
	return group
}

func (q *uploads) stop() {
	q.mu.Lock()
	q.stopped = true
	q.mu.Unlock()
	q.runners.Wait()
}

// publishUploads publishes a group and tells each member what came of it. An error that is not one member's own (an
// index that refuses a record) makes everybody try alone, so that it meets only who caused it.
func (s *Service) publishUploads(ctx context.Context, channel uuid.UUID, group []*upload) {
	for len(group) > 0 {
		var accepted, later []*upload
		out, found, err := s.publishGroup(ctx, channel, group, &accepted, &later)
		if err != nil && len(group) > 1 {
			for _, u := range group {
				s.publishUploads(ctx, channel, []*upload{u})
			}
			return
		}
		for _, u := range group {
			if slices.Contains(later, u) {
				continue
			}
			if u.err == nil {
				u.out, u.found, u.err = out, found, err
			}
			close(u.done)
		}
		group = later
	}
}

func (s *Service) publishGroup(ctx context.Context, channel uuid.UUID, group []*upload, accepted, later *[]*upload) (*published, map[string]*fileRow, error) {
	var paths []string
	var holds []claim
	for _, u := range group {
		for _, in := range u.files {
			paths = append(paths, in.file.path)
		}
		holds = append(holds, u.holds...) // one that is gone fails the group, whose members then try alone
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
		*accepted, *later = decide(st.channel, live, group)
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
