package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/pkgtree"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// moveFiles sends the channel's packages, with the records that were published.
func (m *quetzMove) moveFiles(ctx context.Context, ch *quetzdb.Channel, there bool) error {
	tree, dir, err := m.storeOf(ctx, ch.Name)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer tree.Close()
	report := &importReport{Channel: ch.Name}
	s := &quetzShelf{tree: tree, dir: dir, sizes: map[string]map[string]int64{}, index: map[string]*pkgtree.Index{}}
	var files []restclient.Import
	if err := m.db.Versions(ctx, ch.Name, func(v quetzdb.Version) error {
		m.report.Files.Found++
		f, err := s.take(ctx, v, report)
		if f != nil {
			f.Uploader = m.users[v.UploaderID]
			files = append(files, *f)
		}
		return err
	}); err != nil {
		return err
	}
	im := &importer{c: m.c, concurrency: m.opts.concurrency, backoff: m.a.backoff}
	if there {
		has, err := listed(ctx, m.c, ch.Name)
		if err != nil {
			return err
		}
		if files, err = im.sift(ctx, files, has, report); err != nil {
			return err
		}
	}
	if m.opts.dryRun {
		report.Added = len(files)
		for _, f := range files {
			report.Bytes += f.Size
		}
	} else {
		im.state.Total = int64(len(files))
		for _, f := range files {
			im.state.TotalBytes += f.Size
		}
		im.meter = NewMeter(m.cmd.ErrOrStderr(), m.a.getenv, "packages of "+ch.Name)
		err = im.send(ctx, ch.Name, files, report)
		im.meter.Done()
	}
	r := &m.report.Files
	r.Added, r.Present, r.Skipped = r.Added+report.Added, r.Present+report.Present, r.Skipped+len(report.Problems)+report.Unlisted
	m.report.Bytes += report.Bytes
	for _, p := range report.Problems {
		m.report.problem(ch.Name+"/"+p.Path, p.Reason, "%s", p.Error)
	}
	return err
}

// quetzShelf is a channel's part of the store.
type quetzShelf struct {
	tree  pkgtree.Tree
	dir   string
	sizes map[string]map[string]int64 // by platform and file name
	index map[string]*pkgtree.Index   // by platform; nil values: none
}

// take finds a file in the store and what is said of it. It returns nil for one that cannot be moved.
func (s *quetzShelf) take(ctx context.Context, v quetzdb.Version, r *importReport) (*restclient.Import, error) {
	if err := s.read(ctx, v.Platform, r); err != nil {
		return nil, err
	}
	r.Found++
	at := path.Join(v.Platform, v.Filename)
	size, ok := s.sizes[v.Platform][v.Filename]
	if !ok || strings.Contains(v.Filename, "/") {
		r.refuse(at, "MISSING", errors.New("the database names it, and the store does not have it"))
		return nil, nil
	}
	f := &restclient.Import{
		Subdir: v.Platform, Filename: v.Filename, Size: size, CreateTime: v.Created,
		Open: func(ctx context.Context) (io.ReadCloser, error) { return s.tree.Open(ctx, path.Join(s.dir, at)) },
	}
	info, err := repodata.Compact(v.Info)
	if err == nil && len(info) > 0 && info[0] == '{' {
		if rec, err := repodata.ParseRecord(info); err == nil {
			f.Record, f.SHA256 = info, rec.SHA256
		}
	}
	ix := s.index[v.Platform]
	if ix == nil {
		return f, nil
	}
	if ix.Removed[v.Filename] {
		r.Unlisted++ // a patch took it out of the index, and so it was not to be had
		return nil, nil
	}
	// What was published may be patched, and is what clients had; but it must speak of the same bytes.
	if raw := ix.Records[v.Filename]; raw != nil {
		if rec, err := repodata.ParseRecord(raw); err == nil && (rec.SHA256 == "" || f.SHA256 == "" || strings.EqualFold(rec.SHA256, f.SHA256)) {
			f.Record, f.SHA256 = raw, cmp.Or(rec.SHA256, f.SHA256)
		}
	}
	return f, nil
}

// read reads a platform's directory and index once.
func (s *quetzShelf) read(ctx context.Context, platform string, r *importReport) error {
	if _, ok := s.sizes[platform]; ok {
		return nil
	}
	s.sizes[platform] = map[string]int64{}
	if platform == "" || strings.ContainsAny(platform, "/\\") || platform[0] == '.' {
		return nil // its files will be missing
	}
	files, err := s.tree.Files(ctx, path.Join(s.dir, platform))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		s.sizes[platform][f.Name] = f.Size
	}
	ix, err := pkgtree.ReadIndex(ctx, s.tree, path.Join(s.dir, platform))
	if fault.Is(err, fault.Invalid) {
		r.refuse(platform+"/repodata.json", "INDEX_INVALID", fmt.Errorf("%w; the records of the database are taken", err))
		ix, err = nil, nil
	}
	s.index[platform] = ix
	return err
}
