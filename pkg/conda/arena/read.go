package arena

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Read reads a repodata document. A defect of a single record is told to opts.Problem, and the record left out; one of the
// document is an error, a *repodata.Error unless it is r's own. Nothing (or only white space) is read as {}.
func Read(r io.Reader, opts Options) (*Arena, error) {
	if opts.MaxRecord <= 0 {
		opts.MaxRecord = 4 << 20
	}
	if opts.MaxExtra <= 0 {
		opts.MaxExtra = 64 << 20
	}
	d := &document{Builder: NewBuilder(opts), r: r, opts: opts, buf: make([]byte, 0, 1<<20), seen: map[string]bool{}}
	err := d.read()
	if d.err != nil && d.err != io.EOF {
		err = d.err // what the reader says comes before what that leads to
	}
	if err != nil {
		var e *repodata.Error
		if errors.Is(err, errSyntax) {
			e = &repodata.Error{Offset: d.base + int64(d.pos), Msg: "broken JSON", Err: err}
			if d.err == io.EOF && d.pos >= len(d.buf) {
				e.Msg, e.Err = "unexpected EOF", io.ErrUnexpectedEOF
			}
			err = e
		}
		return nil, err
	}
	return d.Finish()
}

var errSyntax = errors.New("broken JSON")

// document walks a document through a window.
type document struct {
	*Builder
	r    io.Reader
	opts Options
	buf  []byte // the window
	pos  int    // in buf
	base int64  // offset of buf in the document
	err  error  // of r
	seen map[string]bool
	key  []byte // scratch
}

// more makes the window longer by what the reader gives, having dropped what lies before pos.
func (d *document) more() bool {
	if d.err != nil {
		return false
	}
	if d.pos > 0 {
		d.base += int64(d.pos)
		d.buf = d.buf[:copy(d.buf, d.buf[d.pos:])]
		d.pos = 0
	}
	if len(d.buf) == cap(d.buf) {
		d.buf = append(d.buf, 0)[:len(d.buf)]
	}
	for tries := 0; ; tries++ {
		n, err := d.r.Read(d.buf[len(d.buf):cap(d.buf)])
		d.buf = d.buf[:len(d.buf)+n]
		d.err = err
		if n > 0 {
			return true
		}
		if err != nil {
			return false
		}
		if tries == 100 {
			d.err = io.ErrNoProgress
			return false
		}
	}
}

// peek returns the next byte that is no white space, without taking it; 0 at the end.
func (d *document) peek() byte {
	for {
		if d.pos = space(d.buf, d.pos); d.pos < len(d.buf) {
			return d.buf[d.pos]
		}
		if !d.more() {
			return 0
		}
	}
}

func (d *document) take(c byte) error {
	if d.peek() != c {
		return errSyntax
	}
	d.pos++
	return nil
}

// whole returns the complete value at pos, which may be at most max bytes long, and does not take it.
func (d *document) whole(most int, what string) ([]byte, error) {
	if d.peek() == 0 {
		return nil, errSyntax
	}
	for from := (scan{}); ; {
		if from.next(d.buf[d.pos:], d.err != nil) {
			return d.buf[d.pos : d.pos+from.at], nil
		}
		if from.broken {
			return nil, errSyntax
		}
		if len(d.buf)-d.pos > most {
			limit := &repodata.LimitError{What: what, Limit: int64(most)}
			return nil, &repodata.Error{Offset: d.base + int64(d.pos), Msg: limit.Error(), Err: limit}
		}
		if !d.more() {
			if from.next(d.buf[d.pos:], true) {
				return d.buf[d.pos : d.pos+from.at], nil
			}
			d.pos = len(d.buf)
			return nil, errSyntax
		}
	}
}

// members calls each for the members of the object at pos. The key is valid until each takes the value.
func (d *document) members(each func(key []byte) error) error {
	if err := d.take('{'); err != nil {
		return err
	}
	if d.peek() == '}' {
		d.pos++
		return nil
	}
	for {
		if d.peek() != '"' {
			return errSyntax
		}
		quoted, err := d.whole(d.opts.MaxRecord, "key")
		if err != nil {
			return err
		}
		d.pos += len(quoted)
		if s := quoted[1 : len(quoted)-1]; bytes.IndexByte(s, '\\') < 0 {
			d.key = append(d.key[:0], s...)
		} else if d.key, err = jsontext.AppendUnquote(d.key[:0], quoted); err != nil {
			return errSyntax
		}
		if err := d.take(':'); err != nil {
			return err
		}
		if err := each(d.key); err != nil {
			return err
		}
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			d.pos++
			return nil
		default:
			return errSyntax
		}
	}
}

func (d *document) read() error {
	if d.peek() == 0 {
		return nil
	}
	if err := d.members(d.topLevel); err != nil {
		return err
	}
	if d.peek() != 0 {
		return &repodata.Error{Offset: d.base + int64(d.pos), Msg: "data after the document"}
	}
	return nil
}

func (d *document) topLevel(key []byte) error {
	name := string(key)
	if d.seen[name] {
		return &repodata.Error{Path: "/" + name, Offset: d.base + int64(d.pos), Msg: "key is there twice"}
	}
	d.seen[name] = true
	switch name {
	case string(repodata.TarBz2), string(repodata.Conda):
		return d.bucket(place(repodata.Bucket(name)))
	case "v3":
		if d.peek() == 'n' {
			break
		}
		return d.members(func(key []byte) error { return d.bucket(place(repodata.Bucket("v3/" + string(key)))) })
	}
	raw, err := d.whole(d.opts.MaxExtra, "what is no record")
	if err != nil {
		return err
	}
	if !jsontext.Value(raw).IsValid(jsontext.AllowDuplicateNames(true)) {
		return &repodata.Error{Path: "/" + name, Offset: d.base + int64(d.pos), Msg: "not JSON"}
	}
	switch name {
	case "info":
		info, err := repodata.ParseInfo(raw)
		if err != nil {
			return err
		}
		d.SetInfo(info)
	case "metadata": // where one known source describes itself
		if info, err := repodata.ParseInfo(raw); err == nil && !d.seen["info"] {
			d.SetInfo(info)
		}
	case "removed":
		var names []jsontext.Value
		if err := eachElement(raw, func(v jsontext.Value) { names = append(names, v) }); err != nil {
			break
		}
		for _, v := range names {
			if file, err := jsontext.AppendUnquote(nil, v); err == nil {
				d.Removed(string(file))
			}
		}
	}
	d.pos += len(raw)
	return nil
}

func eachElement(raw []byte, each func(jsontext.Value)) error {
	dec := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return errSyntax
	}
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		each(v.Clone())
	}
	return nil
}

// bucket reads the records of a bucket.
func (d *document) bucket(where bucket) error {
	if d.peek() == 'n' {
		raw, err := d.whole(8, "null")
		if err == nil && string(raw) != "null" {
			err = errSyntax
		}
		d.pos += len(raw)
		return err
	}
	return d.members(func(key []byte) error {
		if d.full() {
			return fmt.Errorf("%s: %w", where.Bucket, errFull)
		}
		if d.peek() == '{' {
			// Half of a record in the window is no record that fast knows: only the last of each window is read twice.
			if end, ok := d.fast(where, key, d.buf[d.pos:]); ok {
				d.pos += end
				return nil
			}
		}
		raw, err := d.whole(d.opts.MaxRecord, "record")
		if err != nil {
			return err
		}
		if end, ok := d.fast(where, key, raw); !ok || end != len(raw) {
			d.slow(where, string(key), raw)
		}
		d.pos += len(raw)
		return nil
	})
}

// scan finds the end of a value that may not be complete yet, and goes on where it stopped. It counts brackets, and leaves
// the grammar inside to others.
type scan struct {
	at, depth int
	inString  bool
	broken    bool
}

// next reports whether the value at the beginning of b ends within b; final says that nothing more will come.
func (s *scan) next(b []byte, final bool) bool {
	for s.at < len(b) {
		c := b[s.at]
		if s.inString {
			switch c {
			case '\\':
				if s.at+1 == len(b) {
					return false
				}
				s.at++
			case '"':
				s.inString = false
				if s.depth == 0 {
					s.at++
					return true
				}
			}
			s.at++
			continue
		}
		switch c {
		case '"':
			s.inString = true
		case '{', '[':
			s.depth++
		case '}', ']':
			if s.depth == 0 {
				s.broken = s.at == 0
				return !s.broken
			}
			if s.depth--; s.depth == 0 {
				s.at++
				return true
			}
		case ',', ' ', '\n', '\r', '\t', ':':
			if s.depth == 0 {
				s.broken = s.at == 0
				return !s.broken
			}
		}
		s.at++
	}
	return final && s.depth == 0 && !s.inString && s.at > 0
}
