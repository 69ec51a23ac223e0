package gateway

import (
	"net"
	"net/http"
	"sync"
)

// silent holds the connections on which nothing has been asked yet. net/http waits five seconds for each of them when it
// shuts down, in case a request is under way; browsers and package clients open such connections ahead of need and leave
// them, so that nearly every shutdown would take that long. A client whose connection ends before it has sent anything
// asks again by itself.
type silent struct{ conns sync.Map }

// track is an http.Server's ConnState. All but the first two calls for a connection find nothing to do, without a lock.
func (s *silent) track(c net.Conn, state http.ConnState) {
	if state == http.StateNew {
		s.conns.Store(c, nil)
		return
	}
	s.conns.LoadAndDelete(c)
}

// close ends them all; the listener has been closed before.
func (s *silent) close() {
	s.conns.Range(func(c, _ any) bool {
		_ = c.(net.Conn).Close() // the client may have been faster
		return true
	})
}
