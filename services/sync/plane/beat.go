package plane

import (
	"maps"
	"net/http"
	"sync"
	"time"
)

// beating lets the gateway know that somebody is at work while there is no answer yet: it sends 102 Processing (RFC 2518,
// section 10.1) until the header goes out.
type beating struct {
	http.ResponseWriter
	header http.Header // of the answer; that of the writer below goes out with every beat
	mu     sync.Mutex
	begun  bool
	quit   chan struct{}
	done   chan struct{}
}

func startBeating(w http.ResponseWriter, every time.Duration) *beating {
	b := &beating{ResponseWriter: w, header: http.Header{}, quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.beat()
			case <-b.quit:
				return
			}
		}
	}()
	return b
}

func (b *beating) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun {
		b.ResponseWriter.WriteHeader(http.StatusProcessing)
	}
}

// stop ends the beats and waits. What is written afterwards is written as ever.
func (b *beating) stop() {
	close(b.quit)
	<-b.done
}

// Header implements http.ResponseWriter.
func (b *beating) Header() http.Header { return b.header }

// WriteHeader implements http.ResponseWriter.
func (b *beating) WriteHeader(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun {
		b.begun = true
		maps.Copy(b.ResponseWriter.Header(), b.header)
	}
	b.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (b *beating) Write(data []byte) (int, error) {
	b.mu.Lock()
	begun := b.begun
	b.mu.Unlock()
	if !begun {
		b.WriteHeader(http.StatusOK)
	}
	return b.ResponseWriter.Write(data)
}

// Unwrap lets http.ResponseController reach the connection.
func (b *beating) Unwrap() http.ResponseWriter { return b.ResponseWriter }
