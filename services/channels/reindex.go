package channels

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Reindex lists again what storage has of a channel and the database does not know. It asks no upstream. It looks in two
// places: the catalogs among the stored blobs (see catalog.go), and the directory Config.PackageStore.
//
// A catalog of the channel's own id is taken as it is. One of another id is of a channel that had the name before: of
// one whose row was lost with the database, but just as well of one that its owners deleted, and what that held is not
// for everybody who takes the name. So such a catalog needs a caller who may look after every channel.

// reindexed is the result of KindReindex.
type reindexed struct {
	Revision  int64       `json:"revision"`
	Added     int64       `json:"added"`
	Unchanged int64       `json:"unchanged"`
	Missing   int64       `json:"missing"` // listed before, but their bytes are not stored
	Failed    []namedFile `json:"failed"`
	Warnings  []string    `json:"warnings"`
}

// reindexing is a run.
type reindexing struct {
	s       *Service
	job     *jobs.Job[*channelsv1.ActionJobArgs]
	ch      *channelRow
	caller  authn.Caller
	out     reindexed
	files   []inspected
	planned map[string]bool // by path
}

// reindexJob is the worker of KindReindex.
func (s *Service) reindexJob(ctx context.Context, job *jobs.Job[*channelsv1.ActionJobArgs]) (any, error) {
	ch, caller, err := s.actionTarget(ctx, job, authz.ChannelSync)
	if err != nil {
		return nil, err
	}
	r := &reindexing{s: s, job: job, ch: ch, caller: caller, planned: map[string]bool{}, out: reindexed{Revision: ch.Head, Failed: []namedFile{}, Warnings: []string{}}}
	if ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		r.out.Warnings = append(r.out.Warnings, "a proxy lists what its upstream lists")
		return r.out, nil
	}
	if err := errors.Join(r.fromCatalogs(ctx), r.fromDirectory(ctx)); err != nil {
		return nil, err
	}
	if err := r.publish(ctx); err != nil {
		if fault.Is(err, fault.NotFound) {
			return nil, jobs.Cancel(err)
		}
		return nil, err
	}
	return r.out, nil
}

// fromCatalogs plans the files of the channel's catalogs.
func (r *reindexing) fromCatalogs(ctx context.Context) error {
	if r.s.seal == nil {
		r.out.Warnings = append(r.out.Warnings, "this process has no master key, so it can read no catalogs")
		return nil
	}
	r.job.Logf("looking for catalogs of %s in storage", r.ch.Name)
	found, err := r.s.findCatalogs(ctx, r.ch.Name)
	if err != nil {
		return fmt.Errorf("look for catalogs: %w", err)
	}
	foreign := false
	for id, c := range found {
		if id != r.ch.ID {
			switch _, err := channelByID(ctx, r.s.pool, id); {
			case err == nil:
				continue // a channel of today that has another name
			case !fault.Is(err, fault.NotFound):
				return err
			}
			elevated, err := r.s.elevated(ctx, r.caller)
			if err != nil {
				return err
			}
			if !elevated && !r.caller.Platform() {
				foreign = true
				continue
			}
		}
		for _, subdir := range namesIn(c.Subdirs) {
			if err := r.fromIndex(ctx, subdir, c.Subdirs[subdir].Digest); err != nil {
				return err
			}
		}
	}
	if foreign {
		r.out.Warnings = append(r.out.Warnings, "files of a former channel of this name are left out: only a maintainer of the server may bring them back")
	}
	return nil
}

// fromIndex plans the files of a stored repodata.json.
func (r *reindexing) fromIndex(ctx context.Context, subdir string, digest blob.Digest) error {
	if err := dist.CheckSubdir(subdir); err != nil {
		return nil // not of this version's making
	}
	doc, err := r.s.blobs.Open(ctx, digest)
	if fault.Is(err, fault.NotFound) {
		r.out.Warnings = append(r.out.Warnings, "the index of "+subdir+" is not stored any more")
		return nil
	}
	if err != nil {
		return err
	}
	defer doc.Close()
	var page []inspected
	for e, err := range repodata.Records(doc, repodata.ReadOptions{Trusted: true}) {
		if err != nil {
			return fmt.Errorf("read the index of %s: %w", subdir, err)
		}
		f, reason := plannedRecord(subdir, e)
		if reason != "" {
			r.out.Failed = named(r.out.Failed, subdir+"/"+e.Key, reason)
			continue
		}
		f.uploader = r.caller.Actor()
		if page = append(page, inspected{file: f}); len(page) == digestPage {
			if err := r.take(ctx, page); err != nil {
				return err
			}
			page = nil
		}
	}
	return r.take(ctx, page)
}

// plannedRecord makes a plan of an index's record.
func plannedRecord(subdir string, e repodata.Entry) (f plannedFile, reason string) {
	if _, err := dist.ParseFilename(e.Key); err != nil {
		return f, "its name is not that of a package"
	}
	rec, err := repodata.ParseRecord(e.Raw)
	if err != nil {
		return f, "its record cannot be read"
	}
	digest, err := hex.DecodeString(rec.SHA256)
	if err != nil || len(digest) != len(blob.Digest{}) {
		return f, "its record has no SHA-256"
	}
	md5, err := hex.DecodeString(rec.MD5)
	if err != nil || len(md5) != len(blob.MD5{}) {
		md5 = nil
	}
	return plannedFile{
		path: subdir + "/" + e.Key, digest: digest, md5: md5, size: int64(rec.Size), name: rec.Name, version: rec.Version, build: rec.Build,
		buildNumber: int64(rec.BuildNumber), arch: subdir, record: append([]byte(nil), e.Raw...),
	}, ""
}

// take plans those of the files that the channel lacks and storage has.
func (r *reindexing) take(ctx context.Context, page []inspected) error {
	paths := make([]string, 0, len(page))
	for _, in := range page {
		paths = append(paths, in.file.path)
	}
	live, err := filesAt(ctx, r.s.pool, r.ch.ID, paths)
	if err != nil {
		return err
	}
	deleted, err := r.deleted(ctx, paths)
	if err != nil {
		return err
	}
	for _, in := range page {
		path := in.file.path
		switch {
		case live[path] != nil:
			r.out.Unchanged++
			continue
		case r.planned[path] || deleted[path+"\x00"+string(in.file.digest)]:
			continue
		}
		st, err := r.s.blobs.Stat(ctx, blob.Digest(in.file.digest))
		if fault.Is(err, fault.NotFound) {
			r.out.Missing++
			continue
		}
		if err != nil {
			return err
		}
		if in.file.size > 0 && st.Size != in.file.size {
			r.out.Failed = named(r.out.Failed, path, problemSize)
			continue
		}
		in.file.size = st.Size
		if r.ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
			r.describe(ctx, &in)
		}
		r.planned[path] = true
		r.files = append(r.files, in)
		r.job.Progress(int64(len(r.files)), 0, 0, path)
	}
	return nil
}

// deleted finds out which of the paths somebody has deleted, with which bytes: an index that still lists them must not
// bring them back.
func (r *reindexing) deleted(ctx context.Context, paths []string) (map[string]bool, error) {
	rows, err := r.s.pool.Query(ctx, `SELECT path, digest FROM channels.files WHERE channel_id = $1 AND path = ANY($2) AND removed_rev IS NOT NULL AND digest IS NOT NULL`, r.ch.ID, paths)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := map[string]bool{}
	var path string
	var digest []byte
	_, err = pgx.ForEachRow(rows, []any{&path, &digest}, func() error {
		out[path+"\x00"+string(digest)] = true
		digest = nil
		return nil
	})
	return out, pg.Classify(err)
}

// describe reads from the package itself what its record does not say: the texts for lists, what channeldata.json tells.
// A package that cannot be read is listed without.
func (r *reindexing) describe(ctx context.Context, in *inspected) {
	md5 := in.file.md5
	if md5 == nil {
		md5 = make([]byte, len(blob.MD5{})) // only goes into a record that is not taken
	}
	_, filename, _ := strings.Cut(in.file.path, "/")
	full, err := r.s.inspect(ctx, &channelsv1.StagedFile{Filename: filename, Sha256: in.file.digest, Md5: md5, Size: in.file.size}, in.file.uploader)
	if err != nil {
		r.job.Log(slog.LevelWarn, in.file.path+": "+err.Error())
		return
	}
	in.text, in.facts, in.file.runExports = full.text, full.facts, full.file.runExports
}

// fromDirectory plans the packages in the directory that the channel has in the package store.
func (r *reindexing) fromDirectory(ctx context.Context) error {
	if r.s.cfg.PackageStore == "" {
		return nil
	}
	root, err := os.OpenRoot(r.s.cfg.PackageStore)
	if err != nil {
		return fault.New(fault.Precondition, "the package store cannot be opened: %w", err)
	}
	defer root.Close()
	subdirs, err := fs.ReadDir(root.FS(), r.ch.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Precondition, "the package store cannot be read: %w", err)
	}
	for _, sub := range subdirs {
		if !sub.IsDir() || dist.CheckSubdir(sub.Name()) != nil {
			continue
		}
		entries, err := fs.ReadDir(root.FS(), r.ch.Name+"/"+sub.Name())
		if err != nil {
			return fault.New(fault.Precondition, "the package store cannot be read: %w", err)
		}
		for _, e := range entries {
			if _, err := dist.ParseFilename(e.Name()); err != nil || !e.Type().IsRegular() {
				continue
			}
			if err := r.fromFile(ctx, root, sub.Name()+"/"+e.Name(), e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// fromFile plans one package file. A file that is no package fails alone.
func (r *reindexing) fromFile(ctx context.Context, root *os.Root, path, filename string) error {
	live, err := filesAt(ctx, r.s.pool, r.ch.ID, []string{path})
	if err != nil {
		return err
	}
	if live[path] != nil || r.planned[path] {
		if live[path] != nil {
			r.out.Unchanged++
		}
		return nil
	}
	f, err := root.Open(r.ch.Name + "/" + path)
	if err != nil {
		r.out.Failed = named(r.out.Failed, path, "it cannot be opened")
		return nil
	}
	defer f.Close()
	info, err := r.s.blobs.Put(ctx, f, blob.PutOptions{MD5: true})
	if err != nil {
		return err
	}
	in, err := r.s.inspect(ctx, &channelsv1.StagedFile{Filename: filename, Sha256: info.Digest[:], Md5: info.MD5[:], Size: info.Size}, r.caller.Actor())
	if fault.Is(err, fault.Invalid) {
		r.out.Failed = named(r.out.Failed, path, err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	if in.file.path != path {
		r.out.Failed = named(r.out.Failed, path, "it says that it belongs to "+in.file.arch)
		return nil
	}
	r.planned[path] = true
	r.files = append(r.files, in)
	return nil
}

// publish lists the planned files, all in one revision.
func (r *reindexing) publish(ctx context.Context) error {
	texts := map[string]packageText{}
	for _, in := range r.files {
		if _, ok := texts[in.file.name]; !ok && in.text != (packageText{}) {
			texts[in.file.name] = in.text
		}
	}
	var fresh []string
	done, err := r.s.publish(ctx, publication{
		channel: r.ch.ID, cause: causeReindex, author: r.caller.Actor(), holds: []claim{{r.job.ID, r.job.Claim}}, texts: texts,
		stage: func(ctx context.Context, st *staging) error {
			paths := make([]string, 0, len(r.files))
			for _, in := range r.files {
				paths = append(paths, in.file.path)
			}
			live, err := filesAt(ctx, st.tx, r.ch.ID, paths)
			if err != nil {
				return err
			}
			i := 0
			if err := st.plan(ctx, func() (plannedFile, bool, error) {
				for i < len(r.files) && live[r.files[i].file.path] != nil { // somebody was faster
					i++
				}
				if i == len(r.files) {
					return plannedFile{}, false, nil
				}
				i++
				return r.files[i-1].file, true, nil
			}); err != nil {
				return err
			}
			if err := st.diff(ctx); err != nil {
				return err
			}
			return r.s.checkStored(ctx, st)
		},
		moved: func(ctx context.Context, tx pgx.Tx, out *published) error {
			fresh = out.fresh
			if err := putFacts(ctx, tx, r.ch.ID, r.files); err != nil {
				return err
			}
			return r.s.record(ctx, tx, r.caller, "channel.reindex", out.channel, map[string]any{"added": out.Put, "revision": out.channel.Head})
		},
		finish: func(ctx context.Context, tx pgx.Tx, out *published) error {
			if out.moved {
				return nil
			}
			subdirs, err := subdirsOf(ctx, tx, r.ch.ID)
			if err != nil {
				return err
			}
			for _, subdir := range namesIn(subdirs) {
				if _, err := r.s.enqueueIndex(ctx, tx, out.channel, subdir, true, 0); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	r.s.own(ctx, r.caller, r.ch, fresh)
	r.out.Revision, r.out.Added = done.channel.Head, done.Put
	return nil
}
