package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// listPatience is how long the large index files may lag behind the last publication.
const listPatience = 20 * time.Second

// formsPatience is how long those files may that are built in the background: they may lag by a minute while there is no
// rest (services/channels), and here is one.
const formsPatience = 30 * time.Second

// verify checks what must be true of every job afterwards, and fills in the result's numbers.
func (w *world) verify(ctx context.Context) error {
	var errs []error
	if len(w.asked) > 0 {
		errs = append(errs, w.verifyLedger(ctx), w.verifyListing(ctx))
	}
	errs = append(errs, w.verifyForms(ctx), w.reader.awaitGood())
	got := w.reader.stop()
	w.r.result.Reader = got
	for _, lie := range got.lies {
		errs = append(errs, fmt.Errorf("the reader: %w", lie))
	}
	if got.Files == 0 || got.Indexes == 0 {
		errs = append(errs, breaks(blindReader, "%d files and %d indexes in %d polls", got.Files, got.Indexes, got.Polls))
	}
	if got.PerSecond < minRate {
		errs = append(errs, breaks(slowReader, "%.0f requests a second outside of declared outages, fewer than %d", got.PerSecond, minRate))
	}
	return errors.Join(errs...)
}

// verifyForms waits until each index file has been read, those of the background too, of the revision of repodata.json.
func (w *world) verifyForms(ctx context.Context) error {
	if w.r.program != "" {
		return nil
	}
	for deadline := time.Now().Add(formsPatience); ; {
		behind := w.reader.unread()
		if len(behind) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return breaks(unreadForm, "after %s: %s", formsPatience, strings.Join(behind, ", "))
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// verifyLedger: each job has one terminal state, which is success, and one ledger row; and there are no others.
func (w *world) verifyLedger(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `
		SELECT j.id::text, j.state, (SELECT count(*) FROM public.chaos_ledger l WHERE l.job = j.id) AS rows, j.last_error
		FROM jobs.jobs j WHERE j.kind = $1`, ledgerKind)
	if err != nil {
		return err
	}
	type row struct {
		ID, State string
		Rows      int
		LastError string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return err
	}
	byID := map[string]row{}
	for _, r := range all {
		byID[r.ID] = r
	}
	res := w.r.result
	res.Queued = len(w.asked)
	var problems problems
	for _, a := range w.asked {
		j, ok := byID[a.id]
		switch {
		case !ok:
			problems.add(lostJob, "job %d has no row", a.args.N)
			res.Lost++
			continue
		case j.State == "succeeded":
			res.Terminal++
		case j.State == "dead" || j.State == "cancelled":
			res.Terminal++
			problems.add(failedJob, "job %d is %s: %s", a.args.N, j.State, j.LastError)
		default:
			res.Lost++
			problems.add(lostJob, "job %d is %s: %s", a.args.N, j.State, j.LastError)
		}
		if j.Rows > 1 {
			problems.add(doneTwice, "job %d has %d ledger rows", a.args.N, j.Rows)
		} else if j.Rows == 0 {
			problems.add(lostJob, "job %d has no ledger row", a.args.N)
		}
		res.LedgerRows += j.Rows
	}
	total, err := w.done(ctx)
	if err != nil {
		return err
	}
	if total != res.LedgerRows {
		problems.add(unknownJob, "%d rows", total-res.LedgerRows)
	}
	return problems.err()
}

// problems are broken promises, of which the first few of each are told.
type problems map[string][]string

func (p *problems) add(promise, format string, args ...any) {
	if *p == nil {
		*p = problems{}
	}
	(*p)[promise] = append((*p)[promise], fmt.Sprintf(format, args...))
}

func (p problems) err() error {
	const most = 5
	var errs []error
	for _, promise := range slices.Sorted(maps.Keys(p)) {
		list := p[promise]
		if n := len(list); n > most {
			list = append(list[:most:most], fmt.Sprintf("and %d more", n-most))
		}
		errs = append(errs, breaks(promise, "%s", strings.Join(list, "; ")))
	}
	return errors.Join(errs...)
}

// verifyListing: each job's package is listed once, in the shard index and in repodata.json.
func (w *world) verifyListing(ctx context.Context) error {
	want := map[string]map[int]bool{}
	for _, a := range w.asked {
		if want[a.args.Channel] == nil {
			want[a.args.Channel] = map[int]bool{}
		}
		want[a.args.Channel][a.args.N] = true
	}
	for channel, jobs := range want {
		var err error
		for deadline := time.Now().Add(listPatience); ; {
			if err = w.compareListing(ctx, channel, jobs); err == nil || time.Now().After(deadline) || w.r.program != "" {
				break
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("channel %s: %w", channel, err)
		}
	}
	return nil
}

func (w *world) compareListing(ctx context.Context, channel string, jobs map[int]bool) error {
	shards, err := w.readIndex(ctx, channel+"/noarch/repodata_shards.msgpack.zst")
	if err != nil {
		return err
	}
	var problems problems
	for n := range jobs {
		if _, ok := shards.has[packageName(n)]; !ok {
			problems.add(lostUpdate, "%s was published, and is not in the index of shards", packageName(n))
		}
	}
	if len(shards.has) > len(jobs) {
		problems.add(wrongListing, "the index of shards has %d names for %d jobs", len(shards.has), len(jobs))
	}
	full, err := w.readIndex(ctx, channel+"/noarch/repodata.json")
	if err != nil {
		return errors.Join(problems.err(), err)
	}
	versions := map[int]int{}
	for name := range full.has {
		n, ok := packageNumber(name)
		if !ok || !jobs[n] {
			problems.add(wrongListing, "repodata.json lists %s, which no job published", name)
		}
		versions[n]++
	}
	for n := range jobs {
		switch versions[n] {
		case 1:
		case 0:
			problems.add(lostUpdate, "%s was published, and is not in repodata.json", packageName(n))
		default: // a job publishes another version with each attempt, and only one of them ends it
			problems.add(latePublished, "repodata.json lists %d versions of %s", versions[n], packageName(n))
		}
	}
	return problems.err()
}

func (w *world) readIndex(ctx context.Context, path string) (*listing, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/channels/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %.200s", path, resp.StatusCode, body)
	}
	return parseIndex(path, body)
}
