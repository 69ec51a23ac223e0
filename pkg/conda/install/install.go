package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/disk"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Install makes a prefix hold exactly the packages of want: what is there already stays, what differs is replaced, what
// is not wanted is removed. Nothing in the prefix is touched before all packages are fetched, checked and unpacked; on an
// error, also on a cancelled context, it is as it was. The package comment tells what happens when the process dies.
func Install(ctx context.Context, prefix string, want []Package, o Options) (*Result, error) {
	prefix, err := filepath.Abs(prefix)
	if err != nil {
		return nil, err
	}
	if err := o.check(prefix, want); err != nil {
		return nil, err
	}
	want = slices.Clone(want) // what the packages say of themselves is added to it, and the caller may share it
	res := &Result{}
	err = res.install(ctx, prefix, want, &o)
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		return res.or(err)
	}
	// The prefix is as it was. Packages that come anew are as their digest says, so the second time is the last.
	o.warn("", damaged.Error()+", and is fetched again")
	if o.fresh, err = o.renew(ctx, damaged, want); err != nil {
		return nil, err
	}
	again := &Result{Fetched: res.Fetched, Recovered: res.Recovered}
	return again.or(again.install(ctx, prefix, want, &o))
}

// or is what Install returns.
func (res *Result) or(err error) (*Result, error) {
	if err != nil {
		return nil, err
	}
	return res, nil
}

// install is one attempt.
func (res *Result) install(ctx context.Context, prefix string, want []Package, o *Options) error {
	if err := Frozen(prefix); err != nil && !o.ForceFrozen {
		return err
	}
	// Once before the lock is taken, so that an environment is not locked while its packages are fetched. A package that is
	// wanted without a digest has one then, and below it turns out whether it is installed already.
	have, err := Read(prefix)
	if err != nil {
		return err
	}
	if !Interrupted(prefix) { // else what is there is known only below
		if err := o.unchanged(prefix, have); err != nil {
			return err
		}
	}
	if _, _, err := res.prepare(ctx, have, want, o); err != nil {
		return err
	}
	t, err := open(ctx, prefix, o)
	if err != nil {
		return err
	}
	defer t.close()
	how, err := t.recover()
	if err != nil {
		return err
	}
	if how != NothingToRecover {
		res.Recovered = how
	}
	if err := Frozen(prefix); err != nil && !o.ForceFrozen {
		return err
	}
	if have, err = Read(prefix); err != nil {
		return err
	}
	if err := o.unchanged(prefix, have); err != nil {
		return err
	}
	change, entries, err := res.prepare(ctx, have, want, o)
	if err != nil {
		return err
	}
	res.Change = change
	if change.Empty() && IsPrefix(prefix) {
		return t.respec(change.Keep, o)
	}
	p, err := t.makePlan(change, entries, o)
	defer p.close()
	if err != nil {
		return err
	}
	res.Clobbers = p.clobbers
	a := &actor{t: t, p: p, o: o}
	if err := a.run(ctx, res); err != nil {
		return err
	}
	t.made, t.madeMeta = false, false
	res.Linked, res.Copied, res.Rewritten = int(a.linked.Load()), int(a.copied.Load()), int(a.rewritten.Load())
	return nil
}

func (o *Options) check(prefix string, want []Package) error {
	if o.Cache == nil {
		return errors.New("install: there is no package cache")
	}
	if err := dist.CheckSubdir(o.Platform); err != nil || o.Platform == dist.Noarch {
		return fmt.Errorf("install: %q is no platform to install for", o.Platform)
	}
	if o.Source == nil {
		o.Source = pkgcache.Local{}
	}
	o.Target = cmp.Or(o.Target, prefix)
	if show := o.Progress; show != nil {
		var mu sync.Mutex
		o.Progress = func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			show(p)
		}
	}
	names := map[string]bool{}
	for i := range want {
		p := &want[i]
		d, err := dist.ParseFilename(p.FileName)
		if err != nil {
			return fmt.Errorf("install %s: %w", p.Name, err)
		}
		if d.Name != p.Name || d.Version != p.Version || d.Build != p.Build {
			return fmt.Errorf("install %s: the file %s is of another package", p.Name, p.FileName)
		}
		if names[p.Name] {
			return fmt.Errorf("install: %s is wanted twice", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// prepare brings what is missing into the cache.
func (res *Result) prepare(ctx context.Context, have []*Record, want []Package, o *Options) (*Change, map[string]pkgcache.Entry, error) {
	c, err := Diff(have, want, o.Platform, o.Anew)
	if err != nil {
		return nil, nil, err
	}
	need := slices.Clone(c.Install)
	for _, x := range c.Replace {
		need = append(need, x.New)
	}
	got, err := ensure(ctx, need, o.Cache, o.Source)
	if err != nil {
		return nil, nil, err
	}
	entries := make(map[string]pkgcache.Entry, len(got))
	for i, p := range need {
		entries[p.Name] = got[i]
		res.Fetched += got[i].Fetched
	}
	return c, entries, nil
}

// complete adds to a record what the package says of itself.
func (p *Package) complete(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "info", "index.json"))
	if err != nil {
		return err
	}
	if _, err := archive.ParseIndex(raw, archive.Limits{}); err != nil {
		return fmt.Errorf("%s: %w", p.FileName, err)
	}
	known, err := recordFields(&p.Record)
	if err != nil {
		return err
	}
	fields := map[string]jsontext.Value{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return fmt.Errorf("%s: info/index.json: %w", p.FileName, jsonError(err))
	}
	for key, v := range known {
		switch key {
		case "depends", "build_number": // they are written even if nobody knows them
			if _, ok := fields[key]; ok {
				continue
			}
		}
		fields[key] = v
	}
	if raw, err = json.Marshal(fields, json.Deterministic(true)); err != nil {
		return err
	}
	record, err := repodata.ParseRecord(raw)
	if err != nil {
		return fmt.Errorf("%s: info/index.json: %w", p.FileName, err)
	}
	p.Record, p.Incomplete = record, false
	return nil
}

func cachePackage(p *Package) *pkgcache.Package {
	return &pkgcache.Package{FileName: p.FileName, URL: p.URL, SHA256: p.SHA256, MD5: p.MD5, Size: int64(p.Size)}
}

// repodataJSON is what info/repodata_record.json says of a package.
func repodataJSON(p *Package) ([]byte, error) {
	r := Record{Record: p.Record, FileName: p.FileName, URL: p.URL, Channel: p.Channel}
	fields, err := recordFields(&r.Record)
	if err != nil {
		return nil, err
	}
	b := []byte{'{'}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		b = append(appendKey(b, 1, key), fields[key]...)
	}
	b = appendString(b, 1, "fn", p.FileName)
	b = appendString(b, 1, "url", dist.WithoutSecrets(p.URL))
	if p.Channel != "" {
		b = appendString(b, 1, "channel", dist.WithoutSecrets(p.Channel))
	}
	return append(newline(b, 0), '}'), nil
}

// run does what was planned, and undoes it if it fails before the commit.
func (a *actor) run(ctx context.Context, res *Result) error {
	if !a.o.Scripts {
		a.warnOfScripts()
	} else if a.p.hasScripts() {
		a.o.Copy = true // a script that writes into a linked file would write into the cache
		a.scripts = true
	}
	a.t.noteMade(nil)
	if len(a.p.clobbers) > 0 {
		for _, c := range a.p.clobbers {
			a.o.warn("", (&link.ClobberError{Clobbers: []link.Clobber{c}}).Error()+"; that of "+c.Winner+" is used")
		}
	}
	err := a.readHistory()
	if err == nil {
		err = a.t.begin(a.p.journal)
	}
	if err != nil {
		return errors.Join(err, a.t.meta.RemoveAll(transactionDir))
	}
	err = a.t.step("journal")
	if err == nil {
		err = a.act(ctx, res)
	}
	if err == nil {
		err = a.stage()
	}
	if err == nil && a.t.sync {
		err = a.t.syncAll()
	}
	if err == nil {
		err = a.t.step("staged")
	}
	if err == nil {
		err = a.t.commit()
	}
	if errors.Is(err, errCrash) {
		return err
	}
	if err != nil {
		if rerr := a.t.rollBack(a.p.journal); rerr != nil {
			return errors.Join(err, fmt.Errorf("the environment could not be restored yet, and will be when it is used next: %w", rerr))
		}
		return err
	}
	if err := a.t.step("committed"); err != nil {
		return err
	}
	if err := a.t.complete(a.p.journal); err != nil {
		return fmt.Errorf("the installation is done, but not tidied up, which will happen when the environment is used next: %w", err)
	}
	return nil
}

// errCrash is how tests end a transaction as a crash would: nothing is undone.
var errCrash = errors.New("crash")

func (a *actor) act(ctx context.Context, res *Result) error {
	if err := a.beforeScripts(ctx); err != nil {
		return err
	}
	defer a.afterScripts()
	a.runUnlinkScripts(ctx, res)
	if err := a.choose(); err != nil {
		return err
	}
	if err := a.runScripts(ctx, preLink, res); err != nil {
		return err
	}
	if err := a.setAside(ctx); err != nil {
		return err
	}
	if err := a.makeDirs(); err != nil {
		return err
	}
	if err := a.makeFiles(ctx); err != nil {
		return err
	}
	if err := a.compile(ctx); err != nil {
		return err
	}
	return a.runScripts(ctx, postLink, res)
}

// stage writes the records and the history to be.
func (a *actor) stage() error {
	dir := path.Join(transactionDir, stagedDir)
	var g errgroup.Group
	g.SetLimit(a.o.workers())
	for _, it := range a.p.order {
		if it.kept != nil && !it.changed {
			continue
		}
		g.Go(func() error {
			r := a.recordOf(it)
			data, err := r.Bytes()
			if err != nil {
				return err
			}
			return writeDurably(a.t.meta, path.Join(dir, r.MetaName()), data, false) // one flush serves all
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if a.p.fresh {
		err := writeDurably(a.t.root, cacheTag, []byte(cacheTagText), false)
		if err != nil && !errors.Is(err, fs.ErrExist) { // somebody else wrote one meanwhile
			return err
		}
		if err == nil {
			a.t.noteMade([]string{cacheTag})
		}
	}
	rev := a.p.change.revision()
	rev.Time, rev.Command, rev.Tool, rev.Requests = a.o.now().Format(historyTime), a.o.Command, a.o.Tool, a.o.Requests
	return writeDurably(a.t.meta, path.Join(dir, historyFile), rev.append(a.history), false)
}

// readHistory reads what has happened so far, before a script can change it.
func (a *actor) readHistory() (err error) {
	a.history, err = a.t.meta.ReadFile(historyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncAll flushes everything that was made.
func (t *transaction) syncAll() error {
	f, err := t.meta.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return disk.Flush(f)
}
