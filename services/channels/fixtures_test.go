package channels_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/plan"
)

// spec describes a package to be made.
type spec struct {
	name, version, build string
	number               int64
	subdir               string
	format               dist.Format
	content              string
	about                *archive.About
	runExports           *archive.RunExports
	noarch               archive.Noarch
	schema               int
	timestamp            int64
}

func (s spec) defaults() spec {
	if s.version == "" {
		s.version = "1.0"
	}
	if s.build == "" {
		s.build = fmt.Sprintf("h0_%d", s.number)
	}
	if s.subdir == "" {
		s.subdir, s.noarch = "noarch", archive.NoarchGeneric
	}
	if s.format == 0 {
		s.format = dist.Conda
	}
	return s
}

func (s spec) filename() string {
	s = s.defaults()
	return dist.Dist{Name: s.name, Version: s.version, Build: s.build, Format: s.format}.Filename()
}

func (s spec) path() string { return s.defaults().subdir + "/" + s.filename() }

func (s spec) bytes(t testing.TB) []byte {
	t.Helper()
	s = s.defaults()
	var buf bytes.Buffer
	meta := archive.Meta{About: s.about, RunExports: s.runExports, Index: archive.Index{
		Name: s.name, Version: s.version, Build: s.build, BuildNumber: s.number, Subdir: s.subdir, Noarch: s.noarch,
		Depends: archive.StringList{"python >=3.9"}, SchemaVersion: s.schema, Timestamp: archive.Millis(s.timestamp),
	}}
	if _, err := archive.Create(context.Background(), &buf, s.format, meta, []archive.Input{{Path: "share/" + s.name, Data: []byte(s.content)}}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// document is a repodata.json.
type document struct {
	Info     map[string]any             `json:"info"`
	Packages map[string]json.RawMessage `json:"packages"`
	Conda    map[string]json.RawMessage `json:"packages.conda"`
	Removed  []string                   `json:"removed"`
	Version  int                        `json:"repodata_version"`
}

func (d document) filenames() (out []string) {
	for f := range d.Packages {
		out = append(out, f)
	}
	for f := range d.Conda {
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}

func (b *bundle) repodata(channel, subdir string) document {
	b.t.Helper()
	return parseDocument(b.t, b.read(channel, subdir+"/repodata.json"))
}

func parseDocument(t testing.TB, data []byte) (d document) {
	t.Helper()
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatalf("repodata.json: %v in %.80q", err, data)
	}
	return d
}

func unpack(t testing.TB, data []byte) []byte {
	t.Helper()
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *bundle) plan(h *channelsv1.PlanHeader, entries ...*channelsv1.PlanEntry) []byte {
	b.t.Helper()
	if h == nil {
		h = &channelsv1.PlanHeader{}
	}
	h.Format, h.Entries = "conda", int64(len(entries))
	slices.SortFunc(entries, func(x, y *channelsv1.PlanEntry) int { return bytes.Compare([]byte(x.Path), []byte(y.Path)) })
	info, err := plan.Put(context.Background(), b.blobs, h, func(add func(*channelsv1.PlanEntry) error) error {
		for _, e := range entries {
			if err := add(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return info.Digest[:]
}

// entry is a file of a plan with made-up bytes, which are not stored yet.
func entry(subdir, name, version, content string) (*channelsv1.PlanEntry, []byte) {
	data := []byte("bytes of " + name + version + content)
	d, m := blob.Sum(data), md5.Sum(data)
	return &channelsv1.PlanEntry{
		Path: fmt.Sprintf("%s/%s-%s-0.conda", subdir, name, version), Sha256: d[:], Md5: m[:], Size: int64(len(data)), Name: name,
		Version: version, Build: "0", Arch: subdir,
		Record: fmt.Appendf(nil, `{"name":%q,"version":%q,"build":"0","build_number":0,"sha256":%q,"size":%d}`, name, version, d.String(), len(data)),
	}, data
}
