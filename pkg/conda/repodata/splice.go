package repodata

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Splicing. A document of hundreds of megabytes changes by a record or two at a time, and all others stay where they are.
// So a Writer can note where its records lie (Marks), and the next document copies whole spans of the one before, of which
// only those are read as JSON that something changes in.

// Span is a run of records of one bucket as they lie in a document: from the quote of the first key to the end of the last
// record, with the commas between them.
type Span struct {
	Bucket Bucket
	First  string // key of the first record
	Offset int64
	Size   int64
	Count  int // records
	// Sum is a CRC-32C of the bytes: a span whose bytes rotted must not be copied under a new digest.
	Sum uint32
}

// spanBytes is about how many bytes a span has: little to read for a change, and few spans to remember.
const spanBytes = 128 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Mark makes the writer remember where its records lie; call it before the first record.
func (w *Writer) Mark() { w.marking = true }

// Spans returns the spans of a marked document, in its order, after Close.
func (w *Writer) Spans() []Span { return w.spans }

// mark takes the record that was just written into the last span, or begins a new one. Its name is in scratch, with the
// comma if there is one before it.
func (w *Writer) mark(b Bucket, key string, begin int64, raw []byte) {
	if !w.marking {
		return
	}
	s := w.open(b)
	if s == nil {
		w.spans = append(w.spans, Span{Bucket: b, First: strings.Clone(key), Offset: begin})
		s = &w.spans[len(w.spans)-1]
		s.add(bytes.TrimPrefix(w.scratch, []byte(",")))
	} else {
		s.add(w.scratch)
	}
	s.add([]byte(":"))
	s.add(raw)
	s.Count++
}

// open returns the last span if it takes more records; nil if not.
func (w *Writer) open(b Bucket) *Span {
	if n := len(w.spans); n > 0 && w.spans[n-1].Bucket == b && w.spans[n-1].Size < spanBytes {
		return &w.spans[n-1]
	}
	return nil
}

func (s *Span) add(p []byte) {
	s.Size += int64(len(p))
	s.Sum = crc32.Update(s.Sum, castagnoli, p)
}

// Change is a record to put or, without Raw, to take away.
type Change struct {
	Bucket Bucket
	Key    string
	Raw    []byte
}

// Splice writes the records of a former document with changes, which come in the order of the document: by bucket, then by
// key. doc is that document, read from front to back, spans where its records lie.
func Splice(w *Writer, doc io.Reader, spans []Span, changes []Change) error {
	var buf []byte
	at := int64(0)
	for i, s := range spans {
		until := func(c Change) bool { // the change belongs before the end of this span
			if d := compareBuckets(c.Bucket, s.Bucket); d != 0 {
				return d < 0
			}
			return i+1 == len(spans) || spans[i+1].Bucket != s.Bucket || c.Key < spans[i+1].First
		}
		n := 0
		for n < len(changes) && until(changes[n]) {
			n++
		}
		if int64(cap(buf)) < s.Size {
			buf = make([]byte, s.Size)
		}
		buf = buf[:s.Size]
		_, err := io.CopyN(io.Discard, doc, s.Offset-at)
		if err == nil {
			_, err = io.ReadFull(doc, buf)
		}
		if err != nil {
			return fmt.Errorf("read the former document at %d: %w", s.Offset, err)
		}
		at = s.Offset + s.Size
		if got := crc32.Checksum(buf, castagnoli); got != s.Sum {
			return &Error{Offset: s.Offset, Msg: "the former document has other bytes than when it was written"}
		}
		if n == 0 {
			err = w.copySpan(s, buf)
		} else {
			err = w.mergeSpan(s, buf, changes[:n])
		}
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	for _, c := range changes {
		if err := w.put(c); err != nil {
			return err
		}
	}
	return nil
}

// compareBuckets orders buckets as they come in a document.
func compareBuckets(a, b Bucket) int {
	return cmp.Or(cmp.Compare(a.rank(), b.rank()), strings.Compare(string(a), string(b)))
}

func (w *Writer) put(c Change) error {
	if c.Raw == nil {
		return nil
	}
	return w.Record(c.Bucket, c.Key, c.Raw)
}

// mergeSpan writes a span record by record.
func (w *Writer) mergeSpan(s Span, data []byte, changes []Change) error {
	for len(changes) > 0 && changes[0].Bucket != s.Bucket { // of a bucket before this one that had no record
		if err := w.put(changes[0]); err != nil {
			return err
		}
		changes = changes[1:]
	}
	o := object{buf: append(append([]byte{'{'}, data...), '}')}
	for o.next() {
		key := string(o.key)
		for len(changes) > 0 && changes[0].Key < key {
			if err := w.put(changes[0]); err != nil {
				return err
			}
			changes = changes[1:]
		}
		if len(changes) > 0 && changes[0].Key == key {
			if err := w.put(changes[0]); err != nil {
				return err
			}
			changes = changes[1:]
			continue
		}
		if err := w.Record(s.Bucket, key, o.value()); err != nil {
			return err
		}
	}
	if o.err != nil {
		return &Error{Offset: s.Offset, Msg: "the former document cannot be read: " + o.err.Error(), Err: o.err}
	}
	for _, c := range changes {
		if err := w.put(c); err != nil {
			return err
		}
	}
	return nil
}

// copySpan writes a span as it is.
func (w *Writer) copySpan(s Span, data []byte) error {
	if w.err != nil {
		return w.err
	}
	if w.err = w.enter(s.Bucket, s.First); w.err != nil {
		return w.err
	}
	if w.any && s.First <= w.last {
		w.err = &Error{Path: s.Bucket.path(s.First), Msg: fmt.Sprintf("name comes after %q", w.last)}
		return w.err
	}
	w.scratch = w.scratch[:0]
	if w.any {
		w.scratch = append(w.scratch, ',')
	}
	begin := w.offset + int64(len(w.scratch))
	w.write(w.scratch)
	w.write(data)
	w.n += s.Count
	w.last, w.any = s.First, true
	if !w.marking {
		return nil
	}
	// Changes leave short spans behind; they are put together again here.
	if last := w.open(s.Bucket); last != nil && last.Size < spanBytes/2 {
		last.add(w.scratch)
		last.add(data)
		last.Count += s.Count
		return nil
	}
	s.Offset = begin
	w.spans = append(w.spans, s)
	return nil
}
