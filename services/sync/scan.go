package sync

import (
	"bufio"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash"
	"iter"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// facts are what one reading of an index brings to light, before anything is made of it.
type facts struct {
	records int64    // sound ones
	taken   int64    // of these: those that become entries of a plan
	v3      int64    // records that nobody takes yet
	removed []string // names under `removed`
	base    string   // info.base_url
	content []byte   // digest of all that a plan is made of
	sound   bool     // no record was passed over
	// inOrder says that the names of each bucket ascend, and that .tar.bz2 files come first, as most writers do it: entries
	// can then be made in the order of a plan as the index is read, without holding them all.
	inOrder bool
	buckets [2]int64 // taken ones of packages and of packages.conda
}

// takes reports whether a record becomes an entry. It must say the same each time.
func takes(settings *channelsv1.MirrorSettings, b repodata.Bucket, key string) bool {
	return !b.V3() && wanted(settings, key)
}

// examine reads a stored index to its end.
func examine(ctx context.Context, blobs blob.Store, s subdirState, settings *channelsv1.MirrorSettings) (*facts, error) {
	f := &facts{sound: true, inOrder: true}
	// SHA-512/256, for on processors without instructions for SHA-256 it is half again as fast.
	sum := contentSum{Hash: sha512.New512_256()}
	var last string
	bucket := repodata.TarBz2
	doc, err := readIndex(ctx, blobs, s, repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			f.records++
			sum.add(string(b), key)
			sum.bytes(raw)
			switch {
			case b.V3():
				f.v3++
				return nil
			case b != bucket:
				f.inOrder = f.inOrder && b == repodata.Conda
				bucket = b
			case key <= last && last != "":
				f.inOrder = false
			}
			last = key
			if takes(settings, b, key) {
				f.taken++
				f.buckets[bucketNumber(b)]++
			}
			return nil
		},
		Removed: func(filename string) error {
			f.removed = append(f.removed, filename)
			sum.add("removed", filename)
			return nil
		},
		Problem: func(p *repodata.Error) error { // told when the plan is made
			f.sound = false
			sum.add("problem", p.Path)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	f.base = doc.Info.BaseURL
	sum.add("base_url", f.base)
	f.content = sum.Sum(nil)
	return f, nil
}

func bucketNumber(b repodata.Bucket) int {
	if b == repodata.TarBz2 {
		return 0
	}
	return 1
}

// contentSum is a digest of texts of any length, each with its length before it.
type contentSum struct {
	hash.Hash
	buf []byte
}

func (c *contentSum) add(texts ...string) {
	c.buf = c.buf[:0]
	for _, s := range texts {
		c.buf = append(binary.AppendUvarint(c.buf, uint64(len(s))), s...)
	}
	c.Write(c.buf)
}

func (c *contentSum) bytes(b []byte) {
	c.buf = binary.AppendUvarint(c.buf[:0], uint64(len(b)))
	c.Write(c.buf)
	c.Write(b)
}

// scan turns one stored index into entries.
type scan struct {
	planInput
	subdirState
	*facts
	base *url.URL // where the files are, if not beside the index
}

func newScan(ctx context.Context, in planInput, ix index) (*scan, error) {
	sc := &scan{planInput: in, subdirState: ix.subdirState, facts: ix.facts}
	if sc.facts == nil {
		var err error
		if sc.facts, err = examine(ctx, in.blobs, ix.subdirState, in.settings); err != nil {
			return nil, err
		}
	}
	if sc.facts.base == "" {
		return sc, nil
	}
	var err error
	sc.base, err = joinBase(in.remote.BaseURL(), ix.IndexPath, sc.facts.base)
	return sc, err
}

// each calls add with the entries of the index, in the order of their paths.
func (sc *scan) each(ctx context.Context, r *Result, add func(*channelsv1.PlanEntry) error) error {
	if sc.v3 > 0 {
		r.warn("%s: %d records of v3 are not mirrored", sc.IndexPath, sc.v3)
	}
	switch {
	case !sc.inOrder:
		return sc.sorted(ctx, r, add)
	case sc.buckets[0] > 0 && sc.buckets[1] > 0:
		return sc.merged(ctx, r, add)
	}
	return sc.read(ctx, r, func(_ repodata.Bucket, key string, raw []byte) error { return add(sc.entry(r, key, raw)) })
}

// read calls fn for the records that become entries. r hears of the others; nil if it shall not.
func (sc *scan) read(ctx context.Context, r *Result, fn func(b repodata.Bucket, key string, raw []byte) error) error {
	_, err := readIndex(ctx, sc.blobs, sc.subdirState, repodata.ReadOptions{
		Trusted: sc.sound, // examine has looked into each record
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			if !takes(sc.settings, b, key) {
				return nil
			}
			return fn(b, key, raw)
		},
		Problem: func(p *repodata.Error) error {
			if r != nil {
				r.fail(sc.Subdir+"/"+fileOf(p.Path), reasonRecord, p.Error())
			}
			return nil
		},
	})
	return err
}

// sorted makes the entries of an index in no order. Its records go through a temporary file without a name; memory holds
// only where they are.
func (sc *scan) sorted(ctx context.Context, r *Result, add func(*channelsv1.PlanEntry) error) (err error) {
	type place struct {
		key string
		at  int64
		n   int
	}
	file, err := os.CreateTemp("", "entrepot-index-")
	if err != nil {
		return &storeError{err}
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := os.Remove(file.Name()); err != nil {
		return &storeError{err}
	}
	out := bufio.NewWriterSize(file, 256<<10)
	places := make([]place, 0, sc.taken)
	at, longest := int64(0), 0
	if err := sc.read(ctx, r, func(_ repodata.Bucket, key string, raw []byte) error {
		if _, err := out.Write(raw); err != nil {
			return &storeError{err}
		}
		places = append(places, place{key, at, len(raw)})
		at += int64(len(raw))
		longest = max(longest, len(raw))
		return nil
	}); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return &storeError{err}
	}
	slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.key, b.key) })
	buf := make([]byte, longest)
	for _, p := range places {
		if _, err := file.ReadAt(buf[:p.n], p.at); err != nil {
			return &storeError{err}
		}
		if err := add(sc.entry(r, p.key, buf[:p.n])); err != nil {
			return err
		}
	}
	return nil
}

// merged reads the index with two readers side by side, one in each bucket.
func (sc *scan) merged(ctx context.Context, r *Result, add func(*channelsv1.PlanEntry) error) error {
	next, stop := iter.Pull2(sc.bucket(ctx, nil, repodata.TarBz2))
	defer stop()
	first, err, more := next()
	for e, cerr := range sc.bucket(ctx, r, repodata.Conda) {
		if cerr != nil {
			return cerr
		}
		for ; more && err == nil && first.Key < e.Key; first, err, more = next() {
			if err := add(sc.entry(r, first.Key, first.Raw)); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if err := add(sc.entry(r, e.Key, e.Raw)); err != nil {
			return err
		}
	}
	for ; more && err == nil; first, err, more = next() {
		if err := add(sc.entry(r, first.Key, first.Raw)); err != nil {
			return err
		}
	}
	return err
}

// errEnough ends a read before the end of the index.
var errEnough = errors.New("enough")

// bucket yields the records of one bucket that become entries; their bytes are valid until the next step.
func (sc *scan) bucket(ctx context.Context, r *Result, want repodata.Bucket) iter.Seq2[repodata.Entry, error] {
	return func(yield func(repodata.Entry, error) bool) {
		err := sc.read(ctx, r, func(b repodata.Bucket, key string, raw []byte) error {
			if b != want {
				if want == repodata.TarBz2 { // which come first: the rest is of the other one
					return errEnough
				}
				return nil
			}
			if !yield(repodata.Entry{Bucket: b, Key: key, Raw: raw}, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(repodata.Entry{}, err)
		}
	}
}

// entry makes the entry of a record, whose bytes it uses; one that cannot be taken keeps what the channel has.
func (sc *scan) entry(r *Result, key string, raw []byte) *channelsv1.PlanEntry {
	e, err := entryOf(sc.settings, sc.Subdir, key, raw)
	if err != nil {
		r.fail(sc.Subdir+"/"+key, reasonRecord, err.Error())
		return e
	}
	if why, ok := sc.refused(e); ok {
		r.fail(e.GetPath(), reasonPackage, why)
		e.Keep, e.Record, e.Sha256, e.Md5 = true, nil, nil, nil
	} else if sc.base != nil {
		e.Url = below(sc.remote.BaseURL(), sc.base, e.GetPath())
	}
	return e
}
