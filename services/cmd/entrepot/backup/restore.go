package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Target is where an installation is built anew. Nothing may run there.
type Target struct {
	// DatabaseURL names an empty database.
	DatabaseURL string
	// Blobs may hold blobs already: those of the manifest that are there are taken as they are.
	Blobs blob.Store
	// MasterKeyFile gets the key; if it is there it must hold the same.
	MasterKeyFile string
	Schemas       []pg.Schema
	PGBin         string
	Tell          func(format string, args ...any)
}

// Report says what came of a restore.
type Report struct {
	Summary Summary
	// Restored blobs came from the backup; Present ones were in the store before.
	Restored, Present int64
	// Missing blobs are referred to and nowhere to be had. Their files cannot be served.
	Missing []blob.Digest
}

// Read restores a backup. It changes nothing before it has seen that the backup is whole and the database empty, and it
// can be repeated after a failure: the database is filled in one transaction, last.
func Read(ctx context.Context, path string, to Target) (*Report, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer src.close()
	r := &Report{}
	if err := r.Summary.read(src, to.Schemas); err != nil {
		return nil, err
	}
	key, err := r.Summary.file(src, fileKey)
	if err != nil {
		return nil, err
	}
	list, err := r.Summary.file(src, fileBlobs)
	if err != nil {
		return nil, err
	}
	entries, err := parseManifest(list)
	if err != nil {
		return nil, err
	}
	if err := r.Summary.check(src, fileDatabase); err != nil {
		return nil, err
	}
	major, err := emptyDatabase(ctx, to.DatabaseURL)
	if err != nil {
		return nil, err
	}
	if err := writeKey(to.MasterKeyFile, key); err != nil {
		return nil, err
	}
	if err := to.blobs(ctx, src, entries, r); err != nil {
		return nil, err
	}
	if to.Tell != nil {
		to.Tell("filling the database")
	}
	return r, to.database(ctx, src, major)
}

// read takes backup.json and refuses what this binary does not know.
func (s *Summary) read(src source, known []pg.Schema) error {
	f, err := src.open(fileSummary)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Invalid, "this is no complete backup: it has no %s", fileSummary)
	}
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(s); err != nil {
		return fault.New(fault.Invalid, "%s cannot be read: %w", fileSummary, err)
	}
	if s.Format != format {
		return fault.New(fault.Precondition, "the backup has the format %d; this binary reads format %d", s.Format, format)
	}
	names := map[string]bool{}
	for _, k := range known {
		names[k.Name] = true
	}
	for name := range s.Schemas {
		if !names[name] {
			return fault.New(fault.Precondition, "the backup has the schema %s, which this binary does not know: it was made by version %s", name, s.Version)
		}
	}
	return nil
}

// file returns a small file whose digest was checked.
func (s *Summary) file(src source, name string) ([]byte, error) {
	f, err := src.open(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the backup is damaged: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, s.compare(name, int64(len(data)), blob.Sum(data))
}

// check reads a file and compares its digest.
func (s *Summary) check(src source, name string) error {
	f, err := src.open(name)
	if err != nil {
		return fault.New(fault.Invalid, "the backup is damaged: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	var d blob.Digest
	h.Sum(d[:0])
	return s.compare(name, n, d)
}

func (s *Summary) compare(name string, size int64, d blob.Digest) error {
	if want := s.Files[name]; want.Size != size || want.SHA256 != d {
		return fault.New(fault.Invalid, "the backup is damaged: %s has %d bytes with the SHA-256 %s, not %d with %s", name, size, d, want.Size, want.SHA256)
	}
	return nil
}

func parseManifest(data []byte) ([]entry, error) {
	var all []entry
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		digest, size, ok := strings.Cut(s.Text(), " ")
		n, nerr := strconv.ParseInt(size, 10, 64)
		d, derr := blob.ParseDigest(digest)
		if !ok || nerr != nil || derr != nil {
			return nil, fault.New(fault.Invalid, "%s has a line that is no digest and size: %q", fileBlobs, s.Text())
		}
		all = append(all, entry{d, n})
	}
	return all, nil
}

// emptyDatabase refuses a database that holds anything, and returns the server's major version.
func emptyDatabase(ctx context.Context, url string) (major int, err error) {
	pool, err := pg.Open(ctx, url, pg.PoolConfig{AppName: "entrepot restore", MaxConns: 1})
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	var things, number int
	err = pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
			+ (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')),
			current_setting('server_version_num')::int`).Scan(&things, &number)
	if err != nil {
		return 0, fmt.Errorf("look into the database: %w", pg.Classify(err))
	}
	if things > 0 {
		return 0, fault.New(fault.Precondition, "the database is not empty; a restore needs an empty one").WithReason("NOT_EMPTY")
	}
	return number / 10000, nil
}

// writeKey writes the master key, unless the same one is there.
func writeKey(path string, key []byte) error {
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, key):
		return nil
	case err == nil:
		return fault.New(fault.Precondition, "%s holds another master key, which does not open this backup's secrets; move it away", path).WithReason("NOT_EMPTY")
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("restore the master key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("restore the master key: %w", err)
	}
	_, err = f.Write(key)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("restore the master key: %w", err)
	}
	return nil
}

const (
	// batchBlobs and batchSize bound what becomes durable together; larger blobs go alone.
	batchBlobs = 256
	batchSize  = 4 << 20
)

// blobs puts the blobs into the store and notes what is nowhere.
func (t *Target) blobs(ctx context.Context, src source, entries []entry, r *Report) error {
	var batch blob.Batch
	if b, ok := blob.As[blob.Batcher](t.Blobs); ok {
		var err error
		if batch, err = b.NewBatch(); err != nil {
			return err
		}
		defer batch.Abort()
	}
	waiting := 0
	for i, e := range entries {
		if t.Tell != nil && i%5000 == 0 {
			t.Tell("restoring blobs: %d of %d", i, len(entries))
		}
		st, err := t.Blobs.Stat(ctx, e.digest)
		switch {
		case err == nil && (e.size < 0 || st.Size == e.size):
			r.Present++
			continue
		case err != nil && !fault.Is(err, fault.NotFound):
			return err
		}
		f, err := src.open(blobName(e.digest))
		if errors.Is(err, fs.ErrNotExist) {
			r.Missing = append(r.Missing, e.digest)
			continue
		}
		if err != nil {
			return fmt.Errorf("read blob %s: %w", e.digest, err)
		}
		o := blob.PutOptions{Expect: &e.digest}
		if batch != nil && e.size <= batchSize {
			_, err = batch.Put(ctx, f, o)
			if waiting++; err == nil && waiting == batchBlobs {
				waiting, err = 0, batch.Commit(ctx)
			}
		} else {
			_, err = t.Blobs.Put(ctx, f, o)
		}
		_ = f.Close() // it was only read
		var mismatch *blob.MismatchError
		if errors.As(err, &mismatch) {
			return fault.New(fault.Invalid, "the backup is damaged: blob %s: %w", e.digest, err)
		}
		if err != nil {
			return fmt.Errorf("restore blob %s: %w", e.digest, err)
		}
		r.Restored++
	}
	if waiting > 0 {
		return batch.Commit(ctx)
	}
	return nil
}

// database runs pg_restore, in one transaction.
func (t *Target) database(ctx context.Context, src source, major int) error {
	tool, err := pg.Tool("pg_restore", t.PGBin, major)
	if err != nil {
		return err
	}
	conninfo, env, err := pg.LibpqURL(t.DatabaseURL)
	if err != nil {
		return err
	}
	f, err := src.open(fileDatabase)
	if err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, tool, "--format=custom", "--no-owner", "--no-privileges", "--no-password", "--single-transaction", "--exit-on-error",
		"--dbname="+conninfo)
	cmd.Env, cmd.Stdin = env, f
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	return nil
}
