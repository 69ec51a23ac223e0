package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const meterScope = "github.com/entrepot-dev/entrepot/pkg/blob"

// Observe returns a store that measures what s does: how often, how long and how it ended, by operation. Reads of an
// opened blob are not among it, since they may leave by sendfile. Batches are measured if s has them.
func Observe(s Closable, p metric.MeterProvider) (Closable, error) {
	m := p.Meter(meterScope)
	seconds, err := m.Float64Histogram("entrepot.blob.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("How long operations of the blob store took, by operation and outcome; puts include the time that the bytes took to arrive."),
		metric.WithExplicitBucketBoundaries(.0005, .002, .01, .05, .2, 1, 5, 30, 300))
	if err != nil {
		return nil, fmt.Errorf("blob metrics: %w", err)
	}
	written, err := m.Int64Counter("entrepot.blob.written.size", metric.WithUnit("By"), metric.WithDescription("Bytes of blobs that were not in the store before."))
	if err != nil {
		return nil, fmt.Errorf("blob metrics: %w", err)
	}
	o := &observed{Closable: s, seconds: seconds, written: written, sets: map[[2]string]metric.MeasurementOption{}}
	for _, op := range operations {
		for _, outcome := range []string{outcomeOK, outcomeNotFound, outcomeRefused, outcomeError} {
			o.sets[[2]string{op, outcome}] = metric.WithAttributeSet(attribute.NewSet(attribute.String("operation", op), attribute.String("outcome", outcome)))
		}
	}
	if b, ok := As[Batcher](s); ok {
		return &observedBatcher{o, b}, nil
	}
	return o, nil
}

// The labels' values: both lists are all there are.
const (
	opPut, opOpen, opStat, opDelete, opList, opCommit = "put", "open", "stat", "delete", "list", "commit"

	outcomeOK, outcomeNotFound = "ok", "not_found"
	outcomeRefused             = "refused" // the bytes are not what the caller said, or its request has ended
	outcomeError               = "error"
)

var operations = []string{opPut, opOpen, opStat, opDelete, opList, opCommit}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return outcomeOK
	case fault.Is(err, fault.NotFound):
		return outcomeNotFound
	case fault.Is(err, fault.Invalid), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return outcomeRefused
	}
	return outcomeError
}

type observed struct {
	Closable
	seconds metric.Float64Histogram
	written metric.Int64Counter
	sets    map[[2]string]metric.MeasurementOption // read only
}

var (
	_ Closable = (*observed)(nil)
	_ Batcher  = (*observedBatcher)(nil)
	_ Batch    = (*observedBatch)(nil)
)

// Unwrap returns the store behind, for As.
func (o *observed) Unwrap() Store { return o.Closable }

func (o *observed) record(ctx context.Context, op string, began time.Time, err error) {
	o.seconds.Record(ctx, time.Since(began).Seconds(), o.sets[[2]string{op, outcomeOf(err)}])
}

func (o *observed) Put(ctx context.Context, r io.Reader, p PutOptions) (Info, error) {
	began := time.Now()
	info, err := o.Closable.Put(ctx, r, p)
	o.record(ctx, opPut, began, err)
	if err == nil && info.Created {
		o.written.Add(ctx, info.Size)
	}
	return info, err
}

func (o *observed) Open(ctx context.Context, d Digest) (Blob, error) {
	began := time.Now()
	b, err := o.Closable.Open(ctx, d)
	o.record(ctx, opOpen, began, err)
	return b, err
}

func (o *observed) Stat(ctx context.Context, d Digest) (Stat, error) {
	began := time.Now()
	s, err := o.Closable.Stat(ctx, d)
	o.record(ctx, opStat, began, err)
	return s, err
}

func (o *observed) Delete(ctx context.Context, d Digest) error {
	began := time.Now()
	err := o.Closable.Delete(ctx, d)
	o.record(ctx, opDelete, began, err)
	return err
}

func (o *observed) List(ctx context.Context, after Digest, fn func(Stat) error) error {
	began := time.Now()
	err := o.Closable.List(ctx, after, fn)
	o.record(ctx, opList, began, err)
	return err
}

type observedBatcher struct {
	*observed
	batcher Batcher
}

func (o *observedBatcher) NewBatch() (Batch, error) {
	b, err := o.batcher.NewBatch()
	if err != nil {
		return nil, err
	}
	return &observedBatch{b, o.observed}, nil
}

type observedBatch struct {
	Batch
	o *observed
}

func (b *observedBatch) Put(ctx context.Context, r io.Reader, p PutOptions) (Info, error) {
	began := time.Now()
	info, err := b.Batch.Put(ctx, r, p)
	b.o.record(ctx, opPut, began, err)
	if err == nil && info.Created {
		b.o.written.Add(ctx, info.Size)
	}
	return info, err
}

func (b *observedBatch) Commit(ctx context.Context) error {
	began := time.Now()
	err := b.Batch.Commit(ctx)
	b.o.record(ctx, opCommit, began, err)
	return err
}
