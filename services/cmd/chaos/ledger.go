package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

// ledgerKind is the kind of the jobs that are counted.
const ledgerKind = "chaos.ledger"

// ledgerTable has no key of any sort: what is recorded twice is there twice.
const ledgerTable = `CREATE TABLE IF NOT EXISTS public.chaos_ledger (
	job uuid NOT NULL, claim bigint NOT NULL, worker text NOT NULL, started timestamptz NOT NULL, ended timestamptz NOT NULL DEFAULT clock_timestamp())`

// The points at which a job can be held up.
const (
	atStart  = "start"  // claimed
	atStored = "stored" // the blob is durable, nothing names it
	atEnd    = "end"    // published; the ledger has nothing yet

	// What a worker prints then, and after the attempt.
	heldLine  = "held at"
	lateLine  = "late write of job"
	lateTaken = "taken"

	// lateAfter bounds an attempt, which does not listen to its context.
	lateAfter = time.Minute
)

// ledgerArgs is what a job does, as JSON.
type ledgerArgs struct {
	// N makes its package's name.
	N       int    `json:"n"`
	Channel string `json:"channel"`
	// HoldAt is where the job's first attempt stands still until the file go-<n> appears.
	HoldAt string `json:"hold_at,omitempty"`
	// ByClaim makes each attempt publish another version: a late write is seen by what it published.
	ByClaim bool `json:"by_claim,omitempty"`
	// GiveBack makes the first attempt return at once, without burning it.
	GiveBack bool `json:"give_back,omitempty"`
	// Work is how long the job takes besides.
	Work time.Duration `json:"work,omitempty"`
	// Size is how many random bytes the package has, beside a few hundred.
	Size int `json:"size,omitempty"`
}

// packageName is the name of the package that job n publishes.
func packageName(n int) string { return fmt.Sprintf("ledger-%06d", n) }

// packageNumber reads the job from the name of its package's file.
func packageNumber(file string) (n int, ok bool) {
	_, err := fmt.Sscanf(file, "ledger-%06d-", &n)
	return n, err == nil
}

// ledger does the jobs.
type ledger struct {
	deps platform.JobDeps
	dir  string // where go-<n> appears
	name string
	out  io.Writer
}

// registerLedger adds the kind to a process.
func registerLedger(dir, name string, slots int, out io.Writer) func(*jobs.Registry, platform.JobDeps) error {
	return func(reg *jobs.Registry, deps platform.JobDeps) error {
		jobs.Register(reg, jobs.KindSpec{
			Kind: ledgerKind, MaxFailures: 100, Concurrency: slots, Timeout: 10 * time.Minute,
			Backoff: jobs.Backoff{Initial: 100 * time.Millisecond, Max: time.Second},
		}, &ledger{deps, dir, name, out})
		return nil
	}
}

// Work does a job, and says what came of an attempt that was held up.
func (l *ledger) Work(ctx context.Context, job *jobs.Job[*wrapperspb.BytesValue]) (any, error) {
	var a ledgerArgs
	if err := json.Unmarshal(job.Args.GetValue(), &a); err != nil {
		return nil, jobs.Discard(err)
	}
	if a.GiveBack && job.Claim == 1 {
		return nil, jobs.Snooze(0)
	}
	err := l.work(ctx, job, a)
	if a.HoldAt != "" && job.Claim == 1 {
		late := lateTaken
		if err != nil {
			late = "refused: " + err.Error()
		}
		fmt.Fprintf(l.out, "%s %d: %s\n", lateLine, a.N, late)
	}
	return nil, err
}

// work does not listen to the end of its context once it has begun to write: it is the worker that the claim protects
// everybody from.
func (l *ledger) work(ctx context.Context, job *jobs.Job[*wrapperspb.BytesValue], a ledgerArgs) error {
	caller, err := authn.Unmarshal(job.Principal.Data)
	if err != nil {
		return jobs.Discard(err)
	}
	caller.JobID, caller.Claim = job.ID.String(), job.Claim
	ctx, cancel := context.WithTimeout(authn.NewContext(context.WithoutCancel(ctx), caller), lateAfter)
	defer cancel()

	var started time.Time
	if err := l.deps.Pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&started); err != nil {
		return err
	}
	conn, err := l.deps.Dial("channels")
	if err != nil {
		return err
	}
	channels := channelsv1.NewChannelServiceClient(conn)
	// The first call fetches the token; from here on only Hold stands between a late worker and the channel.
	if _, err := channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: a.Channel}); err != nil {
		return err
	}
	l.hold(job.Claim, a, atStart)
	if a.Work > 0 {
		time.Sleep(a.Work)
	}
	version := "1.0"
	if a.ByClaim {
		version = fmt.Sprintf("1.%d", job.Claim)
	}
	data, filename, err := makePackage(ctx, a, version)
	if err != nil {
		return jobs.Discard(err)
	}
	info, err := l.deps.Blobs.Put(ctx, bytes.NewReader(data), blob.PutOptions{MD5: true})
	if err != nil {
		return err
	}
	l.hold(job.Claim, a, atStored)
	_, err = channels.AddFiles(ctx, &channelsv1.AddFilesRequest{Channel: a.Channel, Files: []*channelsv1.StagedFile{{
		Filename: filename, Sha256: info.Digest[:], Md5: info.MD5[:], Size: info.Size,
	}}})
	var f *fault.Error
	if err != nil && !(errors.As(err, &f) && f.Reason == "DUPLICATE_EQUAL") { // an earlier attempt has published it
		return err
	}
	l.hold(job.Claim, a, atEnd)
	return pgx.BeginFunc(ctx, l.deps.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO public.chaos_ledger (job, claim, worker, started) VALUES ($1, $2, $3, $4)`, job.ID, job.Claim, l.name, started)
		if err != nil {
			return err
		}
		return job.Complete(ctx, tx, nil)
	})
}

// hold stands still at a point if that was asked of the job's first attempt.
func (l *ledger) hold(claim int64, a ledgerArgs, point string) {
	if a.HoldAt != point || claim != 1 {
		return
	}
	fmt.Fprintf(l.out, "%s %s %d\n", heldLine, point, a.N)
	for {
		if _, err := os.Stat(goFile(l.dir, a.N)); err == nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func goFile(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("go-%d", n)) }

// makePackage makes the bytes of a job's package: equal for equal arguments.
func makePackage(ctx context.Context, a ledgerArgs, version string) (data []byte, filename string, err error) {
	var buf bytes.Buffer
	name := packageName(a.N)
	files := []archive.Input{{Path: "share/" + name, Data: []byte(name + version)}}
	if a.Size > 0 {
		files = append(files, archive.Input{Path: "share/" + name + ".bin", Data: noise(a.N, a.Size)})
	}
	d, err := archive.Create(ctx, &buf, dist.Conda, archive.Meta{Index: archive.Index{
		Name: name, Version: version, Build: "0", Subdir: dist.Noarch, Noarch: archive.NoarchGeneric,
	}}, files)
	if err != nil {
		return nil, "", fmt.Errorf("make %s: %w", name, err)
	}
	return buf.Bytes(), d.Filename(), nil
}

// noise returns bytes that do not compress.
func noise(seed, n int) []byte {
	out := make([]byte, n)
	x := uint64(seed)*0x9E3779B97F4A7C15 + 1
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

// heldAt reads the line that hold prints.
func heldAt(line string) (point string, n int, ok bool) {
	rest, ok := strings.CutPrefix(line, heldLine+" ")
	if !ok {
		return "", 0, false
	}
	_, err := fmt.Sscanf(rest, "%s %d", &point, &n)
	return point, n, err == nil
}
