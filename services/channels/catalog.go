package channels

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// A channel's catalog is a small blob that says which repodata.json each of its subdirs has. It lies beside the packages,
// and with it what a database that was lost knew can be found again: the catalogs are among the stored blobs, they name
// the indexes by digest, and those list the files with theirs. It is built together with channeldata.json.
//
// A catalog is sealed with the master key. Bytes of uploads that are refused lie in storage for a while, too: without the
// seal anybody could put a catalog there that gives a channel packages of their choice.
const (
	fileCatalog = "catalog.sealed"
	// catalogMagic begins every catalog; what follows is sealed.
	catalogMagic   = "entrepot-catalog-1\n"
	catalogPurpose = "channel-catalog"
	// maxCatalog is the size in bytes up to which a blob is looked at: a thousand subdirs fit.
	maxCatalog = 256 << 10
)

// catalog is the document.
type catalog struct {
	Channel  string                   `json:"channel"`
	ID       uuid.UUID                `json:"id"`
	Revision int64                    `json:"revision"`
	Time     time.Time                `json:"time"`
	Subdirs  map[string]catalogSubdir `json:"subdirs"`
}

// catalogSubdir names the plain repodata.json of a subdir.
type catalogSubdir struct {
	Digest blob.Digest `json:"sha256"`
	Size   int64       `json:"size"`
}

// newer reports whether c came after old. The subdirs of one revision are built one after another, and a catalog is written
// whenever some are done, so several of a revision may lie in the store.
func (c *catalog) newer(old *catalog) bool {
	return cmp.Or(cmp.Compare(c.Revision, old.Revision), c.Time.Compare(old.Time), cmp.Compare(len(c.Subdirs), len(old.Subdirs))) > 0
}

// buildCatalog stores a channel's catalog; no files mean that the newest one says it all.
func (s *Service) buildCatalog(ctx context.Context, id uuid.UUID) (m built, err error) {
	if s.seal == nil { // this process has no master key: another one will build it
		return m, nil
	}
	ch, err := channelByID(ctx, s.pool, id)
	if err != nil {
		return m, err
	}
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT ON (path) path, revision, digest, size, created_at FROM channels.renditions
		WHERE channel_id = $1 AND path LIKE '%/`+fileRepodata+`' ORDER BY path, revision DESC`, id)
	if err != nil {
		return m, pg.Classify(err)
	}
	newest, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[rendition])
	if err != nil || len(newest) == 0 {
		return m, pg.Classify(err)
	}
	c := catalog{Channel: ch.Name, ID: id, Subdirs: make(map[string]catalogSubdir, len(newest))}
	for _, r := range newest {
		subdir, _, _ := strings.Cut(r.Path, "/")
		c.Subdirs[subdir] = catalogSubdir{r.Digest, r.Size}
		if r.Revision > c.Revision {
			c.Revision = r.Revision
		}
		if r.CreatedAt.After(c.Time) {
			c.Time = r.CreatedAt.UTC()
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return m, err
	}
	old, err := newestRendition(ctx, s.pool, id, fileCatalog, 0)
	if err != nil || (old != nil && old.Revision > c.Revision) {
		return m, err
	}
	if old != nil { // each sealing gives other bytes
		was, err := s.openCatalog(ctx, old.Digest)
		if err != nil || bytes.Equal(was, data) {
			return m, err
		}
	}
	info, err := s.blobs.Put(ctx, bytes.NewReader(append([]byte(catalogMagic), s.seal.Seal(data, catalogPurpose)...)), blob.PutOptions{})
	if err != nil {
		return m, err
	}
	m.revision, m.files = c.Revision, []newRendition{{fileCatalog, info.Digest, info.Size}}
	return m, nil
}

// serveCatalog builds a channel's catalog and keeps it.
func (s *Service) serveCatalog(ctx context.Context, job holder, id uuid.UUID) error {
	m, err := s.buildCatalog(ctx, id)
	if err != nil || m.files == nil {
		return err
	}
	return s.serve(ctx, job, id, m, nil)
}

// findCatalogs looks through the whole store for the catalogs of channels of a name, the newest of each channel id.
func (s *Service) findCatalogs(ctx context.Context, name string) (map[uuid.UUID]*catalog, error) {
	out := make(map[uuid.UUID]*catalog)
	err := s.blobs.List(ctx, blob.Digest{}, func(st blob.Stat) error {
		if st.Size < int64(len(catalogMagic)) || st.Size > maxCatalog {
			return nil
		}
		c, err := s.readCatalog(ctx, st.Digest)
		if err != nil || c == nil || !strings.EqualFold(c.Channel, name) {
			return err
		}
		if old := out[c.ID]; old == nil || c.newer(old) {
			out[c.ID] = c
		}
		return nil
	})
	return out, err
}

// openCatalog reads a blob if it is a catalog that was sealed here; nil if it is not.
func (s *Service) openCatalog(ctx context.Context, d blob.Digest) ([]byte, error) {
	b, err := s.blobs.Open(ctx, d)
	if fault.Is(err, fault.NotFound) {
		return nil, nil // collected meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer b.Close()
	begin := make([]byte, len(catalogMagic))
	if _, err := io.ReadFull(b, begin); err != nil || string(begin) != catalogMagic {
		return nil, nil
	}
	sealed, err := io.ReadAll(io.LimitReader(b, maxCatalog))
	if err != nil {
		return nil, err
	}
	plain, err := s.seal.Open(sealed, catalogPurpose)
	if err != nil {
		return nil, nil // sealed by nobody who may
	}
	return plain, nil
}

func (s *Service) readCatalog(ctx context.Context, d blob.Digest) (*catalog, error) {
	data, err := s.openCatalog(ctx, d)
	if err != nil || data == nil {
		return nil, err
	}
	c := new(catalog)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fault.New(fault.Internal, "catalog %s: %w", d, err)
	}
	return c, nil
}
