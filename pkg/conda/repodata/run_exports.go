package repodata

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RunExportsWriter writes a subdir's run_exports.json (CEP 12):
//
//	{"info":{…},"packages":{"<file>":{"run_exports":{"weak":[…]}}},"packages.conda":{…}}
//
// A package that exports nothing is listed with {}, so that no client opens it to see. The rules of Writer hold: buckets
// in their order, names ascending, and the first error sticks.
type RunExportsWriter struct {
	w      *bufio.Writer
	bucket Bucket
	last   string
	any    bool
	n      int
	closed bool
	err    error
}

// NewRunExportsWriter writes to w.
func NewRunExportsWriter(w io.Writer, subdir string) *RunExportsWriter {
	wr := &RunExportsWriter{w: bufio.NewWriterSize(w, 64<<10), bucket: TarBz2}
	platform, arch := platformOf(subdir)
	wr.w.WriteString(`{"info":`)
	wr.w.Write(appendObject(nil, []Member{
		{"arch", appendQuoted(nil, arch)},
		{"platform", appendQuoted(nil, platform)},
		{"subdir", appendQuoted(nil, subdir)},
		{"version", []byte("0")},
	}))
	wr.w.WriteString(`,"packages":{`)
	return wr
}

// platformOf splits a subdir as conda's tools do; noarch is both.
func platformOf(subdir string) (platform, arch string) {
	platform, arch, ok := strings.Cut(subdir, "-")
	switch {
	case !ok:
		return subdir, subdir
	case arch == "64":
		arch = "x86_64"
	case arch == "32":
		arch = "x86"
	}
	return platform, arch
}

// Record appends a package's run exports: a JSON object, or a list, which means weak ones. nil is for a package of which
// nobody looked: it is left out, as {} would claim that it has none.
func (w *RunExportsWriter) Record(b Bucket, filename string, runExports []byte) error {
	if w.err == nil {
		w.err = w.record(b, filename, runExports)
	}
	return w.err
}

func (w *RunExportsWriter) record(b Bucket, filename string, runExports []byte) error {
	if b != TarBz2 && b != Conda || w.closed {
		return &Error{Path: b.path(filename), Msg: "record has no place in run_exports.json"}
	}
	if b.rank() < w.bucket.rank() {
		return &Error{Path: b.path(filename), Msg: "record comes after its bucket was closed"}
	}
	if isNull(runExports) {
		return nil
	}
	w.advance(b)
	if w.any && filename <= w.last {
		return &Error{Path: b.path(filename), Msg: "names are not ascending"}
	}
	value, err := NormalizeRunExports(runExports)
	if err != nil {
		return &Error{Path: b.path(filename), Msg: "run_exports: " + err.Error()}
	}
	if w.any {
		w.w.WriteByte(',')
	}
	w.last, w.any = filename, true
	w.n++
	w.w.Write(appendQuoted(nil, filename))
	w.w.WriteString(`:{"run_exports":`)
	w.w.Write(value)
	return w.w.WriteByte('}')
}

func (w *RunExportsWriter) advance(to Bucket) {
	if w.bucket == TarBz2 && to != TarBz2 {
		w.w.WriteString(`},"packages.conda":{`)
		w.bucket, w.any = Conda, false
	}
}

// Records is how many packages were listed.
func (w *RunExportsWriter) Records() int { return w.n }

// Close completes the document and flushes it. It does not close the underlying writer.
func (w *RunExportsWriter) Close() error {
	if w.err != nil || w.closed {
		return w.err
	}
	w.advance(Conda)
	w.closed = true
	w.w.WriteString("}}")
	w.err = w.w.Flush()
	return w.err
}

// NormalizeRunExports returns run exports as a compact JSON object: what old packages give as a list, or as one string,
// is weak (CEP 12).
func NormalizeRunExports(raw []byte) ([]byte, error) {
	v, err := Compact(raw)
	if err != nil {
		return nil, err
	}
	switch jsontext.Value(v).Kind() {
	case '{':
		return v, nil
	case '[':
		return bytes.Join([][]byte{[]byte(`{"weak":`), v, []byte(`}`)}, nil), nil
	case '"':
		return bytes.Join([][]byte{[]byte(`{"weak":[`), v, []byte(`]}`)}, nil), nil
	}
	return nil, &Error{Msg: "neither an object nor a list"}
}
