package channels

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// Validation reads every stored package of a channel and compares it with its digest. What is missing or rotten is asked
// for at the upstream and at the registered mirrors, and put back if they have the very bytes. Files that nobody has any
// more leave the channel in one revision: nothing is listed that cannot be had. Their rotten bytes are quarantined.

const (
	validatePage = 500
	// maxNamed is how many files a result names; it counts them all.
	maxNamed = 1000
	// repairTimeout bounds one download.
	repairTimeout = 30 * time.Minute
)

// validated is the result of KindValidate.
type validated struct {
	Checked  int64        `json:"checked"`
	Bytes    int64        `json:"bytes"`
	Repaired []namedFile  `json:"repaired"`
	Removed  []namedFile  `json:"removed"`
	Revision int64        `json:"revision"`
	Counts   validateSums `json:"counts"`
}

type validateSums struct {
	Missing  int64 `json:"missing"`
	Corrupt  int64 `json:"corrupt"`
	Repaired int64 `json:"repaired"`
	Removed  int64 `json:"removed"`
}

// namedFile is a file with what was wrong with it.
type namedFile struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// validateJob is the worker of KindValidate.
func (s *Service) validateJob(ctx context.Context, job *jobs.Job[*channelsv1.ActionJobArgs]) (any, error) {
	ch, caller, err := s.actionTarget(ctx, job, authz.ChannelValidate)
	if err != nil {
		return nil, err
	}
	items := itemsSpec{all: true}
	if spec := job.Args.GetItemsSpec(); spec != "" {
		if items, err = parseItems(spec); err != nil {
			return nil, err
		}
	}
	sources, err := s.sourcesOf(ctx, ch)
	if err != nil {
		return nil, err
	}
	out := validated{Repaired: []namedFile{}, Removed: []namedFile{}, Revision: ch.Head}
	lost := map[string]blob.Digest{}
	for after := ""; ; {
		page, err := listFiles(ctx, s.pool, fileFilter{channel: ch.ID}, after, 0, validatePage)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			after = f.Path
			if f.Digest == nil || !items.match(f.Name, f.Version) {
				continue
			}
			problem, err := s.check(ctx, f)
			if err != nil {
				return nil, err
			}
			out.Checked++
			out.Bytes += max(f.Size, 0)
			job.Progress(out.Checked, ch.FileCount, out.Bytes, f.Path)
			if problem == "" {
				continue
			}
			job.Log(slog.LevelWarn, f.Path+": "+problem)
			out.count(problem)
			if from := s.repair(ctx, f, sources); from != "" {
				out.Counts.Repaired++
				out.Repaired = named(out.Repaired, f.Path, problem+"; fetched from "+from)
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			lost[f.Path] = *f.Digest
			out.Removed = named(out.Removed, f.Path, problem)
		}
		if len(page) < validatePage {
			break
		}
	}
	out.Counts.Removed = int64(len(lost))
	if len(lost) == 0 {
		return out, nil
	}
	done, err := s.publish(ctx, publication{
		channel: ch.ID, cause: causeValidate, author: caller.Actor(), holds: []claim{{job.ID, job.Claim}},
		stage: func(ctx context.Context, st *staging) error {
			live, err := filesAt(ctx, st.tx, ch.ID, namesIn(lost))
			if err != nil {
				return err
			}
			for _, path := range namesIn(lost) {
				if f := live[path]; f != nil && f.Digest != nil && *f.Digest == lost[path] { // else somebody replaced it meanwhile
					if err := st.removePath(ctx, path); err != nil {
						return err
					}
				}
			}
			return nil
		},
		moved: func(ctx context.Context, tx pgx.Tx, out *published) error {
			return s.record(ctx, tx, caller, "channel.validate", out.channel, map[string]any{"removed": out.Removed, "revision": out.channel.Head})
		},
	})
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	if err != nil {
		return nil, err
	}
	out.Revision = done.channel.Head
	return out, nil
}

func (v *validated) count(problem string) {
	if problem == problemMissing {
		v.Counts.Missing++
	} else {
		v.Counts.Corrupt++
	}
}

func named(list []namedFile, path, reason string) []namedFile {
	if len(list) == maxNamed {
		return list
	}
	return append(list, namedFile{path, reason})
}

const (
	problemMissing = "its bytes are not stored"
	problemSize    = "it has another size than is listed"
	problemDigest  = "its bytes are not those of its digest"
)

// check reads a stored file to its end. It returns what is wrong with it; an error means that this could not be found out.
func (s *Service) check(ctx context.Context, f *fileRow) (problem string, err error) {
	b, err := s.blobs.Open(ctx, *f.Digest)
	if fault.Is(err, fault.NotFound) {
		return problemMissing, nil
	}
	if err != nil {
		return "", fmt.Errorf("open %s: %w", f.Path, err)
	}
	defer b.Close()
	if f.Size >= 0 && b.Size() != f.Size {
		return problemSize, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, b); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path, err)
	}
	if blob.Digest(h.Sum(nil)) != *f.Digest {
		return problemDigest, nil
	}
	return "", nil
}

// Sources open files again that were had before; *sync.Remotes are some.
type Sources interface {
	// Upstream opens a file at a channel's upstream, as its remote is set: with its credentials, for one. The url is where
	// the upstream's index has it, empty for its path; size bounds it in bytes, if it is not 0.
	Upstream(ctx context.Context, ch *channelsv1.Channel, path, url string, size int64) (io.ReadCloser, error)
	// Elsewhere opens a file below a URL that somebody registered, without credentials.
	Elsewhere(ctx context.Context, base, path string, size int64) (io.ReadCloser, error)
}

// source is a place where a channel's files may be had again.
type source struct {
	base string
	open func(ctx context.Context, f *fileRow) (io.ReadCloser, error)
}

// sourcesOf lists where a channel's files may be had again: its upstream, then its registered mirrors.
func (s *Service) sourcesOf(ctx context.Context, ch *channelRow) (out []source, err error) {
	if s.sources == nil {
		return nil, nil
	}
	shown, err := s.toProto(ch)
	if err != nil {
		return nil, err
	}
	if url := shown.GetMirror().GetUrl(); url != "" {
		out = append(out, source{url, func(ctx context.Context, f *fileRow) (io.ReadCloser, error) {
			return s.sources.Upstream(ctx, shown, f.Path, f.URL, f.Size)
		}})
	}
	mirrors, err := mirrorsOf(ctx, s.pool, ch.ID)
	for _, m := range mirrors {
		out = append(out, source{m.URL, func(ctx context.Context, f *fileRow) (io.ReadCloser, error) {
			return s.sources.Elsewhere(ctx, m.URL, f.Path, f.Size)
		}})
	}
	return out, err
}

// repair asks the sources for a file's bytes and returns who had them; empty if nobody. What was rotten is out of service
// afterwards in any case.
func (s *Service) repair(ctx context.Context, f *fileRow, sources []source) (from string) {
	if err := blob.Quarantine(ctx, s.blobs, *f.Digest); err != nil {
		s.log.ErrorContext(ctx, "a rotten file could not be quarantined", "path", f.Path, "digest", f.Digest, "error", err)
	}
	for _, src := range sources {
		err := s.fetchAgain(ctx, src, f)
		if err == nil {
			return src.base
		}
		s.log.InfoContext(ctx, "a file could not be repaired from here", "path", f.Path, "source", src.base, "error", err)
	}
	return ""
}

func (s *Service) fetchAgain(ctx context.Context, src source, f *fileRow) error {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	body, err := src.open(ctx, f)
	if err != nil {
		return err
	}
	defer body.Close()
	put := blob.PutOptions{Expect: f.Digest, Replace: true}
	if f.Size >= 0 {
		put.ExpectSize, put.MaxSize = &f.Size, max(f.Size, 1)
	}
	_, err = s.blobs.Put(ctx, body, put)
	return err
}
