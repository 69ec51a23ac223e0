package channels

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Extras are the index files that few clients ask for. A subdir's are made of the same revision as its newest
// repodata.json, so that all of these agree, and switch together; channeldata.json is of the head. They are built with low
// priority, one at a time in a process.

// extrasLag is how long the extras of a subdir may stay behind while uploads come without pause. A job that finds the next
// build of repodata.json due leaves the work to the job that follows it, but not for longer than this.
const extrasLag = time.Minute

// gzipWithIndex is the size in bytes up to which a repodata.json is packed by gzip together with its build: a tenth of a
// second's work. That of a larger one is an extra.
const gzipWithIndex = 8 << 20

// pinnedLines are the lines of python that current_repodata.json has beside the newest, for those who ask for an older one.
var pinnedLines = map[string][]string{"python": {"3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"}}

// extrasPause is the least pause between two builds of the same extras, and extrasPausePerByte what each byte of the
// repodata.json adds to it, up to extrasLag: a second per megabyte, where a build takes some tenths of one. What is
// published after a rest has its extras at once; of a stream of publications every so many seconds, and after the last.
const (
	extrasPause        = 2 * time.Second
	extrasPausePerByte = time.Microsecond
	// extrasSettle is how long nothing must be built of a stream until its extras are, and extrasStream how long these wait
	// at most if they are not large.
	extrasSettle = 3 * time.Second
	extrasStream = 10 * time.Second
)

// enqueueExtras asks for the extras of a subdir and for the channel's. Requests that come before one that waits is due are
// answered by that.
func (s *Service) enqueueExtras(ctx context.Context, tx pg.DB, c *channelRow, subdir string, force bool) error {
	for _, sub := range []string{subdir, ""} {
		p := jobs.EnqueueParams{
			Kind: KindExtras, Namespace: c.Namespace, Resource: resourceName(c), Priority: jobs.Low,
			Args:        &channelsv1.ExtrasJobArgs{ChannelId: c.ID.String(), Subdir: sub, Force: force},
			Principal:   jobs.Principal{Name: authn.Service("channels").Name},
			CoalesceKey: c.ID.String() + "/" + sub,
		}
		if force {
			p.CoalesceKey += "!"
		} else {
			from, pause, now, err := s.extrasFrom(ctx, tx, c.ID, subdir, sub)
			if err != nil {
				return fmt.Errorf("enqueue %s: %w", KindExtras, err)
			}
			p.StartAt, p.JoinPending = from, true
			if from.After(now) { // a stream, it seems: they wait for its end, or not too long
				if quiet := now.Add(min(extrasSettle, 2*pause)); quiet.After(from) {
					p.StartAt = quiet
				}
				p.PutOff = max(pause, extrasStream)
			}
		}
		if _, err := s.jobs.Enqueue(ctx, tx, p); err != nil {
			return fmt.Errorf("enqueue %s: %w", KindExtras, err)
		}
	}
	return nil
}

// extrasFrom returns when the extras may be built next, after a build of a subdir's repodata.json, which is in the past if
// at once; the pause that is kept after others; and the time. sub is that subdir, or empty for the channel's.
func (s *Service) extrasFrom(ctx context.Context, db pg.DB, id uuid.UUID, subdir, sub string) (from time.Time, pause time.Duration, now time.Time, err error) {
	path := subdir + "/" + fileRunExports
	pause = s.cfg.extrasPause
	if sub == "" {
		// A new subdir is told of at once: mirrors ask for the subdirs that channeldata.json names, and for no others.
		if before, err := newestRendition(ctx, db, id, path, 0); err != nil || before == nil {
			return from, pause, now, err
		}
		path = fileChannelData
	}
	last, err := newestRendition(ctx, db, id, path, 0)
	if err != nil || last == nil {
		return from, pause, now, err
	}
	base, err := newestRendition(ctx, db, id, subdir+"/"+fileRepodata, 0)
	if err != nil {
		return from, pause, now, err
	}
	if base != nil {
		pause = max(pause, min(time.Duration(base.Size)*extrasPausePerByte, extrasLag))
	}
	// Whoever built the last ones may have a clock that is ahead; jobs are due by the database's.
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return from, pause, now, pg.Classify(err)
	}
	if last.CreatedAt.After(now) {
		return now.Add(pause), pause, now, nil
	}
	return last.CreatedAt.Add(pause), pause, now, nil
}

// extras is the worker of KindExtras.
func (s *Service) extras(ctx context.Context, job *jobs.Job[*channelsv1.ExtrasJobArgs]) (any, error) {
	id, err := uuid.Parse(job.Args.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is no UUID")
	}
	subdir, force := job.Args.GetSubdir(), job.Args.GetForce()
	var m built
	if subdir == "" {
		m, err = s.buildChannelData(ctx, id, force)
	} else {
		m, err = s.buildExtras(ctx, id, subdir, force)
	}
	if err == nil && m.files != nil {
		err = s.serve(ctx, job, id, m, func(tx pgx.Tx, ch *channelRow) error { return s.retireExtras(ctx, tx, ch, subdir) })
	}
	if err == nil && subdir == "" {
		err = s.serveCatalog(ctx, job, id)
	}
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err) // the channel was deleted meanwhile
	}
	return m.result(), err
}

// buildExtras builds a subdir's extras. It builds nothing if they are there already, if there is no repodata.json yet, or
// if the next one is due.
func (s *Service) buildExtras(ctx context.Context, id uuid.UUID, subdir string, force bool) (m built, err error) {
	var base *rendition
	var state subdirState
	forms := []form{bzip2Form}
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
		if _, err := channelByID(ctx, tx, id); err != nil {
			return err
		}
		due, err := s.extrasDue(ctx, tx, id, subdir, force, &base, &state)
		if err != nil || !due {
			base = nil
			return err
		}
		m.revision = base.Revision
		gz, err := newestRendition(ctx, tx, id, base.Path+gzipForm.suffix, 0)
		if err != nil {
			return err
		}
		if gz == nil || gz.Revision < base.Revision {
			forms = append(forms, gzipForm)
		}
		m.files, err = s.storeExtras(ctx, subdir+"/"+fileRunExports, extraForms, func(w io.Writer) error {
			return writeRunExports(ctx, tx, w, id, subdir, base.Revision)
		})
		return err
	})
	if err != nil || base == nil {
		return built{}, pg.Classify(err)
	}
	// The rest needs the document only: minutes of bzip2 must not keep a transaction open.
	packed, err := s.storeExtras(ctx, subdir+"/"+fileRepodata, forms, func(w io.Writer) error {
		doc, err := s.openStream(ctx, base.Digest)
		if err != nil {
			return err
		}
		defer doc.Close()
		_, err = io.Copy(w, doc)
		return err
	})
	if err != nil {
		return built{}, fmt.Errorf("pack %s: %w", base.Path, err)
	}
	info, err := subdirInfo(subdir, state)
	if err != nil {
		return built{}, err
	}
	current, err := s.storeExtras(ctx, subdir+"/"+fileCurrent, extraForms, func(out io.Writer) error {
		w := repodata.NewWriter(out, info)
		if err := repodata.WriteCurrent(w, s.entries(ctx, base.Digest), repodata.CurrentOptions{Pins: pinnedLines}); err != nil {
			return recordFault(subdir, fileCurrent, err)
		}
		m.records = int64(w.Records())
		return w.Close()
	})
	if err != nil {
		return built{}, fmt.Errorf("build %s of %s: %w", fileCurrent, subdir, err)
	}
	m.bytes = current[0].size
	m.files = append(append(m.files, packed...), current...)
	return m, nil
}

// extrasDue looks whether a subdir's extras are to be built, and of what.
func (s *Service) extrasDue(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, force bool, base **rendition, state *subdirState) (bool, error) {
	var changed int64
	err := tx.QueryRow(ctx, `SELECT revision, info FROM channels.conda_subdirs WHERE channel_id = $1 AND subdir = $2`, id, subdir).
		Scan(&changed, &state.info)
	if err != nil {
		return false, pg.Classify(err)
	}
	if *base, err = newestRendition(ctx, tx, id, subdir+"/"+fileRepodata, 0); err != nil || *base == nil {
		return false, err
	}
	have, err := newestRendition(ctx, tx, id, subdir+"/"+fileRunExports, 0)
	if err != nil || have == nil || force {
		return err == nil, err
	}
	if have.Revision >= (*base).Revision {
		return false, nil
	}
	return (*base).Revision >= changed || s.now().Sub(have.CreatedAt) > extrasLag, nil
}

func writeRunExports(ctx context.Context, tx pgx.Tx, out io.Writer, id uuid.UUID, subdir string, revision int64) error {
	w := repodata.NewRunExportsWriter(out, subdir)
	err := eachRecord(ctx, tx, id, subdir, revision, true, func(r contentRow) error {
		exports := r.runExports
		if exports == nil {
			exports = repodata.Key(r.record, "run_exports")
		}
		return w.Record(r.bucket, r.filename, exports)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// openStream opens a stored document for reading from front to back.
func (s *Service) openStream(ctx context.Context, d blob.Digest) (io.ReadCloser, error) {
	b, err := s.blobs.Open(ctx, d)
	if fault.Is(err, fault.NotFound) { // it is named: not a reason to think that the channel is gone
		err = fault.New(fault.Unavailable, "the document %s is missing in storage", d)
	}
	return b, err
}

// entries reads the records of a document that was written here; each range reads it anew.
func (s *Service) entries(ctx context.Context, d blob.Digest) iter.Seq2[repodata.Entry, error] {
	return func(yield func(repodata.Entry, error) bool) {
		doc, err := s.openStream(ctx, d)
		if err != nil {
			yield(repodata.Entry{}, err)
			return
		}
		defer doc.Close()
		for e, err := range repodata.Records(doc, repodata.ReadOptions{Trusted: true}) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// buildChannelData builds channeldata.json of the head, if that is newer than the last one.
func (s *Service) buildChannelData(ctx context.Context, id uuid.UUID, force bool) (m built, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	var data repodata.ChannelData
	due := false
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
		ch, err := channelByID(ctx, tx, id)
		if err != nil {
			return err
		}
		m.revision = ch.Head
		have, err := newestRendition(ctx, tx, id, fileChannelData, 0)
		if err != nil {
			return err
		}
		if have != nil && !force {
			if have.Revision >= ch.Head {
				return nil
			}
			if s.now().Sub(have.CreatedAt) < extrasLag {
				if pending, err := indexDue(ctx, tx, id); err != nil || pending {
					return err
				}
			}
		}
		due = true
		return collectChannelData(ctx, tx, id, &data)
	})
	if err != nil || !due {
		return built{}, pg.Classify(err)
	}
	m.records = int64(data.Packages())
	m.files, err = s.storeExtras(ctx, fileChannelData, extraForms, data.Write)
	if err != nil {
		return built{}, err
	}
	m.bytes = m.files[0].size
	return m, nil
}

// indexDue reports whether a subdir has changed since its repodata.json was built: a build is under way, and asks for the
// extras again when it is done.
func indexDue(ctx context.Context, tx pgx.Tx, id uuid.UUID) (due bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT 1 FROM channels.conda_subdirs s WHERE s.channel_id = $1 AND s.revision > coalesce((
			SELECT max(r.revision) FROM channels.renditions r WHERE r.channel_id = $1 AND r.path = s.subdir || '/`+fileRepodata+`'), 0))`, id).Scan(&due)
	return due, pg.Classify(err)
}

func collectChannelData(ctx context.Context, tx pgx.Tx, id uuid.UUID, data *repodata.ChannelData) error {
	subdirs, err := subdirsOf(ctx, tx, id)
	if err != nil {
		return err
	}
	for subdir := range subdirs {
		data.AddSubdir(subdir)
	}
	rows, err := tx.Query(ctx, `
		SELECT f.name, f.version, f.build_number, f.arch, f.record, f.run_exports, a.facts
		FROM channels.files f LEFT JOIN channels.conda_facts a ON a.channel_id = f.channel_id AND a.digest = f.digest
		WHERE f.channel_id = $1 AND f.removed_rev IS NULL`, id)
	if err != nil {
		return pg.Classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var f repodata.ChannelFile
		var number int64
		var record, facts pgtype.DriverBytes
		if err := rows.Scan(&f.Name, &f.Version, &number, &f.Subdir, &record, &f.RunExports, &facts); err != nil {
			return pg.Classify(err)
		}
		f.BuildNumber = uint64(max(number, 0))
		if r, err := repodata.ParseRecord(record); err == nil { // else there is nothing to say about it
			f.Timestamp, f.License = r.Timestamp, r.License
			if f.RunExports == nil && r.RunExports != nil {
				f.RunExports = append([]byte(nil), r.RunExports...)
			}
		}
		f.Facts = parseFacts(facts)
		data.Add(f)
	}
	return pg.Classify(rows.Err())
}
