package repodata

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// Writer writes a repodata document from raw records, byte for byte, without parsing them:
//
//	info, packages, packages.conda, v3 (only if it has records), removed, repodata_version, unknown keys
//
// Buckets must come in that order and names strictly ascending (by bytes) in each, so that equal contents give equal
// documents. The first error sticks: every later call returns it, and the document must be thrown away.
type Writer struct {
	w       *bufio.Writer
	info    Info
	extra   []Member
	stage   stage
	bucket  Bucket // open v3 bucket
	last    string // last name in the open bucket or list
	any     bool   // whether the open bucket or list has an element
	scratch []byte
	n       int
	err     error

	offset  int64 // bytes written
	marking bool
	spans   []Span
}

func (w *Writer) write(p []byte) {
	w.offset += int64(len(p))
	_, _ = w.w.Write(p) // bufio keeps its first error until Flush
}

func (w *Writer) writeByte(c byte) {
	w.offset++
	_ = w.w.WriteByte(c)
}

func (w *Writer) writeString(s string) {
	w.offset += int64(len(s))
	_, _ = w.w.WriteString(s)
}

// stage is the part of the document that is open.
type stage int

const (
	stageStart stage = iota
	stageTarBz2
	stageConda
	stageV3
	stageRemoved
	stageDone
)

// NewWriter writes to w. extra are top-level keys to pass on, as Document.Extra has them. repodata_version follows
// from info.
func NewWriter(w io.Writer, info Info, extra ...Member) *Writer {
	wr := &Writer{w: bufio.NewWriterSize(w, 64<<10), info: info, extra: extra}
	wr.err = wr.start()
	return wr
}

func (w *Writer) start() error {
	if err := w.info.check(); err != nil {
		return err
	}
	known := map[string]bool{
		"info": true, "packages": true, "packages.conda": true, "v3": true, "removed": true,
		"repodata_version": true,
	}
	for _, m := range w.extra {
		if known[m.Key] {
			return &Error{Path: pointer(m.Key), Msg: "key is there twice"}
		}
		known[m.Key] = true
		if !jsontext.Value(m.Raw).IsValid() {
			return &Error{Path: pointer(m.Key), Msg: "value is not valid JSON"}
		}
	}
	w.scratch = w.info.append(append(w.scratch[:0], `{"info":`...))
	w.scratch = append(w.scratch, `,"packages":{`...)
	w.stage = stageTarBz2
	w.write(w.scratch)
	return nil
}

// Record appends one record. raw must be a JSON object whose syntax is known to be right, as Read delivers it.
func (w *Writer) Record(b Bucket, key string, raw []byte) error {
	if w.err != nil {
		return w.err
	}
	w.err = w.record(b, key, raw)
	return w.err
}

func (w *Writer) record(b Bucket, key string, raw []byte) error {
	if len(raw) < 2 || raw[0] != '{' || raw[len(raw)-1] != '}' {
		return &Error{Path: b.path(key), Msg: "record is not an object"}
	}
	if err := w.enter(b, key); err != nil {
		return err
	}
	begin := w.offset
	if w.any {
		begin++ // the comma
	}
	if err := w.name(b.path, key); err != nil {
		return err
	}
	w.n++
	w.writeByte(':')
	w.write(raw)
	w.mark(b, key, begin, raw)
	return nil
}

// enter opens the bucket of a record and closes those before it.
func (w *Writer) enter(b Bucket, key string) error {
	var to stage
	switch b.rank() {
	case 0:
		to = stageTarBz2
	case 1:
		to = stageConda
	case 2:
		to = stageV3
	default:
		return &Error{Path: b.path(key), Msg: fmt.Sprintf("unknown bucket %q", string(b))}
	}
	if to < w.stage {
		return &Error{Path: b.path(key), Msg: "record comes after its bucket was closed"}
	}
	w.advance(to)
	if to == stageV3 && b != w.bucket {
		if b < w.bucket {
			return &Error{Path: b.path(key), Msg: "record comes after its bucket was closed"}
		}
		if w.bucket != "" {
			w.writeString("},")
		}
		w.scratch = append(appendQuoted(w.scratch[:0], b.V3Name()), ":{"...)
		w.write(w.scratch)
		w.bucket, w.any = b, false
	}
	return nil
}

// name writes the quoted name with the comma before it, and sees to the order.
func (w *Writer) name(path func(string) string, name string) error {
	if w.any && name <= w.last {
		msg := fmt.Sprintf("name comes after %q", w.last)
		if name == w.last {
			msg = "name is there twice"
		}
		return &Error{Path: path(name), Msg: msg}
	}
	w.scratch = w.scratch[:0]
	if w.any {
		w.scratch = append(w.scratch, ',')
	}
	var err error
	if w.scratch, err = jsontext.AppendQuote(w.scratch, name); err != nil {
		return &Error{Path: path(name), Msg: err.Error()}
	}
	w.last, w.any = name, true
	w.write(w.scratch)
	return nil
}

// advance closes what is open up to the stage and opens that.
func (w *Writer) advance(to stage) {
	for w.stage < to {
		switch w.stage {
		case stageTarBz2:
			w.writeString(`},"packages.conda":{`)
			w.stage = stageConda
		case stageConda:
			w.writeString(`},`)
			if w.stage = stageRemoved; to == stageV3 {
				w.writeString(`"v3":{`)
				w.stage = stageV3
			} else {
				w.writeString(`"removed":[`)
			}
		case stageV3:
			w.writeString(`}},"removed":[`)
			w.stage = stageRemoved
		case stageRemoved:
			w.write(fmt.Appendf(nil, `],"repodata_version":%d`, w.info.Version()))
			w.stage = stageDone
		}
		w.any = false
	}
}

// Removed appends a name to the list of files that are out of the index but still downloadable. After the first one no
// record can follow.
func (w *Writer) Removed(filename string) error {
	if w.err != nil {
		return w.err
	}
	if w.stage > stageRemoved {
		w.err = &Error{Path: "/removed", Msg: "document is complete"}
		return w.err
	}
	w.advance(stageRemoved)
	w.err = w.name(func(string) string { return "/removed" }, filename)
	return w.err
}

// Records is how many records were written.
func (w *Writer) Records() int { return w.n }

// Close completes the document and flushes it. It does not close the underlying writer. Closing twice is harmless.
func (w *Writer) Close() error {
	if w.err != nil || w.stage == stageDone {
		return w.err
	}
	w.advance(stageDone)
	for _, m := range w.extra {
		w.scratch = append(appendQuoted(append(w.scratch[:0], ','), m.Key), ':')
		w.write(w.scratch)
		w.write(bytes.TrimSpace(m.Raw))
	}
	w.writeByte('}')
	w.err = w.w.Flush() // bufio keeps the first error of the writes above
	return w.err
}
