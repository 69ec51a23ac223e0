package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

// Source is the installation that is backed up. It may run.
type Source struct {
	DatabaseURL   string
	Blobs         blob.Store
	MasterKeyFile string
	// Config is kept for people.
	Config []byte
	// Version is this binary's, Schemas what it knows of the database.
	Version string
	Schemas []pg.Schema
	// PGBin is where PostgreSQL's programs are; empty means they are looked for.
	PGBin string
	// WithBlobs copies the blobs, too.
	WithBlobs bool
	// Tell is told what is being done; nil means nobody.
	Tell func(format string, args ...any)
}

func (s *Source) tell(format string, args ...any) {
	if s.Tell != nil {
		s.Tell(format, args...)
	}
}

// Write makes a backup at path: a tar if that ends in .tar, else a directory. Blobs that are missing or rotten are counted
// in the summary; they are no error, since the rest is worth having all the more.
func Write(ctx context.Context, path string, src Source) (*Summary, error) {
	key, err := os.ReadFile(src.MasterKeyFile)
	if err != nil {
		return nil, fault.New(fault.Precondition, "read the master key: %w; without it the keys in the database cannot be opened", err)
	}
	pool, err := pg.Open(ctx, src.DatabaseURL, pg.PoolConfig{AppName: "entrepot backup", MaxConns: 2})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	s, err := newSink(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	defer s.abort()
	sum := &Summary{Format: format, Version: src.Version, Created: time.Now().UTC().Truncate(time.Second), Schemas: map[string]int64{}, Files: map[string]File{}}
	if err := src.database(ctx, pool, s, path, sum); err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{fileKey: key, fileConfig: src.Config} {
		if sum.Files[name], err = putFile(s, name, bytes.NewReader(data), int64(len(data))); err != nil {
			return nil, err
		}
	}
	data, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := s.put(fileSummary, bytes.NewReader(append(data, '\n')), int64(len(data))+1); err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	if err := s.commit(); err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	return sum, nil
}

// database writes what one snapshot holds: the dump, the manifest and, if they are wanted, the blobs.
func (src *Source) database(ctx context.Context, pool *pgxpool.Pool, s sink, path string, sum *Summary) error {
	status, err := pg.StatusAll(ctx, pool, src.Schemas...)
	if err != nil {
		return err
	}
	for _, st := range status {
		if st.Applied == 0 {
			return fault.New(fault.Precondition, "the database has no schema %s: there is nothing to back up, or 'entrepot migrate up' has not run", st.Schema)
		}
		sum.Schemas[st.Schema] = st.Applied
	}
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The transaction waits for pg_dump, which may take longer than the platform's own may.
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return pg.Classify(err)
		}
		var snapshot string
		var number int
		err := tx.QueryRow(ctx, `SELECT pg_export_snapshot(), current_setting('server_version'), current_setting('server_version_num')::int`).
			Scan(&snapshot, &sum.PostgreSQL, &number)
		if err != nil {
			return fmt.Errorf("begin the backup: %w", pg.Classify(err))
		}
		src.tell("dumping the database")
		if sum.Files[fileDatabase], err = src.dump(ctx, s, path, snapshot, number/10000); err != nil {
			return err
		}
		entries, err := manifest(ctx, tx)
		if err != nil {
			return err
		}
		return src.blobs(ctx, s, entries, sum)
	})
}

// dump runs pg_dump. Its output goes to a file of its own first: a tar wants to know the size before.
func (src *Source) dump(ctx context.Context, s sink, path, snapshot string, major int) (f File, err error) {
	tool, err := pg.Tool("pg_dump", src.PGBin, major)
	if err != nil {
		return f, err
	}
	conninfo, env, err := pg.LibpqURL(src.DatabaseURL)
	if err != nil {
		return f, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".entrepot-dump-*")
	if err != nil {
		return f, fmt.Errorf("dump the database: %w", err)
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name())
	}()
	cmd := exec.CommandContext(ctx, tool, "--format=custom", "--no-owner", "--no-privileges", "--no-password", "--lock-wait-timeout=60s",
		"--snapshot="+snapshot, "--dbname="+conninfo)
	cmd.Env, cmd.Stdout = env, tmp
	if err := run(ctx, cmd); err != nil {
		return f, fmt.Errorf("dump the database: %w", err)
	}
	size, err := tmp.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err != nil {
		return f, fmt.Errorf("dump the database: %w", err)
	}
	return putFile(s, fileDatabase, tmp, size)
}

// run runs one of PostgreSQL's programs and makes what it said on standard error the error.
func run(ctx context.Context, cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		text := strings.TrimSpace(said.String())
		if len(text) > 2000 {
			text = text[:2000] + "…"
		}
		return fault.New(fault.Internal, "%s: %w\n%s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}

// manifest lists the blobs that the snapshot refers to, in ascending order. The sizes are left to the store.
func manifest(ctx context.Context, tx pgx.Tx) ([]entry, error) {
	var all []entry
	var after blob.Digest
	for {
		page, err := refs.Referenced(ctx, tx, after, blob.Digest{}, 5000)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return all, nil
		}
		for _, b := range page {
			all = append(all, entry{b.Digest, b.Size})
		}
		after = page[len(page)-1].Digest
	}
}

// blobs writes the manifest and the blobs. Of a blob that is not copied only the size is looked at.
func (src *Source) blobs(ctx context.Context, s sink, entries []entry, sum *Summary) error {
	sum.Blobs.Included = src.WithBlobs
	var text bytes.Buffer
	for i := range entries {
		e := &entries[i]
		if src.WithBlobs && i%5000 == 0 {
			src.tell("copying blobs: %d of %d", i, len(entries))
		}
		err := src.blob(ctx, s, e)
		switch {
		case errors.Is(err, errDamaged):
			src.tell("blob %s is damaged: %v", e.digest, err)
			sum.Blobs.Damaged++
			e.size = -1
		case err != nil:
			return err
		default:
			sum.Blobs.Count++
			sum.Blobs.Bytes += e.size
		}
		text.WriteString(e.digest.String())
		text.WriteByte(' ')
		text.WriteString(strconv.FormatInt(e.size, 10))
		text.WriteByte('\n')
	}
	var err error
	sum.Files[fileBlobs], err = putFile(s, fileBlobs, &text, int64(text.Len()))
	return err
}

// errDamaged is in the chain of errors of blobs that are missing or rotten.
var errDamaged = errors.New("it cannot be backed up")

func (src *Source) blob(ctx context.Context, s sink, e *entry) error {
	damaged := func(err error) error {
		var f *fault.Error
		if fault.Is(err, fault.NotFound) || errors.As(err, &f) && f.Reason == blob.ReasonCorrupt {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	}
	st, err := src.Blobs.Stat(ctx, e.digest)
	if err != nil {
		return damaged(err)
	}
	e.size = st.Size
	if !src.WithBlobs {
		return nil
	}
	// Read twice: a tar cannot take back what it began to write.
	if err := blob.Verify(ctx, src.Blobs, e.digest); err != nil {
		return damaged(err)
	}
	b, err := src.Blobs.Open(ctx, e.digest)
	if err != nil {
		return err
	}
	defer b.Close()
	return s.put(blobName(e.digest), blob.NewVerifier(b, e.digest), b.Size())
}
