package plane

import (
	"bytes"
	"context"
	"crypto/sha256"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// doubts finds the stored files of a directory for which a new index announces something else than they are.
type doubts struct {
	p           *Plane
	c           *channel
	k           familyKey
	before, now *facts
	looked      map[[sha256.Size]byte]bool // path and digest of files that were compared already
}

// newDoubts opens the facts of the new index, and of the one before as far as it is sure that channels knew it.
func (p *Plane) newDoubts(ctx context.Context, c *channel, k familyKey, before, now []byte) (_ *doubts, err error) {
	d := &doubts{p: p, c: c, k: k, looked: map[[sha256.Size]byte]bool{}}
	if d.now, err = openFacts(ctx, p.deps.Blobs, now); err != nil {
		return nil, err
	}
	if k.family == familyShards && len(before) > 0 {
		if d.before, err = openFacts(ctx, p.deps.Blobs, before); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *doubts) close() {
	d.now.Close()
	if d.before != nil {
		d.before.Close()
	}
}

// mark has the files asked for before they are served again. What was compared by an earlier call is passed over.
func (d *doubts) mark(ctx context.Context) error {
	for after := ""; ; {
		page, err := d.p.deps.Channels.ListProxied(ctx, &channelsv1.ListProxiedRequest{ChannelId: d.c.id.String(), Directory: d.k.dir + "/", After: after})
		if err != nil || len(page.GetFiles()) == 0 {
			return err
		}
		req := &channelsv1.RecordProxiedRequest{ChannelId: d.c.id.String(), Settings: d.c.settings}
		for _, f := range page.GetFiles() {
			after = f.GetPath()
			differs, err := d.differs(f)
			if err != nil {
				return err
			}
			if differs {
				req.Stale = append(req.Stale, f.GetPath())
			}
		}
		if len(req.Stale) == 0 {
			continue
		}
		if _, err := d.p.deps.Channels.RecordProxied(ctx, req); err != nil {
			return err
		}
	}
}

func (d *doubts) differs(f *channelsv1.ProxiedFile) (bool, error) {
	dir, name := split(f.GetPath())
	if dir != d.k.dir || !isPackage(name) {
		return false, nil
	}
	key := sha256.Sum256(append([]byte(f.GetPath()+"\x00"), f.GetWant()...))
	if d.looked[key] {
		return false, nil
	}
	d.looked[key] = true
	if d.k.family == familyFull {
		return announcedElse(d.now, name, f.GetWant())
	}
	return shardChanged(d.before, d.now, name)
}

// announcedElse reports whether an index lists a file as another one than it was when it was fetched. A file that is not
// listed any more stays as it is: locks of environments name it.
func announcedElse(index *facts, name string, want []byte) (bool, error) {
	f, ok, err := index.find(name)
	if err != nil || !ok {
		return false, err
	}
	if len(want) > 0 && len(want) == len(f.md5) { // the index may have had no SHA-256 then
		return !bytes.Equal(want, f.md5), nil
	}
	return !bytes.Equal(want, f.want()), nil
}

// shardChanged reports whether the shard that lists a file is another one, or may be since nobody knows the one before.
func shardChanged(before, now *facts, name string) (bool, error) {
	pkg, ok := packageOf(name)
	if !ok {
		return false, nil
	}
	b, has, err := now.find(pkg)
	if err != nil || !has || before == nil {
		return has, err
	}
	a, had, err := before.find(pkg)
	return !had || !bytes.Equal(a.sha256, b.sha256), err
}
