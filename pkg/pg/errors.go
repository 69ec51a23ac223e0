package pg

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// classified is a driver's error with a kind. Its message is the kind's, because the driver's may quote row values;
// errors.As reaches both the *fault.Error and the *pgconn.PgError.
type classified struct {
	fault *fault.Error
	cause error
}

func (e *classified) Error() string   { return e.fault.Error() }
func (e *classified) Unwrap() []error { return []error{e.fault, e.cause} }

// Classify gives a driver's error its kind, by SQLSTATE:
//
//	23505 unique, 23P01 exclusion             Conflict (reason UNIQUE_VIOLATION; the constraint: see IsUnique)
//	23503 foreign key                         Precondition
//	23502 not null, 23514 check, 22*          Invalid
//	40001 serialisation, 40P01 deadlock       LostRace
//	55P03 lock not available                  LostRace
//	53* resources, 57P0* shutdown, 08*        Unavailable
//	57014 cancelled                           Timeout, or Cancelled if the context was
//	no rows                                   NotFound
//	a connection that fails or breaks         Unavailable
//
// nil, an error that has a kind already and anything else are returned as they are.
func Classify(err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	kind, reason, message := classify(err)
	if kind == fault.Internal {
		return err
	}
	f := fault.New(kind, "%s", message)
	f.Reason = reason
	return &classified{fault: f, cause: err}
}

func classify(err error) (kind fault.Kind, reason, message string) {
	// The context comes first: pgx closes the connection when it ends, and the error speaks of both.
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Timeout, "", "the database did not answer in time"
	case errors.Is(err, context.Canceled):
		return fault.Cancelled, "", "the request was cancelled"
	case errors.Is(err, pgx.ErrNoRows):
		return fault.NotFound, "", "not found"
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) || pgconn.SafeToRetry(err) || isBroken(err) {
			return fault.Unavailable, "", "the database cannot be reached"
		}
		return fault.Internal, "", ""
	}
	switch class := e.Code[:min(2, len(e.Code))]; {
	case e.Code == "23505", e.Code == "23P01":
		return fault.Conflict, "UNIQUE_VIOLATION", "it exists already (" + e.ConstraintName + ")"
	case e.Code == "23503":
		return fault.Precondition, "FOREIGN_KEY_VIOLATION", "it is referred to, or refers to nothing (" + e.ConstraintName + ")"
	case e.Code == "23502":
		return fault.Invalid, "NULL_VIOLATION", "a value is missing (" + e.ColumnName + ")"
	case e.Code == "23514":
		return fault.Invalid, "CHECK_VIOLATION", "a value is not allowed (" + e.ConstraintName + ")"
	case class == "22":
		return fault.Invalid, "", "a value is out of range or malformed"
	case e.Code == "40001", e.Code == "40P01":
		return fault.LostRace, "SERIALIZATION_FAILURE", "a concurrent change won, try again"
	case e.Code == "55P03":
		return fault.LostRace, "LOCK_NOT_AVAILABLE", "a concurrent change holds the lock, try again"
	case e.Code == "57014":
		return fault.Timeout, "", "the database took too long"
	case class == "08", class == "53", strings.HasPrefix(e.Code, "57P"):
		return fault.Unavailable, "", "the database is not available"
	}
	return fault.Internal, "", ""
}

// isBroken reports a connection that ended under a query. The outcome of a COMMIT is unknown then: Retry does not repeat it.
func isBroken(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// IsUnique reports whether err is a violation of the named unique or exclusion constraint (or unique index); an empty
// name means any.
func IsUnique(err error, constraint string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "23505" || e.Code == "23P01") && (constraint == "" || e.ConstraintName == constraint)
}

// IsLostRace reports a serialisation failure or a deadlock: nothing was committed, and trying again may succeed.
func IsLostRace(err error) bool {
	c := code(err)
	return c == "40001" || c == "40P01"
}

const (
	retryAttempts = 8
	retryBase     = 5 * time.Millisecond
	retryMax      = 250 * time.Millisecond
)

// Retry calls fn until it returns something else than a serialisation failure or a deadlock (IsLostRace), at most eight
// times, with a growing random pause. fn is a whole transaction. The last error is returned classified.
func Retry(ctx context.Context, fn func(ctx context.Context) error) error {
	pause := retryBase
	for attempt := 1; ; attempt++ {
		err := fn(ctx)
		if err == nil || attempt == retryAttempts || !IsLostRace(err) {
			return Classify(err)
		}
		select {
		case <-ctx.Done():
			return Classify(err)
		case <-time.After(rand.N(pause)): // full jitter, so that two losers part
		}
		pause = min(2*pause, retryMax)
	}
}

// Beginner is what InTx needs of a pool.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// InTx runs fn in a transaction and commits it if fn returns nil; it repeats a lost race as Retry does. Effects of fn
// outside the transaction must bear repetition.
func InTx(ctx context.Context, db Beginner, opts pgx.TxOptions, fn func(tx pgx.Tx) error) error {
	return Retry(ctx, func(ctx context.Context) error { return pgx.BeginTxFunc(ctx, db, opts, fn) })
}
