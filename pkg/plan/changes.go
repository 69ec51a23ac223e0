package plan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// BaseError says that the plan to compare with cannot be had or read; the other plan may be sound.
type BaseError struct{ Err error }

// Error says why.
func (e *BaseError) Error() string { return "the plan to compare with: " + e.Err.Error() }

// Unwrap gives the error its kind.
func (e *BaseError) Unwrap() error { return e.Err }

// Changes walks two stored plans side by side. It is for one goroutine.
//
// Plans of a channel hardly differ from one day to the next. A message is written deterministically, so entries that are
// the same are the same bytes, and need not be decoded to be passed over.
type Changes struct {
	base, next cursor
	same       int64
}

// cursor is one of the plans and its current entry.
type cursor struct {
	*Reader
	ahead chan page
	stop  context.CancelFunc
	page  page
	raw   []byte                // of the current entry; nil at the end
	entry *channelsv1.PlanEntry // decoded from raw; nil if not decoded yet
	path  string                // of the last entry that was decoded
	past  []byte                // the entry before, if it was not decoded
	dir   []byte                // first part of its path
	dirs  []string
}

// page is some entries as they were written, read ahead by a goroutine of each plan: unpacking is most of the work.
type page struct {
	data []byte
	ends []int // of the entries in data
	at   int   // where the next one begins
	err  error // behind the last one; io.EOF at the sound end of the plan
}

// pageBytes is how much a page holds, and two of them per plan are under way.
const pageBytes = 256 << 10

// Compare opens two plans. Errors that are about base are a *BaseError. The caller must Close what it gets.
func Compare(ctx context.Context, store blob.Store, base, next blob.Digest, l Limits) (*Changes, error) {
	n, err := Open(ctx, store, next, l)
	if err != nil {
		return nil, err
	}
	b, err := Open(ctx, store, base, l)
	if err != nil {
		return nil, errors.Join(&BaseError{err}, n.Close())
	}
	return &Changes{base: newCursor(ctx, b), next: newCursor(ctx, n)}, nil
}

func newCursor(ctx context.Context, r *Reader) cursor {
	ctx, stop := context.WithCancel(ctx)
	c := cursor{Reader: r, ahead: make(chan page, 1), stop: stop}
	go r.pages(ctx, c.ahead)
	return c
}

// Header returns that of the second plan, Base that of the first. Callers must not change them.
func (c *Changes) Header() *channelsv1.PlanHeader { return c.next.header }

// Base returns the header of the first plan.
func (c *Changes) Base() *channelsv1.PlanHeader { return c.base.header }

// Same is how many entries were the same in both plans so far.
func (c *Changes) Same() int64 { return c.same }

// Dirs returns the first parts of the second plan's paths that were passed so far, each once; BaseDirs those of the first.
func (c *Changes) Dirs() []string { return c.next.dirs }

// BaseDirs returns those of the first plan.
func (c *Changes) BaseDirs() []string { return c.base.dirs }

// Close ends reading and frees what it holds. It may be called twice.
func (c *Changes) Close() error { return errors.Join(c.base.close(), c.next.close()) }

func (c *cursor) close() error {
	c.stop()
	for range c.ahead { // until its reader has ended
	}
	return c.Reader.Close()
}

// Next returns the next difference, in the order of paths: either an entry of the second plan, which the first has not or
// has otherwise, or the path of an entry that only the first has. Entries of the second plan that keep what is there are
// always named: what that is does not follow from the first. After the last difference comes io.EOF; any other error is
// final, and nothing read should be acted upon then.
func (c *Changes) Next() (entry *channelsv1.PlanEntry, gone string, err error) {
	for {
		if err := c.base.fill(); err != nil {
			return nil, "", &BaseError{err}
		}
		if err := c.next.fill(); err != nil {
			return nil, "", err
		}
		switch {
		case c.base.raw == nil && c.next.raw == nil:
			return nil, "", io.EOF
		case c.base.raw != nil && c.next.raw != nil && bytes.Equal(c.base.raw, c.next.raw):
			keeps := keeps(c.next.raw)
			if keeps {
				if err := c.next.decode(); err != nil {
					return nil, "", err
				}
				entry = c.next.entry
			}
			c.base.drop()
			c.next.drop()
			if keeps {
				return entry, "", nil
			}
			c.same++
			continue
		}
		if err := c.base.decode(); err != nil {
			return nil, "", &BaseError{err}
		}
		if err := c.next.decode(); err != nil {
			return nil, "", err
		}
		if c.next.raw == nil || c.base.raw != nil && c.base.path < c.next.path {
			gone = c.base.path
			c.base.drop()
			return nil, gone, nil
		}
		if c.base.raw != nil && c.base.path == c.next.path {
			c.base.drop()
		}
		entry = c.next.entry
		c.next.drop()
		return entry, "", nil
	}
}

// fill makes raw the current entry's bytes, nil behind the last one.
func (c *cursor) fill() error {
	for c.raw == nil && (len(c.page.ends) > 0 || c.page.err == nil) {
		if len(c.page.ends) == 0 {
			p, ok := <-c.ahead
			if !ok {
				return fault.New(fault.Internal, "plan: read after the end")
			}
			c.page = p
			if len(p.ends) == 0 {
				continue
			}
		}
		end := c.page.ends[0]
		c.raw, c.page.at, c.page.ends = c.page.data[c.page.at:end:end], end, c.page.ends[1:]
	}
	if c.raw == nil && c.page.err != io.EOF {
		return c.page.err
	}
	return nil
}

func (c *cursor) drop() {
	if dir := dirOf(c.raw); !bytes.Equal(dir, c.dir) { // paths ascend: equal ones are neighbours
		c.dir = dir
		c.dirs = append(c.dirs, string(dir))
	}
	c.past = nil
	if c.entry == nil {
		c.past = c.raw
	}
	c.raw, c.entry = nil, nil
}

// decode reads the current entry, if there is one, and checks it as Reader.Next does.
func (c *cursor) decode() error {
	if c.raw == nil || c.entry != nil {
		return nil
	}
	if c.past != nil {
		e := new(channelsv1.PlanEntry)
		if err := proto.Unmarshal(c.past, e); err != nil {
			return invalid("it cannot be read: %w", err)
		}
		c.past, c.path = nil, e.GetPath()
	}
	e := new(channelsv1.PlanEntry)
	if err := proto.Unmarshal(c.raw, e); err != nil {
		return invalid("it cannot be read: %w", err)
	}
	if err := checkEntry(e, c.path); err != nil {
		return err
	}
	c.entry, c.path = e, e.GetPath()
	return nil
}

// pages reads all entries as they were written.
func (r *Reader) pages(ctx context.Context, out chan<- page) {
	defer close(out)
	for {
		p := r.page()
		select {
		case out <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil {
			return
		}
	}
}

func (r *Reader) page() (p page) {
	p.data = make([]byte, 0, pageBytes+pageBytes/8)
	for len(p.data) < pageBytes {
		if p.data, p.err = r.raw(p.data); p.err != nil {
			return p
		}
		p.ends = append(p.ends, len(p.data))
	}
	return p
}

// raw appends the next entry's bytes.
func (r *Reader) raw(dst []byte) ([]byte, error) {
	size, err := binary.ReadUvarint(r.in)
	switch {
	case err == io.EOF && r.read == r.header.GetEntries():
		return dst, io.EOF
	case err == io.EOF:
		return dst, invalid("%d entries, but %d promised", r.read, r.header.GetEntries())
	case err != nil:
		return dst, broken(err)
	case r.read == r.header.GetEntries():
		return dst, invalid("more entries than the %d promised", r.read)
	case size > uint64(r.limits.Message):
		return dst, invalid("a message of %d bytes is more than the allowed %d", size, r.limits.Message)
	}
	r.read++
	n := len(dst)
	if need := n + int(size); need > cap(dst) {
		dst = append(make([]byte, 0, need), dst...)
	}
	dst = dst[:n+int(size)]
	if _, err := io.ReadFull(r.in, dst[n:]); err != nil {
		return dst[:n], broken(err)
	}
	return dst, nil
}

// broken tells an error of the bytes from those of the store, the limits and the caller's context.
func broken(err error) error {
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("plan: %w", err)
	}
	return invalid("it cannot be read: %w", err)
}

// dirOf returns the part of an entry's path before the slash. The path is field 1, and written first.
func dirOf(raw []byte) []byte {
	num, typ, n := protowire.ConsumeTag(raw)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil
	}
	path, n := protowire.ConsumeBytes(raw[n:])
	if n < 0 {
		return nil
	}
	dir, _, _ := bytes.Cut(path, []byte("/"))
	return dir
}

// keepField is PlanEntry.keep.
const keepField = 11

// keeps looks into an entry's bytes for its mark; what cannot be read is for decode to refuse.
func keeps(raw []byte) bool {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return true
		}
		raw = raw[n:]
		if num == keepField && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(raw)
			return v != 0
		}
		if n = protowire.ConsumeFieldValue(num, typ, raw); n < 0 {
			return true
		}
		raw = raw[n:]
	}
	return false
}
