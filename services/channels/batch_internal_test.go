package channels

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestUploadsWaitForCompanyOnly(t *testing.T) {
	const window, work = 20 * time.Millisecond, 5 * time.Millisecond
	// group is how many shared a publication, and after how long it began.
	type group struct {
		n  int
		at time.Duration
	}
	type bundle struct {
		q       *uploads
		channel uuid.UUID
		upload  func(after, looking time.Duration)
		groups  func() []group
	}
	setup := func(t *testing.T) bundle {
		t.Helper()
		began := time.Now()
		var mu sync.Mutex
		var all []group
		q := &uploads{window: window, queues: make(map[uuid.UUID]*uploadQueue), stops: make(chan struct{})}
		q.publish = func(_ context.Context, _ uuid.UUID, g []*upload) {
			mu.Lock()
			all = append(all, group{len(g), time.Since(began)})
			mu.Unlock()
			time.Sleep(work)
			for _, u := range g {
				close(u.done)
			}
		}
		channel := uuid.New()
		return bundle{
			q: q, channel: channel,
			upload: func(after, looking time.Duration) {
				go func() {
					time.Sleep(after)
					come := q.expect(channel)
					defer come()
					time.Sleep(looking)
					if err := q.submit(t.Context(), channel, &upload{come: come}); err != nil {
						t.Error(err)
					}
				}()
			},
			groups: func() []group {
				t.Helper()
				time.Sleep(time.Second)
				synctest.Wait()
				if len(q.queues) != 0 {
					t.Errorf("%d queues are left", len(q.queues))
				}
				return all
			},
		}
	}
	const ms = time.Millisecond
	for name, row := range map[string]struct {
		uploads [][2]time.Duration // when each comes, and how long it is looked through
		want    []group
	}{
		"alone":                                    {[][2]time.Duration{{0, 2 * ms}}, []group{{1, 2 * ms}}},
		"one after another":                        {[][2]time.Duration{{0, 0}, {6 * ms, 0}, {12 * ms, 0}}, []group{{1, 0}, {1, 6 * ms}, {1, 12 * ms}}},
		"who is on the way is waited for":          {[][2]time.Duration{{0, 1 * ms}, {0, 9 * ms}, {0, 4 * ms}}, []group{{3, 9 * ms}}},
		"but not for longer than the window":       {[][2]time.Duration{{0, 0}, {0, 50 * ms}}, []group{{1, 20 * ms}, {1, 50 * ms}}},
		"what comes meanwhile is the next":         {[][2]time.Duration{{0, 0}, {1 * ms, 0}, {2 * ms, 0}}, []group{{1, 0}, {2, 5 * ms}}},
		"clients that were together come together": {[][2]time.Duration{{0, 1 * ms}, {0, 1 * ms}, {8 * ms, 0}, {15 * ms, 0}, {100 * ms, 0}}, []group{{2, 1 * ms}, {2, 15 * ms}, {1, 100 * ms}}},
		"one of them stays away":                   {[][2]time.Duration{{0, 1 * ms}, {0, 1 * ms}, {8 * ms, 0}, {40 * ms, 0}}, []group{{2, 1 * ms}, {1, 26 * ms}, {1, 40 * ms}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := setup(t)
				for _, u := range row.uploads {
					b.upload(u[0], u[1])
				}
				if d := cmp.Diff(row.want, b.groups(), cmp.AllowUnexported(group{})); d != "" {
					t.Errorf("groups (-want +got):\n%s", d)
				}
				b.q.stop()
				b.q.stop()
			})
		})
	}
	t.Run("a stop does not wait for company", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t)
			defer b.q.expect(b.channel)()
			b.upload(0, 0)
			time.Sleep(ms)
			began := time.Now()
			b.q.stop()
			if took := time.Since(began); took > work {
				t.Errorf("it took %v", took)
			}
			if err := b.q.submit(t.Context(), uuid.New(), &upload{}); !fault.Is(err, fault.Unavailable) {
				t.Error(err)
			}
		})
	})
}
