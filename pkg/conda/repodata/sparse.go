package repodata

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
)

// Sparse finds the records of a package name in a repodata document without reading the others: a solve looks at a few
// hundred names of the tens of thousands that a subdir has.
//
// Opening walks the document once, from brace to brace, and remembers where the records of each name begin. What stands
// inside a record is read, and checked as [Read] does, when it is asked for; so a defect of a record that nobody asks
// for is never seen.
type Sparse struct {
	// Info and Version are those of the document; see [Document].
	Info    Info
	Version int

	data    []byte
	runs    []sparseRun // by name, then in document order
	removed map[string]bool
	records int
	seen    map[string]bool // top-level keys
}

// sparseRun is a row of neighbouring records of one name.
type sparseRun struct {
	name       string // as their file names begin
	bucket     Bucket
	start, end int // of the members in the document, from the first key's quote to behind the last value
}

// OpenSparse indexes a document. It keeps data, which must not change. Nothing (or only white space) is read as {}. Errors
// are *Error.
func OpenSparse(data []byte) (*Sparse, error) {
	s := &Sparse{data: data, removed: map[string]bool{}, seen: map[string]bool{}}
	start := skipSpace(data, 0)
	if start == len(data) {
		return s, nil
	}
	end, err := s.object(start, func(key string, _, start int) (int, error) {
		if s.seen[key] {
			return start, &Error{Path: pointer(key), Offset: int64(start), Msg: "key is there twice"}
		}
		s.seen[key] = true
		switch key {
		case string(TarBz2), string(Conda):
			return s.bucket(Bucket(key), start)
		case "v3":
			if s.null(start) {
				return start + len("null"), nil
			}
			return s.object(start, func(name string, _, start int) (int, error) { return s.bucket(Bucket(v3Prefix+name), start) })
		}
		end := skipValue(data, start, false)
		if end < 0 {
			return start, errBroken
		}
		return end, s.topLevel(key, data[start:end])
	})
	if err == nil {
		if end = skipSpace(data, end); end != len(data) {
			err = &Error{Offset: int64(end), Msg: "data after the document"}
		}
	}
	if err != nil {
		if e, ok := err.(*Error); ok {
			return nil, e
		}
		return nil, &Error{Offset: int64(end), Msg: err.Error(), Err: err}
	}
	slices.SortFunc(s.runs, func(a, b sparseRun) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.bucket.rank(), b.bucket.rank()), cmp.Compare(a.start, b.start))
	})
	return s, nil
}

// Len is how many records there are, sound or not.
func (s *Sparse) Len() int { return s.records }

// Names calls yield for each name of which there are records, in ascending order, until it returns false.
func (s *Sparse) Names(yield func(string) bool) {
	for i, r := range s.runs {
		if i > 0 && s.runs[i-1].name == r.name {
			continue
		}
		if !yield(r.name) {
			return
		}
	}
}

// Records calls yield for each sound record of a name: packages, packages.conda, then v3, each in document order, without
// those that the document lists as removed. Entry.Raw aliases the document. A defect that concerns one record is given to
// problem, which may be nil to pass over it. It reports what yield or problem returned, or nil.
func (s *Sparse) Records(name string, problem func(*Error) error, yield func(Entry) error) error {
	i, _ := slices.BinarySearchFunc(s.runs, name, func(r sparseRun, name string) int { return strings.Compare(r.name, name) })
	var check checker
	for ; i < len(s.runs) && s.runs[i].name == name; i++ {
		run := s.runs[i]
		for at := run.start; at < run.end; {
			stop := skipString(s.data, at, false)
			key, _ := unquote(s.data[at:stop])
			start := skipSpace(s.data, skipSpace(s.data, stop)+1) // behind the colon
			end := skipRecord(s.data, start)
			raw := s.data[start:end]
			if at = skipSpace(s.data, end); at < run.end {
				at = skipSpace(s.data, at+1) // behind the comma
			}
			if s.removed[run.bucket.Filename(key)] {
				continue
			}
			if path, msg := judgeSparse(&check, run.bucket, key, raw); msg != "" {
				if problem == nil {
					continue
				}
				if err := problem(&Error{Path: run.bucket.path(key) + path, Offset: int64(start), Msg: msg}); err != nil {
					return err
				}
				continue
			}
			if err := yield(Entry{Bucket: run.bucket, Key: key, Raw: raw}); err != nil {
				return err
			}
		}
	}
	return nil
}

// judgeSparse says what is wrong with a record, as Read would: only the syntax is still unknown.
func judgeSparse(check *checker, b Bucket, key string, raw []byte) (path, msg string) {
	if msg := checkFilename(b, key); msg != "" {
		return "", msg
	}
	if !jsontext.Value(raw).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return "", "record is not JSON"
	}
	path, msg, _ = check.record(raw, b.Extension() != "" && b != V3Whl)
	return path, msg
}

func (s *Sparse) null(at int) bool { return bytes.HasPrefix(s.data[at:], []byte("null")) }

// topLevel takes in what stands beside the records.
func (s *Sparse) topLevel(key string, raw []byte) error {
	if !jsontext.Value(raw).IsValid(jsontext.AllowDuplicateNames(true)) {
		return &Error{Path: pointer(key), Msg: "not JSON"}
	}
	switch key {
	case "info", "metadata":
		if isNull(raw) || key == "metadata" && s.seen["info"] {
			return nil
		}
		in, err := parseInfo(raw)
		if err != nil && key == "info" {
			return &Error{Path: pointer(key), Msg: err.Error(), Err: err}
		}
		s.Info = in
	case "repodata_version":
		s.Version, _ = parseVersion(raw)
	case "removed":
		for a := scanArray(raw); a.next(); {
			if name, ok := unquote(a.elem); ok {
				s.removed[name] = true
			}
		}
	}
	return nil
}

// bucket walks the records of a bucket and notes the rows of each name.
func (s *Sparse) bucket(bucket Bucket, start int) (int, error) {
	if s.null(start) {
		return start + len("null"), nil
	}
	first := len(s.runs)
	return s.object(start, func(key string, keyStart, start int) (int, error) {
		end := skipRecord(s.data, start)
		if end < 0 {
			return start, errBroken
		}
		s.records++
		name := nameOfKey(bucket, key)
		if n := len(s.runs); n > first && s.runs[n-1].name == name {
			s.runs[n-1].end = end
			return end, nil
		}
		s.runs = append(s.runs, sparseRun{name: strings.Clone(name), bucket: bucket, start: keyStart, end: end})
		return end, nil
	})
}

// nameOfKey is the package name that a file name begins with; of what is no file name, all of it.
func nameOfKey(b Bucket, key string) string {
	if !b.V3() {
		key = strings.TrimSuffix(key, b.Extension())
	}
	if i := strings.LastIndexByte(key, '-'); i > 0 {
		if j := strings.LastIndexByte(key[:i], '-'); j > 0 {
			return key[:j]
		}
	}
	return key
}

// object walks the members of the object at i. member gets each key, valid during the call only, the offsets of its quote
// and of its value, and returns where the value ends. object returns the offset behind the object, or of what is wrong.
func (s *Sparse) object(i int, member func(key string, keyStart, start int) (int, error)) (int, error) {
	b := s.data
	if i >= len(b) || b[i] != '{' {
		return i, errBroken
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		stop := skipString(b, i, false)
		if stop < 0 {
			return i, errBroken
		}
		key := aliased(b[i+1 : stop-1])
		if strings.IndexByte(key, '\\') >= 0 {
			var ok bool
			if key, ok = unquote(b[i:stop]); !ok {
				return i, errBroken
			}
		}
		colon := skipSpace(b, stop)
		if colon >= len(b) || b[colon] != ':' {
			return colon, errBroken
		}
		end, err := member(key, i, skipSpace(b, colon+1))
		if err != nil {
			return end, err
		}
		i = skipSpace(b, end)
		switch {
		case i < len(b) && b[i] == '}':
			return i + 1, nil
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		default:
			return i, errBroken
		}
	}
}

// skipRecord returns the index after the object at i, or -1. Nearly every record holds no object and no backslash: then
// it ends at the next brace, unless that brace stands in a string. Vector instructions find both.
func skipRecord(b []byte, i int) int {
	if i >= len(b) || b[i] != '{' {
		return skipValue(b, i, false)
	}
	n := bytes.IndexByte(b[i+1:], '}')
	if n < 0 {
		return -1
	}
	inside := b[i+1 : i+1+n]
	if bytes.IndexByte(inside, '{') < 0 && bytes.IndexByte(inside, '\\') < 0 && bytes.Count(inside, quote)%2 == 0 {
		return i + n + 2
	}
	return skipValue(b, i, false)
}

var quote = []byte{'"'}

// aliased is a string over bytes that nobody changes.
func aliased(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// CheckRecord says what is wrong with a record and its key, as Read and Sparse.Records would; nil if nothing is. Raw may be
// any bytes. The error is an *Error.
func CheckRecord(b Bucket, key string, raw []byte) error {
	var check checker
	if path, msg := judgeSparse(&check, b, key, raw); msg != "" {
		return &Error{Path: b.path(key) + path, Msg: msg}
	}
	return nil
}

// NameOfKey is the package name that the key of a bucket begins with; of what is no file name, all of it.
func NameOfKey(b Bucket, key string) string { return nameOfKey(b, key) }

// ParseInfo reads the "info" object of a document. Raw may be any bytes; null is no info.
func ParseInfo(raw []byte) (Info, error) {
	if !jsontext.Value(raw).IsValid(jsontext.AllowDuplicateNames(true)) {
		return Info{}, &Error{Path: "/info", Msg: "not JSON"}
	}
	if isNull(raw) {
		return Info{}, nil
	}
	in, err := parseInfo(raw)
	if err != nil {
		return Info{}, &Error{Path: "/info", Msg: err.Error(), Err: err}
	}
	return in, nil
}
