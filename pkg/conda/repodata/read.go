package repodata

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// ReadLimits bound what Read holds in memory. Zero fields mean the defaults.
type ReadLimits struct {
	Record  int64 // bytes of one record; default 4 MiB, about a hundred times the largest known
	Extra   int64 // bytes of info and of all unknown top-level keys together; default 16 MiB
	Records int   // records and removed names together; default 10 million
}

func (l ReadLimits) withDefaults() ReadLimits {
	if l.Record <= 0 {
		l.Record = 4 << 20
	}
	if l.Extra <= 0 {
		l.Extra = 16 << 20
	}
	if l.Records <= 0 {
		l.Records = 10_000_000
	}
	return l
}

// ReadOptions say what to do with what Read finds. Nil functions skip their part.
type ReadOptions struct {
	// Record gets every sound record in document order: its bucket, its key (a file name, in v3 buckets a stem) and
	// its bytes, valid until the function returns. An error ends the read and is returned as it is.
	Record func(b Bucket, key string, raw []byte) error
	// Removed gets the names under "removed".
	Removed func(filename string) error
	// Problem gets each defect that concerns one record or key only; the read goes on behind it, unless Problem
	// returns an error. If Problem is nil, the first defect ends the read.
	Problem func(*Error) error
	// Trusted skips the look inside each record (duplicate keys, UTF-8, depth, required keys) and the parts of its file
	// name, for documents that were written here. Syntax, and that keys are safe in paths, are checked nevertheless.
	Trusted bool
	Limits  ReadLimits
}

// Document is what a repodata document holds beside its records.
type Document struct {
	Info    Info     // from "metadata" where a source has that instead of "info"
	Version int      // repodata_version, 0 if absent
	Extra   []Member // unknown top-level keys in document order; "signatures" is dropped
	Records int      // sound records delivered
	Removed int      // sound removed names delivered
	Size    int64    // bytes read
}

// Read walks a repodata document of any size and hands out its records raw. Nothing (or only white space) is read as {},
// which is what an empty noarch/repodata.json means. Errors are *Error, but for those of the options' functions.
func Read(r io.Reader, opts ReadOptions) (*Document, error) {
	rd := &reader{opts: opts, lim: opts.Limits.withDefaults()}
	rd.guard = &guard{r: bufio.NewReaderSize(r, 64<<10), max: rd.lim.Record}
	// Invalid UTF-8 and duplicate names end jsontext's reading for good. Both may be one record's fault, so they are
	// let through and caught per record.
	rd.dec = jsontext.NewDecoder(rd.guard, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	rd.guard.dec = rd.dec
	err := rd.document()
	rd.doc.Size = rd.dec.InputOffset()
	if err != nil {
		return nil, err
	}
	return &rd.doc, nil
}

// Entry is a record where it stands in a document.
type Entry struct {
	Bucket Bucket
	Key    string // file name, in v3 buckets without extension
	Raw    []byte
}

// errStop ends a read whose consumer has enough.
var errStop = errors.New("stop")

// Records is Read as an iterator. Raw is valid until the next step. An error is the last thing it yields.
func Records(r io.Reader, opts ReadOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		opts.Record = func(b Bucket, key string, raw []byte) error {
			if !yield(Entry{b, key, raw}, nil) {
				return errStop
			}
			return nil
		}
		if _, err := Read(r, opts); err != nil && !errors.Is(err, errStop) {
			yield(Entry{}, err)
		}
	}
}

type reader struct {
	opts  ReadOptions
	lim   ReadLimits
	guard *guard
	dec   *jsontext.Decoder
	check checker
	doc   Document
	extra int64 // bytes kept so far
	count int   // records and removed names so far, sound or not
}

func (r *reader) document() error {
	switch r.dec.PeekKind() {
	case '{':
	case 0:
		if _, err := r.dec.ReadToken(); err != io.EOF {
			return r.broken(err)
		}
		return nil
	default:
		return &Error{Offset: r.dec.InputOffset(), Msg: "document is not an object"}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.broken(err)
	}
	seen := map[string]bool{}
	for r.dec.PeekKind() != '}' {
		at := r.dec.InputOffset()
		tok, err := r.dec.ReadToken()
		if err != nil {
			return r.broken(err)
		}
		key := tok.String()
		if seen[key] {
			return &Error{Path: pointer(key), Offset: at, Msg: "key is there twice"}
		}
		seen[key] = true
		if err := r.topLevel(key); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.broken(err)
	}
	if r.doc.Info.Subdir == "" && !seen["info"] {
		r.infoFromMetadata()
	}
	if _, err := r.dec.ReadToken(); err != io.EOF {
		if err != nil {
			return r.broken(err)
		}
		return &Error{Offset: r.dec.InputOffset(), Msg: "data after the document"}
	}
	return nil
}

func (r *reader) topLevel(key string) error {
	switch key {
	case string(TarBz2), string(Conda):
		return r.bucket(Bucket(key))
	case "v3":
		return r.v3()
	case "removed":
		return r.removed()
	case "signatures": // one vendor's legacy: as many entries as records, and nobody asks for them
		return r.skip()
	}
	raw, err := r.extraValue()
	if err != nil {
		return err
	}
	switch key {
	case "info":
		if isNull(raw) {
			return nil
		}
		if r.doc.Info, err = parseInfo(raw); err != nil {
			return r.problem("/info", err.Error())
		}
	case "repodata_version":
		v, ok := parseVersion(raw)
		if !ok && !isNull(raw) {
			return r.problem("/repodata_version", "repodata_version is not a whole number")
		}
		r.doc.Version = v
	default:
		if len(r.doc.Extra) >= 1000 {
			return &Error{
				Path: pointer(key), Offset: r.dec.InputOffset(), Msg: "too many unknown keys",
				Err: &LimitError{What: "number of unknown top-level keys", Limit: 1000},
			}
		}
		r.doc.Extra = append(r.doc.Extra, Member{key, append([]byte(nil), raw...)})
	}
	return nil
}

// extraValue reads a value that is kept: info and what is unknown.
func (r *reader) extraValue() ([]byte, error) {
	r.guard.max = r.lim.Extra - r.extra
	defer func() { r.guard.max = r.lim.Record }()
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, r.broken(err)
	}
	if r.extra += int64(len(raw)); r.extra > r.lim.Extra {
		return nil, r.broken(&LimitError{What: "size of unknown keys", Limit: r.lim.Extra})
	}
	var c checker
	if !utf8.Valid(raw) {
		return nil, r.broken(errors.New("not valid UTF-8"))
	}
	if _, msg := c.value(raw, 1); msg != "" {
		return nil, r.broken(errors.New(msg))
	}
	return raw, nil
}

func (r *reader) v3() error {
	if ok, err := r.enter('{', "/v3"); !ok || err != nil {
		return err
	}
	seen := map[string]bool{}
	for r.dec.PeekKind() != '}' {
		tok, err := r.dec.ReadToken()
		if err != nil {
			return r.broken(err)
		}
		name := tok.String()
		if seen[name] || len(seen) >= 100 {
			return &Error{Path: pointer("v3", name), Offset: r.dec.InputOffset(), Msg: "bucket is there twice, or too many buckets"}
		}
		seen[name] = true
		if err := r.bucket(Bucket(v3Prefix + name)); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return r.broken(err)
}

func (r *reader) bucket(b Bucket) error {
	where := pointer(string(b))
	if b.V3() {
		where = pointer("v3", b.V3Name())
	}
	if ok, err := r.enter('{', where); !ok || err != nil {
		return err
	}
	seen := newNameSet()
	for r.dec.PeekKind() != '}' {
		tok, err := r.dec.ReadToken()
		if err != nil {
			return r.broken(err)
		}
		key := tok.String()
		raw, err := r.dec.ReadValue()
		if err != nil {
			return r.broken(err)
		}
		if err := r.countUp(); err != nil {
			return err
		}
		path, msg := r.judge(b, key, raw, seen)
		if msg != "" {
			if err := r.problemAt(b.path(key)+path, msg, r.dec.InputOffset()-int64(len(raw))); err != nil {
				return err
			}
			continue
		}
		r.doc.Records++
		if r.opts.Record != nil {
			if err := r.opts.Record(b, key, raw); err != nil {
				return err
			}
		}
	}
	_, err := r.dec.ReadToken()
	return r.broken(err)
}

// judge says what is wrong with a record and where inside it; msg is empty if nothing is.
func (r *reader) judge(b Bucket, key string, raw []byte, seen nameSet) (path, msg string) {
	if r.opts.Trusted {
		msg = checkPathComponent(key)
	} else {
		msg = checkFilename(b, key)
	}
	if msg != "" {
		return "", msg
	}
	if !seen.add(key) {
		return "", "file name is there twice"
	}
	switch {
	case int64(len(raw)) > r.lim.Record:
		return "", (&LimitError{What: "record", Limit: r.lim.Record}).Error()
	case len(raw) == 0 || raw[0] != '{':
		return "", "record is not an object"
	case r.opts.Trusted:
		return "", ""
	}
	path, msg, _ = r.check.record(raw, b.Extension() != "" && b != V3Whl)
	return path, msg
}

func (r *reader) removed() error {
	if ok, err := r.enter('[', "/removed"); !ok || err != nil {
		return err
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		raw, err := r.dec.ReadValue()
		if err != nil {
			return r.broken(err)
		}
		if err := r.countUp(); err != nil {
			return err
		}
		name, ok := unquote(raw)
		msg := "removed name is not a string"
		if ok {
			msg = checkPathComponent(name)
		}
		if msg != "" {
			if err := r.problem(fmt.Sprintf("/removed/%d", i), msg); err != nil {
				return err
			}
			continue
		}
		r.doc.Removed++
		if r.opts.Removed != nil {
			if err := r.opts.Removed(name); err != nil {
				return err
			}
		}
	}
	_, err := r.dec.ReadToken()
	return r.broken(err)
}

// enter steps into an object or array. Of another kind: null is passed over, the rest is a problem and passed over.
func (r *reader) enter(kind jsontext.Kind, path string) (bool, error) {
	switch k := r.dec.PeekKind(); k {
	case kind:
		_, err := r.dec.ReadToken()
		return err == nil, r.broken(err)
	case 'n', 0:
		return false, r.skip()
	default:
		if err := r.problem(path, fmt.Sprintf("expected %q, found a JSON %v", byte(kind), k)); err != nil {
			return false, err
		}
		return false, r.skip()
	}
}

func (r *reader) skip() error { return r.broken(r.dec.SkipValue()) }

func (r *reader) countUp() error {
	if r.count++; r.count > r.lim.Records {
		return r.broken(&LimitError{What: "number of records", Limit: int64(r.lim.Records)})
	}
	return nil
}

func (r *reader) problem(path, msg string) error {
	return r.problemAt(path, msg, r.dec.InputOffset())
}

func (r *reader) problemAt(path, msg string, offset int64) error {
	e := &Error{Path: path, Offset: offset, Msg: msg}
	if r.opts.Problem == nil {
		return e
	}
	return r.opts.Problem(e)
}

// broken turns a decoder's error into ours; nil stays nil.
func (r *reader) broken(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		err = io.ErrUnexpectedEOF
	}
	return syntaxError(err, string(r.dec.StackPointer()), r.dec.InputOffset())
}

// infoFromMetadata serves the one known source that describes itself under "metadata".
func (r *reader) infoFromMetadata() {
	for _, m := range r.doc.Extra {
		if m.Key != "metadata" {
			continue
		}
		if in, err := parseInfo(m.Raw); err == nil {
			r.doc.Info = Info{Subdir: in.Subdir, BaseURL: in.BaseURL}
		}
	}
}
