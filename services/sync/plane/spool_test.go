package plane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSpool(t *testing.T) {
	body := make([]byte, 5*tail)
	for i := range body {
		body[i] = byte(i * 7 >> 3)
	}
	setup := func(t *testing.T) (*spool, *spoolReader) {
		t.Helper()
		dir := t.TempDir()
		s, err := newSpool(dir)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Fatalf("the spool has a name: %v, %v", left, err)
		}
		r, ok := s.reader(t.Context(), int64(len(body)))
		if !ok {
			t.Fatal("no reader")
		}
		t.Cleanup(func() { r.Close(); s.close() })
		return s, r
	}
	write := func(t *testing.T, s *spool, p []byte) {
		t.Helper()
		for len(p) > 0 {
			n := min(len(p), 10_000)
			if _, err := s.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
	}

	t.Run("the last 64 KiB come with the end only", func(t *testing.T) {
		s, r := setup(t)
		write(t, s, body)
		got := make([]byte, len(body)-tail)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[:len(got)]) {
			t.Fatal(err)
		}
		more := make(chan []byte)
		go func() { b, _ := io.ReadAll(r); more <- b }()
		select {
		case b := <-more:
			t.Fatalf("%d bytes were not withheld", len(b))
		case <-time.After(20 * time.Millisecond):
		}
		s.end(nil)
		if b := <-more; !bytes.Equal(b, body[len(got):]) {
			t.Errorf("%d bytes at the end", len(b))
		}
	})

	t.Run("a failure reaches readers without the tail", func(t *testing.T) {
		s, r := setup(t)
		write(t, s, body)
		wrong := errors.New("wrong digest")
		s.end(wrong)
		if b, err := io.ReadAll(r); !errors.Is(err, wrong) || len(b) > len(body)-tail {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})

	t.Run("the same bytes a second time go unnoticed", func(t *testing.T) {
		s, r := setup(t)
		write(t, s, body[:4*tail])
		head := make([]byte, 2*tail)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		s.restart()
		write(t, s, body)
		s.end(nil)
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(append(head, rest...), body) {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
	})

	t.Run("other bytes cut those who had the former ones, and nobody else", func(t *testing.T) {
		s, far := setup(t)
		near, _ := s.reader(t.Context(), int64(len(body)))
		defer near.Close()
		former := bytes.Clone(body)
		former[tail+5] ^= 1
		write(t, s, former[:4*tail])
		if _, err := io.ReadFull(far, make([]byte, 2*tail)); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, tail)
		if _, err := io.ReadFull(near, head); err != nil {
			t.Fatal(err)
		}
		s.restart()
		write(t, s, body)
		s.end(nil)
		if _, err := io.ReadAll(far); !errors.Is(err, errRewritten) {
			t.Errorf("who had wrong bytes: %v", err)
		}
		if rest, err := io.ReadAll(near); err != nil || !bytes.Equal(append(head, rest...), body) {
			t.Errorf("who had none: %v", err)
		}
	})

	t.Run("a file that is shorter than it was said is not complete", func(t *testing.T) {
		s, r := setup(t)
		write(t, s, body[:100])
		s.end(nil)
		if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})

	t.Run("who leaves waits no longer", func(t *testing.T) {
		s, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := s.reader(ctx, 10)
		defer r.Close()
		cancel()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})

	t.Run("readers seek", func(t *testing.T) {
		s, r := setup(t)
		write(t, s, body)
		s.end(nil)
		if at, err := r.Seek(-5, io.SeekEnd); err != nil || at != int64(len(body)-5) {
			t.Fatal(at, err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, body[len(body)-5:]) {
			t.Errorf("%v, %v", b, err)
		}
		if _, err := r.Seek(-1, io.SeekStart); err == nil {
			t.Error("before the beginning")
		}
	})
}
