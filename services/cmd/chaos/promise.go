package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What an assertion says was broken. A run without a guard has to break exactly what the guard is there for; that the
// work did not end in time is not enough, for that it may do for any reason.
const (
	// Of the platform as a whole.
	deadLease      = "a lease that has run out is not taken back"
	fetchedTwice   = "what is stored is fetched again"
	deadOwner      = "jobs wait for a process that is gone"
	lostMessage    = "a job whose message is lost is not dispatched again"
	lostStream     = "a stream that lost its files is not replaced"
	doneTwice      = "a job is done twice"
	lostUpdate     = "a publication is lost"
	overlap        = "jobs that exclude each other run together"
	latePublished  = "a late publication is taken"
	deadDatabase   = "the database is not started again"
	unsent         = "a job counts as dispatched that never was"
	swallowed      = "a second message of a job is swallowed"
	lostLease      = "a worker that lives loses its lease"
	refusedToken   = "a token of a clock a little ahead is refused"
	storedCut      = "what the disk did not take whole became a blob"
	lostJob        = "a job has not ended"
	failedJob      = "a job has failed"
	unknownJob     = "the ledger has jobs that nobody asked for"
	wrongListing   = "the index lists something else"
	slowReader     = "the reader was too slow"
	blindReader    = "the reader saw too little"
	unreadForm     = "an index file does not follow"
	notOnUpstreams = "a proxy does not follow its upstream"

	// Of the reader.
	lieBytes  = "other bytes than listed"
	lieStatus = "a listed file is not there"
	lieBack   = "an index goes back"
	lieForgot = "an index forgets"
	lieTwo    = "two contents"
	lieOutage = "no answer"
)

// broken is an assertion that does not hold.
type broken struct{ promise, what string }

func (b *broken) Error() string { return b.promise + ": " + b.what }

// breaks returns the error of an assertion.
func breaks(promise, format string, args ...any) error {
	return &broken{promise, fmt.Sprintf(format, args...)}
}

// allBroken are the promises that an error, with all that it wraps, says were broken.
func allBroken(err error) (promises []string) {
	switch e := err.(type) {
	case *broken:
		return []string{e.promise}
	case interface{ Unwrap() error }:
		return allBroken(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			promises = append(promises, allBroken(inner)...)
		}
	}
	return slices.Compact(promises)
}

// because asks the database why work did not go on: if the query counts something, a promise is broken, and not only the
// machine slow.
func (w *world) because(ctx context.Context, err error, promise, sql string, args ...any) error {
	if err == nil {
		return nil
	}
	var n int
	if qerr := w.pool.QueryRow(ctx, sql, args...).Scan(&n); qerr != nil || n == 0 {
		return errors.Join(err, qerr)
	}
	return errors.Join(err, breaks(promise, "%d jobs", n))
}

// stream is the ledger's stream, as long as the returned function has not been called.
func (w *world) stream(ctx context.Context) (jetstream.Stream, func(), error) {
	nc, err := nats.Connect("nats://" + w.addr("nats"))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err == nil {
		var s jetstream.Stream
		if s, err = js.Stream(ctx, "JOBS_CHAOS_LEDGER"); err == nil {
			return s, nc.Close, nil
		}
	}
	nc.Close()
	return nil, nil, err
}

// becauseUndelivered is because, for jobs that count as dispatched while the stream has no message.
func (w *world) becauseUndelivered(ctx context.Context, err error, promise, sql string, args ...any) error {
	if err == nil {
		return nil
	}
	s, done, serr := w.stream(ctx)
	if serr != nil {
		return errors.Join(err, serr)
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, serr := s.Info(ctx)
	if serr != nil || info.State.Msgs > 0 {
		return errors.Join(err, serr)
	}
	return w.because(ctx, err, promise, sql, args...)
}

// becauseFilesAreGone looks whether the stream has been made anew since its files were deleted: only then it has a
// description. (A server that runs puts messages back, and nothing else.)
func (w *world) becauseFilesAreGone(err error) error {
	if err == nil {
		return nil
	}
	found, gerr := filepath.Glob(filepath.Join(w.dir, "nats", "jetstream", "*", "streams", "JOBS_CHAOS_LEDGER", "meta.inf"))
	if gerr != nil || len(found) > 0 {
		return errors.Join(err, gerr)
	}
	return errors.Join(err, breaks(lostStream, "there is no description of JOBS_CHAOS_LEDGER"))
}

// becauseNoDatabase looks whether the private PostgreSQL takes connections.
func (w *world) becauseNoDatabase(err error) error {
	if err == nil {
		return nil
	}
	c, derr := net.Dial("unix", filepath.Join(w.dir, "all", "postgres", "run", ".s.PGSQL.5432"))
	if derr == nil {
		c.Close()
		return err
	}
	if _, serr := os.Stat(filepath.Join(w.dir, "all", "postgres")); serr != nil {
		return errors.Join(err, serr) // somebody else's directory
	}
	return errors.Join(err, breaks(deadDatabase, "%v", derr))
}
