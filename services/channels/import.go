package channels

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// An import is an upload of packages that were published elsewhere before: from a directory, or from another server. It
// differs in two ways. What the other place said of a package may be kept: its record, which patches may have changed, and
// when it was first listed. And a package that is refused does not stop its neighbours, for nobody can mend it.

const (
	// importParallel is how many archives of one batch are read at the same time.
	importParallel = 4
	// importAttempts bounds how often a batch is looked through again because somebody else published one of its files.
	importAttempts = 8
)

// ReasonRecord is the reason of a refused record: it does not speak of the package that it came with.
const ReasonRecord = "RECORD_MISMATCH"

// ImportFiles publishes packages that were published elsewhere before.
func (s *Service) ImportFiles(ctx context.Context, req *channelsv1.ImportFilesRequest) (*channelsv1.ImportFilesResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	if err := hostedOnly(ch); err != nil {
		return nil, err
	}
	if n := len(req.GetFiles()); n == 0 || n > maxUploadFiles {
		return nil, fault.Field("files", "a request imports 1 to %d files", maxUploadFiles)
	}
	caller := authn.FromContext(ctx)
	mayOverwrite := s.roles.Allow(ctx, caller, authz.ChannelOverwrite, ch.resource())
	if req.GetForce() && mayOverwrite != nil {
		return nil, mayOverwrite
	}
	mayName, err := s.elevated(ctx, caller)
	if err != nil {
		return nil, err
	}
	holds, err := claimsOf(caller)
	if err != nil {
		return nil, err
	}
	b := &importBatch{files: req.GetFiles(), force: req.GetForce(), results: make([]*channelsv1.ImportResult, len(req.GetFiles())), inspected: make([]inspected, len(req.GetFiles()))}
	if err := b.inspect(ctx, s, caller, mayOverwrite == nil, mayName); err != nil {
		return nil, err
	}
	b.refuseTwins()
	out := &channelsv1.ImportFilesResponse{Revision: ch.Head, Results: b.results}
	for attempt := 1; ; attempt++ {
		u := &upload{force: b.force, caller: caller, holds: holds}
		if u.files, err = b.pending(ctx, s, ch); err != nil {
			return nil, err
		}
		if len(u.files) == 0 {
			return out, nil
		}
		err := s.uploads.submit(ctx, ch.ID, u)
		if err == nil {
			b.added()
			out.Revision = u.out.channel.Head
			return out, nil
		}
		var f *fault.Error
		if !errors.As(err, &f) || !strings.HasPrefix(f.Reason, ReasonDuplicate) || attempt == importAttempts {
			return nil, err
		}
	}
}

// importBatch is an import on its way. A file whose result is set is done with.
type importBatch struct {
	files     []*channelsv1.ImportedFile
	force     bool
	inspected []inspected
	results   []*channelsv1.ImportResult
}

// inspect opens all archives. It fails only for what is not an archive's own fault.
func (b *importBatch) inspect(ctx context.Context, s *Service, caller authn.Caller, mayDate, mayName bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(importParallel)
	for i, f := range b.files {
		g.Go(func() error {
			uploader := caller.Actor()
			if mayName && f.GetUploader() != "" {
				uploader = boundedText(f.GetUploader())
			}
			in, err := s.inspect(ctx, f.GetFile(), uploader)
			if err == nil {
				err = s.keepSayings(&in, f, mayDate)
			}
			b.inspected[i] = in
			if fault.Is(err, fault.Invalid) {
				b.refuse(i, err)
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// keepSayings takes over what the other place said of a package, as far as the package bears it out.
func (s *Service) keepSayings(in *inspected, f *channelsv1.ImportedFile, mayDate bool) error {
	file := &in.file
	if f.GetSubdir() != "" && f.GetSubdir() != file.arch {
		return fault.Field("subdir", "it was found in %s, and says that it belongs into %s", shown(f.GetSubdir()), file.arch).WithReason(ReasonRecord)
	}
	listed := time.Time{}
	if t := f.GetCreateTime(); t != nil && t.CheckValid() == nil {
		listed = t.AsTime()
	}
	if len(f.GetRecord()) > 0 {
		r, record, err := importedRecord(f.GetRecord(), file)
		if err != nil {
			return err
		}
		file.record = record
		if listed.IsZero() && r.IndexedTimestamp > 0 {
			listed = time.UnixMilli(r.IndexedTimestamp)
		}
	}
	// A cool-down of readers goes by this time (CEP 47): nobody who could not replace the file may set it, nor into the future.
	if now := s.now(); mayDate && !listed.IsZero() && listed.Before(now) && listed.Unix() > 0 {
		file.created = listed.UTC().Truncate(time.Microsecond)
	}
	return nil
}

// importedRecord checks a record that came with a package, and gives it the package's digests and size.
func importedRecord(raw []byte, file *plannedFile) (r repodata.Record, record []byte, err error) {
	refuse := func(format string, args ...any) (repodata.Record, []byte, error) {
		return r, nil, fault.Field("record", "its record "+format, args...).WithReason(ReasonRecord)
	}
	if len(raw) > maxImportedRecord {
		return refuse("has more than %d bytes", maxImportedRecord)
	}
	facts := repodata.FileFacts{Size: file.size, MD5: [16]byte(file.md5), SHA256: [32]byte(file.digest), Subdir: file.arch}
	if record, err = repodata.HostedRecord(raw, facts); err != nil { // checks the JSON, too, which ParseRecord does not
		return refuse("cannot be read: %w", err)
	}
	if r, err = repodata.ParseRecord(raw); err != nil {
		return refuse("cannot be read: %w", err)
	}
	for _, c := range []struct{ name, says, is string }{
		{"sha256", strings.ToLower(r.SHA256), hex.EncodeToString(file.digest)},
		{"md5", strings.ToLower(r.MD5), hex.EncodeToString(file.md5)},
		{"subdir", r.Subdir, file.arch},
	} {
		if c.says != "" && c.says != c.is {
			return refuse("says that the %s is %s, it is %s", c.name, shown(c.says), c.is)
		}
	}
	switch {
	case r.Size != 0 && r.Size != uint64(file.size):
		return refuse("says that it has %d bytes, it has %d", r.Size, file.size)
	case r.Name != file.name || r.Version != file.version || r.Build != file.build:
		return refuse("is that of %s %s %s", shown(r.Name), shown(r.Version), shown(r.Build))
	case r.BuildNumber != uint64(file.buildNumber):
		return refuse("has the build number %d, the package has %d", r.BuildNumber, file.buildNumber)
	}
	return r, record, nil
}

// maxImportedRecord bounds a record; the largest ones of public channels have some 100 KiB.
const maxImportedRecord = 4 << 20

// refuseTwins leaves one of the files of a batch that claim the same place.
func (b *importBatch) refuseTwins() {
	first := make(map[string]bool)
	for i, in := range b.inspected {
		if b.results[i] != nil {
			continue
		}
		if first[in.file.path] {
			b.refuse(i, duplicate(in.file.path, false))
			continue
		}
		first[in.file.path] = true
	}
}

// pending returns the files that are to be published, by what the channel lists now, and settles those that are not.
func (b *importBatch) pending(ctx context.Context, s *Service, ch *channelRow) (files []inspected, err error) {
	var paths []string
	for i, in := range b.inspected {
		if b.results[i] == nil {
			paths = append(paths, in.file.path)
		}
	}
	live, err := filesAt(ctx, s.pool, ch.ID, paths)
	if err != nil {
		return nil, err
	}
	for i, in := range b.inspected {
		if b.results[i] != nil {
			continue
		}
		old := live[in.file.path]
		same := old != nil && old.Digest != nil && bytes.Equal(old.Digest[:], in.file.digest)
		switch {
		case same && (!b.force || bytes.Equal(old.Record, in.file.record)):
			b.results[i] = b.result(i, channelsv1.ImportResult_STATE_PRESENT)
		case old != nil && !b.force:
			b.refuse(i, duplicate(in.file.path, false))
		default:
			files = append(files, in)
		}
	}
	return files, nil
}

// added settles the files that were published.
func (b *importBatch) added() {
	for i := range b.results {
		if b.results[i] == nil {
			b.results[i] = b.result(i, channelsv1.ImportResult_STATE_ADDED)
		}
	}
}

func (b *importBatch) result(i int, state channelsv1.ImportResult_State) *channelsv1.ImportResult {
	f := b.files[i]
	r := &channelsv1.ImportResult{Filename: f.GetFile().GetFilename(), Path: b.inspected[i].file.path, State: state, Sha256: hex.EncodeToString(f.GetFile().GetSha256())}
	if r.Path == "" && dist.CheckSubdir(f.GetSubdir()) == nil {
		r.Path = f.GetSubdir() + "/" + shown(f.GetFile().GetFilename())
	}
	return r
}

func (b *importBatch) refuse(i int, err error) {
	r := b.result(i, channelsv1.ImportResult_STATE_REFUSED)
	r.Error = err.Error()
	var f *fault.Error
	if errors.As(err, &f) {
		r.Reason, r.Error = f.Reason, f.Message
	}
	b.results[i] = r
}
