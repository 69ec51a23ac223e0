package pg

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

const (
	// tailLines are kept for the error that says why a server ended.
	tailLines = 12
	// maxLine bounds what is held of one line; a statement in a message may be megabytes long.
	maxLine = 8 << 10
)

// serverLog takes the server's stderr line by line: to slog at debug level, the last lines to memory.
type serverLog struct {
	log *slog.Logger

	mu   sync.Mutex
	rest []byte
	last []string
}

// Write never fails: a server must not block or die because of its log.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte{'\n'})
		if !found {
			if len(l.rest) > maxLine {
				l.rest = l.rest[:maxLine]
			}
			return len(p), nil
		}
		l.emit(string(line[:min(len(line), maxLine)]))
		l.rest = rest
	}
}

func (l *serverLog) emit(line string) {
	if l.log != nil {
		l.log.LogAttrs(context.Background(), slog.LevelDebug, "postgres", slog.String("line", line))
	}
	l.last = append(l.last, line)
	if len(l.last) > tailLines {
		l.last = l.last[1:]
	}
}

// tail returns the last lines to be appended to a message, empty if there are none.
func (l *serverLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return ""
	}
	return "; it last said:\n" + strings.Join(l.last, "\n")
}
