package plan

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// windowSize is the history of a plan's compression.
const windowSize = 1 << 20

// Writer writes a plan entry by entry. It is for one goroutine.
type Writer struct {
	enc      *zstd.Encoder
	promised int64
	written  int64
	last     string
	err      error
}

// NewWriter begins a plan. The header's version may be left 0; its count of entries is a promise that Close checks.
// The caller must Close the writer.
func NewWriter(w io.Writer, h *channelsv1.PlanHeader) (*Writer, error) {
	if h.GetVersion() == 0 {
		h = proto.CloneOf(h)
		h.Version = Version
	}
	if err := checkHeader(h); err != nil {
		return nil, err
	}
	// One core, one frame: plans are written beside downloads and hashing, and equal plans give equal blobs.
	// A small window: entries resemble their neighbours, and both sides hold it in memory.
	enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowSize))
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	pw := &Writer{enc: enc, promised: h.GetEntries()}
	if err := pw.write(h); err != nil {
		return nil, errors.Join(err, enc.Close())
	}
	return pw, nil
}

// Write adds an entry. Entries come in ascending order of their paths. After an error the writer takes nothing more.
func (w *Writer) Write(e *channelsv1.PlanEntry) error {
	if w.err != nil {
		return w.err
	}
	if err := checkEntry(e, w.last); err != nil {
		w.err = err
		return err
	}
	if w.written == w.promised {
		w.err = invalid("more entries than the %d promised", w.promised)
		return w.err
	}
	if err := w.write(e); err != nil {
		w.err = err
		return err
	}
	w.last = e.GetPath()
	w.written++
	return nil
}

func (w *Writer) write(m proto.Message) error {
	// Deterministic, so that one plan is one blob.
	if _, err := (protodelim.MarshalOptions{MarshalOptions: proto.MarshalOptions{Deterministic: true}}).MarshalTo(w.enc, m); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	return nil
}

// Close ends the plan. It fails if anything failed before, or if the promised entries did not come: what was written
// is then no plan.
func (w *Writer) Close() error {
	if w.err == nil && w.written != w.promised {
		w.err = invalid("%d entries, but %d promised", w.written, w.promised)
	}
	if err := w.enc.Close(); err != nil && w.err == nil {
		w.err = fmt.Errorf("plan: %w", err)
	}
	err := w.err
	w.err = errClosed
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

var errClosed = fault.New(fault.Internal, "plan: write after close")

// Put stores a plan as a blob. It calls fill once, with a function that adds an entry; fill's error is returned, and
// then nothing is stored.
func Put(ctx context.Context, store blob.Store, h *channelsv1.PlanHeader, fill func(add func(*channelsv1.PlanEntry) error) error) (blob.Info, error) {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := write(pw, h, fill)
		_ = pw.CloseWithError(err) // never fails
		done <- err
	}()
	info, err := store.Put(ctx, pr, blob.PutOptions{})
	_ = pr.CloseWithError(context.Canceled) // lets a writer go whose reader gave up
	if ferr := <-done; ferr != nil && !errors.Is(ferr, context.Canceled) {
		return blob.Info{}, ferr
	}
	if err != nil {
		return blob.Info{}, fmt.Errorf("plan: %w", err)
	}
	return info, nil
}

func write(dst io.Writer, h *channelsv1.PlanHeader, fill func(func(*channelsv1.PlanEntry) error) error) error {
	w, err := NewWriter(dst, h)
	if err != nil {
		return err
	}
	if err := fill(w.Write); err != nil {
		return errors.Join(err, w.discard())
	}
	return w.Close()
}

// discard frees the encoder of a plan that will not be finished.
func (w *Writer) discard() error {
	w.enc.Reset(nil)
	w.err = errClosed
	return nil
}
