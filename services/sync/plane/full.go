package plane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/services/sync"
)

// maxRecords bounds the memory that the facts of one index take, at 72 bytes each: twice the largest channel there is.
const maxRecords = 3_000_000

// fetchFull gets the full index of a directory, in the form that was there last time first. nil means that it has not
// changed.
func (p *Plane) fetchFull(ctx context.Context, c *channel, remote *fetch.Remote, k familyKey, old *state) (*state, error) {
	order := sync.IndexNames()
	if old != nil {
		_, served := split(old.Source)
		order = append([]string{served}, slices.DeleteFunc(order, func(n string) bool { return n == served })...)
	}
	var broken error
	for _, name := range order {
		st, err := p.fetchFullAs(ctx, c, remote, k, old, name, broken != nil)
		switch {
		case err == nil:
			return st, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case fault.Is(err, fault.NotFound):
			continue
		case fault.Is(err, fault.LostRace):
			return nil, err
		}
		if broken == nil {
			broken = fmt.Errorf("%s: %w", join(k.dir, name), err)
		}
		if !sync.MayDiffer(err) {
			break
		}
	}
	if broken != nil {
		return nil, broken
	}
	return nil, fault.New(fault.NotFound, "upstream has no index in %s", k.dir).WithReason(fetch.ReasonNotFound)
}

func (p *Plane) fetchFullAs(ctx context.Context, c *channel, remote *fetch.Remote, k familyKey, old *state, name string, force bool) (*state, error) {
	req := conditional(old, join(k.dir, name), force)
	req.MaxSize = p.deps.MaxIndexSize
	info, res, err := p.download(ctx, remote, req, nil, blob.PutOptions{})
	if err != nil {
		return nil, err
	}
	if res.NotModified {
		if same, err := p.unchanged(ctx, c, k, old, res); same || err != nil {
			return nil, err
		}
		return p.fetchFullAs(ctx, c, remote, k, nil, name, true)
	}
	st := &state{
		Source: req.Path, ETag: res.ETag, LastModified: timeOf(res.LastModified), SourceDigest: info.Digest[:],
		Generation: generationOf(c, info.Digest), Documents: map[string]document{}, ModifiedAt: res.LastModified,
	}
	if st.ModifiedAt.IsZero() {
		st.ModifiedAt = time.Now()
	}
	if old != nil {
		if old.Generation == st.Generation {
			st.Body = old.Body
			return st, nil
		}
		st.Former = old.Facts
	}
	st.Body = body{document{info.Digest, info.Size}, string(repodata.EncodingOf(name))}
	return st, p.heavily(ctx, func() error { return p.readFull(ctx, c, remote, k, st, name) })
}

// readFull makes facts of an index that was just received, and narrows it if it must.
func (p *Plane) readFull(ctx context.Context, c *channel, remote *fetch.Remote, k familyKey, st *state, name string) error {
	facts := &factsBuilder{}
	order := &ordered{}
	rewrite := false
	doc, err := p.readBody(ctx, st.Body, repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			order.see(b, key)
			filename := b.Filename(key)
			if !sync.Wanted(c.mirror(), filename) {
				rewrite = true
				return nil
			}
			rec, err := repodata.ParseRecord(raw)
			if err == nil {
				facts.add(filename, factOf(rec))
			}
			return nil // one that cannot be read is one that cannot be had
		},
		Removed: func(filename string) error {
			rewrite = rewrite || !sync.Wanted(c.mirror(), filename)
			return nil
		},
		Problem: func(*repodata.Error) error { return nil },
		Limits:  repodata.ReadLimits{Records: maxRecords},
	})
	if err != nil {
		return fault.New(fault.Upstream, "the index cannot be read: %w", err)
	}
	if doc.Info.BaseURL != "" {
		u, err := sync.JoinBase(remote.BaseURL(), st.Source, doc.Info.BaseURL)
		if err != nil {
			return err
		}
		st.Base, rewrite = u.String(), true // clients stay with us
	}
	info, err := facts.put(ctx, p.deps.Blobs)
	if err != nil {
		return err
	}
	if err := p.hold(ctx, info); err != nil {
		return err
	}
	st.Facts = info.Digest[:]
	path := join(k.dir, name)
	if rewrite {
		if st.Body, err = p.narrow(ctx, c, st.Body, doc, order.sorted()); err != nil {
			return err
		}
		path = join(k.dir, nameFull+".zst")
	} else if one, err := p.oneFrame(ctx, st.Body); err != nil || !one {
		return err // clients that stop behind the first frame would see half of it: it is packed anew when asked for
	}
	st.Documents[path] = st.Body.document
	return nil
}

// readBody reads a stored document, which must be one to its end.
func (p *Plane) readBody(ctx context.Context, b body, opts repodata.ReadOptions) (*repodata.Document, error) {
	r, err := p.openBody(ctx, b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	doc, err := repodata.Read(r, opts)
	if err != nil {
		return nil, err
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(r, 1)); err != nil || n != 0 {
		return nil, errors.Join(err, errors.New("it goes on behind its end"))
	}
	return doc, nil
}

// openBody opens a document unpacked.
func (p *Plane) openBody(ctx context.Context, b body) (io.ReadCloser, error) {
	blob, err := p.deps.Blobs.Open(ctx, b.Digest)
	if err != nil {
		return nil, err
	}
	dec, err := repodata.NewDecoder(blob, repodata.Encoding(b.Encoding), repodata.DecodeLimits{})
	if err != nil {
		blob.Close()
		return nil, err
	}
	return &unpacked{dec, blob}, nil
}

type unpacked struct {
	io.ReadCloser
	under io.Closer
}

func (u *unpacked) Close() error { return errors.Join(u.ReadCloser.Close(), u.under.Close()) }

func factOf(rec repodata.Record) fact {
	f := fact{sha256: digestOf(rec.SHA256, 32), md5: digestOf(rec.MD5, 16), size: -1}
	if rec.Size > 0 && rec.Size <= math.MaxInt64 {
		f.size = int64(rec.Size)
	}
	return f
}

// ordered learns whether records come in the order that a Writer wants.
type ordered struct {
	last   string
	broken bool
}

func (o *ordered) see(b repodata.Bucket, key string) {
	s := placeOf(b, key)
	o.broken = o.broken || s <= o.last
	o.last = s
}

func (o *ordered) sorted() bool { return !o.broken }

// placeOf sorts as a Writer wants it: packages, packages.conda, then those of CEP 48.
func placeOf(b repodata.Bucket, key string) string {
	switch b {
	case repodata.TarBz2:
		return "0\x00" + key
	case repodata.Conda:
		return "1\x00" + key
	}
	return "2" + string(b) + "\x00" + key
}

// narrow writes the document anew, with what the lists let in and without base URL, and packs it. Records are passed on
// byte for byte. One that is not sorted has to be held in memory for that.
func (p *Plane) narrow(ctx context.Context, c *channel, b body, doc *repodata.Document, sorted bool) (body, error) {
	info := doc.Info
	info.BaseURL = ""
	out, err := p.build(ctx, repodata.Zstd, func(w io.Writer) error {
		wr := repodata.NewWriter(w, info, doc.Extra...)
		var held []repodata.Entry
		var removed []string
		_, err := p.readBody(ctx, b, repodata.ReadOptions{
			Record: func(bucket repodata.Bucket, key string, raw []byte) error {
				if !sync.Wanted(c.mirror(), bucket.Filename(key)) {
					return nil
				}
				if !sorted {
					held = append(held, repodata.Entry{Bucket: bucket, Key: key, Raw: slices.Clone(raw)})
					return nil
				}
				return wr.Record(bucket, key, raw)
			},
			Removed: func(filename string) error {
				if sync.Wanted(c.mirror(), filename) {
					removed = append(removed, filename)
				}
				return nil
			},
			Problem: func(*repodata.Error) error { return nil },
			Limits:  repodata.ReadLimits{Records: maxRecords},
		})
		if err != nil {
			return err
		}
		slices.SortFunc(held, func(x, y repodata.Entry) int {
			return strings.Compare(placeOf(x.Bucket, x.Key), placeOf(y.Bucket, y.Key))
		})
		for _, e := range held {
			if err := wr.Record(e.Bucket, e.Key, e.Raw); err != nil {
				return err
			}
		}
		slices.Sort(removed)
		for _, name := range slices.Compact(removed) {
			if err := wr.Removed(name); err != nil {
				return err
			}
		}
		return wr.Close()
	})
	return body{out, string(repodata.Zstd)}, err
}

// build stores what write writes, packed.
func (p *Plane) build(ctx context.Context, enc repodata.Encoding, write func(io.Writer) error) (document, error) {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		z, err := repodata.NewEncoder(pw, enc)
		if err == nil {
			err = write(z)
			if cerr := z.Close(); err == nil {
				err = cerr
			}
		}
		pw.CloseWithError(err)
	}()
	info, err := p.deps.Blobs.Put(ctx, pr, blob.PutOptions{})
	pr.CloseWithError(io.ErrClosedPipe)
	<-done
	if err != nil {
		return document{}, err
	}
	return document{info.Digest, info.Size}, p.hold(ctx, info)
}

// recordFact is factOf for a record as it stands in a shard.
func recordFact(raw []byte) (fact, error) {
	rec, err := repodata.ParseRecord(raw)
	return factOf(rec), err
}
