package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Finding is what is wrong with a path.
type Finding string

// Findings.
const (
	Missing   Finding = "missing"
	Modified  Finding = "modified" // other content than was installed
	WrongType Finding = "another type of file"
)

// Problem is a path of a prefix that is not as its package left it.
type Problem struct {
	Package string // name
	Path    string
	What    Finding
}

// String returns the problem as a line.
func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Package, p.Path, p.What) }

// Verify compares every file of a prefix with what the records say, reading all of them, and returns what differs, sorted
// by package and path. Files that no record lists are nobody's business. Byte code that was compiled on this machine may
// be missing or new: Python replaces it as it likes. Of symbolic links the text is compared where a record has its hash.
func Verify(ctx context.Context, prefix string) ([]Problem, error) {
	if !IsPrefix(prefix) {
		return nil, fmt.Errorf("%s: %w", prefix, ErrNoPrefix)
	}
	if Interrupted(prefix) {
		return nil, fmt.Errorf("%s: an installation was interrupted, or is under way", prefix)
	}
	records, err := Read(prefix)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(prefix)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found := make([][]Problem, len(records))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, r := range records {
		g.Go(func() (err error) {
			found[i], err = verifyRecord(ctx, root, r)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := slices.Concat(found...)
	slices.SortFunc(out, func(a, b Problem) int {
		if c := strings.Compare(a.Package, b.Package); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return out, nil
}

func verifyRecord(ctx context.Context, root *os.Root, r *Record) ([]Problem, error) {
	var out []Problem
	d := newDirs(root)
	defer d.close()
	for i := range r.Paths {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p := &r.Paths[i]
		what, err := verifyPath(d, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Path, err)
		}
		if what != "" {
			out = append(out, Problem{r.Name, p.Path, what})
		}
	}
	return out, nil
}

func verifyPath(d *dirs, p *Path) (Finding, error) {
	name := path.Base(p.Path)
	err := d.enter(parent(p.Path))
	var st fs.FileInfo
	if err == nil {
		st, err = d.here.Lstat(name)
	}
	switch {
	case isMissing(err) && p.Type == PycFile:
		return "", nil
	case isMissing(err):
		return Missing, nil
	case err != nil:
		return "", err
	}
	link := st.Mode()&fs.ModeSymlink != 0
	switch p.Type {
	case Directory:
		if !st.IsDir() {
			return WrongType, nil
		}
		return "", nil
	case PycFile:
		return "", nil
	case SoftLink:
		if !link {
			return WrongType, nil
		}
		text, err := d.here.Readlink(name)
		if err != nil || p.InPrefix == "" {
			return "", err
		}
		return verifyLink(d, name, text, p)
	}
	if link && p.SHA256 == "" && p.InPrefix == "" {
		return "", nil // a record from before paths_data does not tell links from files
	}
	if !st.Mode().IsRegular() {
		return WrongType, nil
	}
	want := p.InPrefix
	if want == "" {
		want = p.SHA256
		if p.Size != nil && st.Size() != *p.Size && want != "" && p.Placeholder == "" {
			return Modified, nil
		}
	}
	if want == "" {
		return "", nil
	}
	f, err := d.here.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if !strings.EqualFold(hex.EncodeToString(h.Sum(nil)), want) {
		return Modified, nil
	}
	return "", nil
}

// verifyLink accepts both customs: the hash of the link's text, and that of what it points to.
func verifyLink(d *dirs, name, text string, p *Path) (Finding, error) {
	sum := sha256.Sum256([]byte(text))
	if strings.EqualFold(hex.EncodeToString(sum[:]), p.InPrefix) {
		return "", nil
	}
	f, err := d.root.Open(path.Join(parent(p.Path), name))
	if err != nil {
		return Modified, nil //nolint:nilerr // it leads nowhere, or outside, and its text is not the one recorded
	}
	defer f.Close()
	h := sha256.New()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return Modified, err
	}
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if !strings.EqualFold(hex.EncodeToString(h.Sum(nil)), p.InPrefix) {
		return Modified, nil
	}
	return "", nil
}

// Repair brings a prefix into the state that its records describe: an interrupted installation is settled, and packages
// with a problem are installed again, from the cache or from where the records say. An unpacked package that was changed
// in the cache, through a link from some environment, is fetched anew. It returns what had been wrong.
func Repair(ctx context.Context, prefix string, o Options) ([]Problem, *Result, error) {
	for try := 1; ; try++ {
		problems, res, err := repair(ctx, prefix, o)
		if !errors.As(err, new(*ChangedError)) || try == 3 {
			return problems, res, err
		}
	}
}

func repair(ctx context.Context, prefix string, o Options) ([]Problem, *Result, error) {
	if err := Frozen(prefix); err != nil && !o.ForceFrozen {
		return nil, nil, err
	}
	records, recovered, err := Settle(ctx, prefix, o.Warn)
	if err != nil {
		return nil, nil, err
	}
	problems, err := Verify(ctx, prefix)
	if err != nil {
		return nil, nil, err
	}
	if len(problems) == 0 {
		return nil, &Result{Change: &Change{}, Recovered: recovered}, nil
	}
	o.From = records
	o.Anew = map[string]bool{}
	for _, p := range problems {
		o.Anew[p.Package] = true
	}
	var want []Package
	for _, r := range records {
		p := r.Package()
		want = append(want, p)
		if !o.Anew[r.Name] {
			continue
		}
		if p.SHA256 == "" && p.MD5 == "" && p.URL == "" {
			return problems, nil, fmt.Errorf("repair %s: its record says neither where it came from nor what it was", r.Stem())
		}
		if err := o.Cache.CheckOrRemove(ctx, cachePackage(&p)); err != nil {
			return problems, nil, err
		}
	}
	res, err := Install(ctx, prefix, want, o)
	if res != nil && recovered != NothingToRecover {
		res.Recovered = recovered
	}
	return problems, res, err
}

// Package is the installed package as one to be installed.
func (r *Record) Package() Package {
	p := Package{Record: r.Record, FileName: r.FileName, URL: r.URL, Channel: r.Channel}
	if p.FileName == "" {
		// Old records do not name the file; the URL's end does, and both formats install alike.
		p.FileName = path.Base(filepath.ToSlash(r.URL))
		if !strings.HasPrefix(p.FileName, r.Stem()+".") {
			p.FileName = r.Stem() + ".conda"
		}
	}
	return p
}

// List returns the packages of a prefix as ones to be installed: what Install is to be given so that all of them stay.
func List(records []*Record) []Package {
	out := make([]Package, len(records))
	for i, r := range records {
		out[i] = r.Package()
	}
	return out
}
