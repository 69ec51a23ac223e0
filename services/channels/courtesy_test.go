package channels

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestExtrasLetIndexesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c courtesy
		var out bytes.Buffer
		w := &courteous{ctx: t.Context(), w: &out, c: &c, left: maxCourtesy}
		begin := time.Now()
		write := func(want time.Duration) {
			t.Helper()
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took != want {
				t.Errorf("written after %v, want %v", took, want)
			}
			begin = time.Now()
		}
		write(0)
		one, two := c.enter(), c.enter()
		time.AfterFunc(time.Second, one)
		time.AfterFunc(3*time.Second, two)
		write(3 * time.Second)
		write(0)

		leave := c.enter() // never ends: the document is not kept for ever
		write(maxCourtesy - 3*time.Second)
		write(0)
		leave()

		ctx, cancel := context.WithCancel(t.Context())
		w = &courteous{ctx: ctx, w: &out, c: &c, left: maxCourtesy}
		defer c.enter()()
		time.AfterFunc(2*time.Second, cancel)
		write(2 * time.Second)
	})
}
