package gateway

import (
	"io"
	"sync"
)

// ahead reads from a reader in a goroutine of its own, so that decompressing goes on while records are parsed. It holds at
// most a few buffers. Close ends the goroutine and waits for it; it does not close the reader.
type ahead struct {
	full, free chan []byte
	stop       chan struct{}
	done       sync.WaitGroup
	err        error // of the reader, valid once full is closed
	now, rest  []byte
}

const (
	aheadBuffers = 4
	aheadSize    = 512 << 10
)

func newAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan []byte, aheadBuffers), free: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	a.done.Go(func() { a.fill(r) })
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		n, err := 0, error(nil)
		for n < len(buf) && err == nil {
			var m int
			m, err = r.Read(buf[n:])
			n += m
		}
		if n > 0 {
			a.full <- buf[:n] // there is room: no more buffers than that exist
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.now != nil {
			a.free <- a.now[:cap(a.now)]
			a.now = nil
		}
		buf, ok := <-a.full
		if !ok {
			if a.err == nil {
				return 0, io.ErrClosedPipe
			}
			return 0, a.err
		}
		a.now, a.rest = buf, buf
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends reading.
func (a *ahead) Close() {
	close(a.stop)
	for range a.full { // what fill had in hand
	}
	a.done.Wait()
}
