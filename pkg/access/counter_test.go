package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	one = "11111111-1111-1111-1111-111111111111"
	two = "22222222-2222-2222-2222-222222222222"
)

// stream is a Publisher that keeps what it gets, as often as it gets it.
type stream struct {
	mu   sync.Mutex
	got  []*metricsv1.AccessBatch
	ids  []string
	fail func(n int) (kept bool, err error) // n counts attempts from 1; nil never fails
	n    int
}

func (s *stream) Publish(_ context.Context, id string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	kept, err := true, error(nil)
	if s.fail != nil {
		kept, err = s.fail(s.n)
	}
	if kept {
		b := new(metricsv1.AccessBatch)
		if err := proto.Unmarshal(data, b); err != nil {
			return err
		}
		s.got, s.ids = append(s.got, b), append(s.ids, id)
	}
	return err
}

// sum adds up what was kept, each batch number once, as metrics does.
func (s *stream) sum(t *testing.T) (out map[string]int64, lost int64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	out = map[string]int64{}
	seen := map[int64]*metricsv1.AccessBatch{}
	for _, b := range s.got {
		if was := seen[b.GetSeq()]; was != nil {
			if !proto.Equal(was, b) {
				t.Errorf("batch %d has two contents", b.GetSeq())
			}
			continue
		}
		seen[b.GetSeq()] = b
		lost += b.GetLost()
		for _, ch := range b.GetChannels() {
			for i, p := range ch.GetPaths() {
				out[uuid.UUID(ch.GetChannelId()).String()[:1]+" "+p] += ch.GetCounts()[i]
			}
		}
	}
	return out, lost
}

func newCounter(t *testing.T, s *stream, room int) *Counter {
	t.Helper()
	c, err := NewCounter(CounterConfig{Instance: "i", Publisher: s, Room: room})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCounter(t *testing.T) {
	t.Run("a second's downloads are one batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &stream{}
			c := newCounter(t, s, 0)
			c.Start()
			defer c.Stop(context.Background())
			for range 3 {
				c.Count(one, "noarch/a-1-0.conda")
			}
			c.Count(two, "noarch/a-1-0.conda")
			c.Count("no uuid", "x")
			c.Count(one, "")
			c.Count(one, "bad\xff")
			c.Count(one, strings.Repeat("x", 2000))
			time.Sleep(1500 * time.Millisecond)
			got, _ := s.sum(t)
			if diff := cmp.Diff(map[string]int64{"1 noarch/a-1-0.conda": 3, "2 noarch/a-1-0.conda": 1}, got); diff != "" || s.n != 1 {
				t.Errorf("%d batches %s", s.n, diff)
			}
			time.Sleep(5 * time.Second)
			if s.n != 1 {
				t.Errorf("%d batches without downloads", s.n-1)
			}
		})
	})
	t.Run("whatever the bus does, each download is in one batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			away := errors.New("away")
			s := &stream{fail: func(n int) (bool, error) {
				switch {
				case n%5 == 0:
					return false, away
				case n%3 == 0:
					return true, away // kept, but the acknowledgement was lost
				}
				return true, nil
			}}
			c := newCounter(t, s, 0)
			c.Start()
			want := map[string]int64{}
			for i := range 200 {
				p := fmt.Sprintf("noarch/p%d-1-0.conda", i%7)
				c.Count(one, p)
				want["1 "+p]++
				time.Sleep(130 * time.Millisecond)
			}
			for range 5 {
				c.Stop(context.Background())
				if c.left() == 0 {
					break
				}
				c.cancel, c.done = func() {}, closed() // once more
			}
			got, lost := s.sum(t)
			if diff := cmp.Diff(want, got); diff != "" || lost != 0 {
				t.Errorf("lost %d: %s", lost, diff)
			}
		})
	})
	t.Run("while the bus is away room is needed for files, not for downloads, and what has none is told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gone := true
			s := &stream{fail: func(int) (bool, error) {
				if gone {
					return false, errors.New("away")
				}
				return true, nil
			}}
			c := newCounter(t, s, 3)
			c.Start()
			defer c.Stop(context.Background())
			c.Count(one, "first")
			time.Sleep(3 * time.Second) // that one has its number now
			for range 1000 {
				for _, p := range []string{"a", "b", "c", "d"} {
					c.Count(one, p)
				}
				time.Sleep(10 * time.Millisecond)
			}
			s.mu.Lock()
			gone = false
			s.mu.Unlock()
			time.Sleep(3 * time.Second)
			got, lost := s.sum(t)
			if diff := cmp.Diff(map[string]int64{"1 first": 1, "1 a": 1000, "1 b": 1000, "1 c": 1000}, got); diff != "" || lost != 1000 {
				t.Errorf("lost %d: %s", lost, diff)
			}
		})
	})
	t.Run("stopping sends what is left", func(t *testing.T) {
		s := &stream{}
		c := newCounter(t, s, 0)
		c.Start()
		c.Count(one, "a")
		c.Stop(t.Context())
		c.Stop(t.Context())
		if got, _ := s.sum(t); got["1 a"] != 1 {
			t.Error(got)
		}
	})
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestBatches(t *testing.T) {
	counts := map[key]int64{}
	for i := range 2*maxPaths + 10 {
		counts[key{uuid.MustParse(one), fmt.Sprintf("linux-64/a-%d-0.conda", i), 3600 * int64(1+i%2)}] = int64(i + 1)
	}
	counts[key{uuid.MustParse(two), "x", 3600}] = 1
	seen := map[key]int64{}
	for i, b := range batches(counts, 7) {
		if proto.Size(b) > 1<<20-1024 {
			t.Errorf("batch %d has %d bytes", i, proto.Size(b))
		}
		if want := map[bool]int64{true: 7}[i == 0]; b.GetLost() != want {
			t.Errorf("batch %d lost %d, want %d", i, b.GetLost(), want)
		}
		paths := 0
		for _, ch := range b.GetChannels() {
			paths += len(ch.GetPaths())
			for j, p := range ch.GetPaths() {
				seen[key{uuid.UUID(ch.GetChannelId()), p, b.GetHour()}] += ch.GetCounts()[j]
			}
		}
		if paths > maxPaths {
			t.Errorf("batch %d has %d paths", i, paths)
		}
	}
	if diff := cmp.Diff(len(counts), len(seen)); diff != "" {
		t.Fatal(diff)
	}
	for k, n := range counts {
		if seen[k] != n {
			t.Fatalf("%v: %d, want %d", k, seen[k], n)
		}
	}
	long := map[key]int64{}
	for i := range maxPaths {
		long[key{uuid.MustParse(one), fmt.Sprint(i) + strings.Repeat("x", maxPath-10), 3600}] = 1
	}
	for i, b := range batches(long, 0) {
		if proto.Size(b) > 1<<20-1024 {
			t.Errorf("a batch of long paths, %d, has %d bytes", i, proto.Size(b))
		}
	}
}
