package channels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// maxUploadFiles is how many files one request may publish.
	maxUploadFiles = 1000
	// maxClockSkew is how far in the future a package may say it was built. CEP 47: an artifact from the future would
	// pass every cool-down of its readers' once its time has come.
	maxClockSkew = 24 * time.Hour
)

// inspected is an upload that was opened and found to be what it says.
type inspected struct {
	file  plannedFile
	text  packageText
	facts []byte // JSON for channeldata.json; nil for none
}

// parseFilename splits a package's file name, which a client gave.
func parseFilename(filename string) (dist.Dist, error) {
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return d, fault.Field("filename", "package file name has wrong format %s", shown(filename)).WithReason("FILENAME_INVALID")
	}
	return d, nil
}

// shown makes a stranger's file name short enough for a message.
func shown(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > dist.MaxFilename {
		s = strings.ToValidUTF8(s[:dist.MaxFilename], "") + "…"
	}
	return s
}

// inspect opens a stored upload, checks that it is the package its name says, and makes its record.
func (s *Service) inspect(ctx context.Context, f *channelsv1.StagedFile, uploader string) (inspected, error) {
	var in inspected
	d, err := parseFilename(f.GetFilename())
	if err != nil {
		return in, err
	}
	if len(f.GetSha256()) != len(blob.Digest{}) {
		return in, fault.Field("sha256", "a SHA-256 has %d bytes", len(blob.Digest{}))
	}
	if len(f.GetMd5()) != len(blob.MD5{}) {
		return in, fault.Field("md5", "an MD5 has %d bytes", len(blob.MD5{}))
	}
	b, err := s.blobs.Open(ctx, blob.Digest(f.GetSha256()))
	if err != nil {
		return in, fmt.Errorf("open the upload %s: %w", f.GetFilename(), err)
	}
	defer b.Close()
	if f.GetSize() != b.Size() {
		return in, fault.Field("size", "%s has %d bytes, not %d", f.GetFilename(), b.Size(), f.GetSize())
	}
	opts := []archive.Option{archive.KeepPaths()}
	most := s.cfg.FullInspect
	if d.Format == dist.TarBz2 { // bzip2 opens about thirty times slower
		most /= 16
	}
	if b.Size() <= most {
		opts = append(opts, archive.Full())
	}
	info, err := archive.Inspect(ctx, b, b.Size(), f.GetFilename(), s.cfg.Archive, opts...)
	if err != nil {
		return in, archiveFault(f.GetFilename(), err)
	}
	if err := s.checkIndex(f.GetFilename(), info); err != nil {
		return in, err
	}
	facts := repodata.FileFacts{Size: b.Size(), MD5: [16]byte(f.GetMd5()), SHA256: [32]byte(f.GetSha256()), TimeModified: s.now().Unix()}
	if facts.Subdir, err = repodata.IndexSubdir(info.IndexJSON); err == nil {
		err = dist.CheckSubdir(facts.Subdir)
	}
	if err != nil {
		return in, fault.Field("filename", "%s: %w", shown(f.GetFilename()), err).WithReason("PACKAGE_INVALID")
	}
	record, err := repodata.HostedRecord(info.IndexJSON, facts)
	if err != nil {
		return in, fault.Field("filename", "%s: %w", shown(f.GetFilename()), err).WithReason("PACKAGE_INVALID")
	}
	in.file = plannedFile{
		path: facts.Subdir + "/" + f.GetFilename(), digest: f.GetSha256(), md5: f.GetMd5(), size: b.Size(),
		name: d.Name, version: d.Version, build: d.Build, buildNumber: info.Index.BuildNumber, arch: facts.Subdir,
		record: record, runExports: runExportsOf(info), uploader: uploader,
	}
	in.text, in.facts = textOf(info.About), s.factsOf(info)
	return in, nil
}

// archiveFault gives a refusal of the archive reader its kind; other errors are ours.
func archiveFault(filename string, err error) error {
	var e *archive.Error
	if !errors.As(err, &e) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("read the upload %s: %w", filename, err)
	}
	var own *fault.Error
	if errors.As(err, &own) { // blob storage failed under the reader
		return err
	}
	switch e.Field {
	case "name", "version", "build", "stem":
		return fault.Field("filename", "package file name and info files do not match %s", shown(filename)).WithReason("FILENAME_MISMATCH")
	}
	return fault.Field("filename", "%s: %s", shown(filename), e.Error()).WithReason("PACKAGE_INVALID")
}

func (s *Service) checkIndex(filename string, info *archive.Info) error {
	if info.Index.SchemaVersion >= 3 {
		return fault.Field("filename", "%s has schema_version %d: packages of version 3 and later are not taken by this channel",
			filename, info.Index.SchemaVersion).WithReason("SCHEMA_VERSION")
	}
	if built := time.UnixMilli(int64(info.Index.Timestamp)); built.After(s.now().Add(maxClockSkew)) {
		return fault.Field("filename", "%s says that it was built in the future, on %s", filename, built.UTC().Format(time.DateOnly)).WithReason("TIMESTAMP_IN_FUTURE")
	}
	return nil
}

// runExportsOf returns what the shard says of a package's run exports (CEP 21): of a package that was read, {} when it
// has none, so that no client opens it to see.
func runExportsOf(info *archive.Info) []byte {
	if info.RunExportsJSON == nil {
		return []byte("{}")
	}
	compact, err := repodata.Compact(info.RunExportsJSON)
	if err != nil || len(compact) == 0 || compact[0] != '{' { // a bare list means weak
		if err == nil && len(compact) > 0 && compact[0] == '[' {
			return bytes.Join([][]byte{[]byte(`{"weak":`), compact, []byte(`}`)}, nil)
		}
		return nil
	}
	return compact
}

// maxText bounds what a package says about itself in lists.
const maxText = 16 << 10

func textOf(a *archive.About) packageText {
	t := packageText{summary: "n/a", description: "n/a"} // what Quetz says of packages that say nothing
	if a == nil {
		return t
	}
	set := func(to *string, from string) {
		if from = boundedText(from); from != "" {
			*to = from
		}
	}
	set(&t.summary, string(a.Summary))
	set(&t.description, string(a.Description))
	set(&t.url, string(a.Home))
	return t
}

// upload is a request that waits to be published.
type upload struct {
	files  []inspected
	force  bool
	caller authn.Caller
	holds  []claim // of the job that uploads; none outside jobs
	come   func()  // says that it is no longer on its way; nil if nobody was told that it is

	// requestID and span are of the request, which is not the one that the group runs for.
	requestID string
	span      trace.SpanContext

	done  chan struct{}
	out   *published
	found map[string]*fileRow
	err   error
}

// newPackages are the package names that the upload brought into its channel.
func (u *upload) newPackages() (names []string) {
	for _, in := range u.files {
		if slices.Contains(u.out.fresh, in.file.name) && !slices.Contains(names, in.file.name) {
			names = append(names, in.file.name)
		}
	}
	return names
}

// decide sorts a group of uploads into those that can be published together, those that are refused, and those that
// must wait for the next revision because they replace what this one brings. It sets the refused ones' errors. left is how
// much may still come into the namespace; negative: no limit.
func decide(c *channelRow, left int64, live map[string]*fileRow, group []*upload) (accepted, later []*upload) {
	size := c.Size
	staged := make(map[string][]byte) // path → digest
next:
	for _, u := range group {
		u.err = nil
		growth := int64(0)
		own := make(map[string]bool, len(u.files))
		for _, in := range u.files {
			f := in.file
			if own[f.path] {
				u.err = duplicate(f.path, false)
				continue next
			}
			own[f.path] = true
			growth += f.size
			before, pending := staged[f.path]
			switch old := live[f.path]; {
			case pending && u.force:
				later = append(later, u)
				continue next
			case pending:
				u.err = duplicate(f.path, bytes.Equal(before, f.digest))
				continue next
			case old != nil && !u.force:
				u.err = duplicate(f.path, old.Digest != nil && bytes.Equal(old.Digest[:], f.digest))
				continue next
			case old != nil:
				growth -= max(old.Size, 0)
			}
		}
		if c.SizeLimit != nil && growth > 0 && size+growth > *c.SizeLimit {
			u.err = overQuota(c)
			continue
		}
		if left >= 0 && growth > left {
			u.err = overTenant(c.Namespace)
			continue
		}
		size += growth
		if left >= 0 {
			left = max(left-growth, 0)
		}
		for path := range own {
			staged[path] = nil
		}
		for _, in := range u.files {
			staged[in.file.path] = in.file.digest
		}
		accepted = append(accepted, u)
	}
	return accepted, later
}

// Reasons of a Conflict with a file that is there. With equal bytes nothing is lost: callers may call that a success.
const (
	ReasonDuplicate      = "DUPLICATE"
	ReasonDuplicateEqual = "DUPLICATE_EQUAL"
)

func duplicate(path string, equal bool) error {
	f := fault.New(fault.Conflict, "Duplicate").WithReason(ReasonDuplicate)
	if equal {
		f.Reason = ReasonDuplicateEqual
	}
	_, filename, _ := strings.Cut(path, "/")
	f.Violations = []fault.Violation{{Field: "filename", Description: filename}}
	return f
}
