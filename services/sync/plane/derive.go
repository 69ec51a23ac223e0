package plane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// buildWait bounds how long a client waits for a form that is being made. The only slow one is bzip2, at 8 MB/s; who
// asks for it takes another when it is not there.
const buildWait = 20 * time.Second

// building is a form that is being made; doc and err are set when done is closed.
type building struct {
	done chan struct{}
	doc  document
	err  error
}

// form returns a form of the full index, which is made from the body when it is first asked for.
func (p *Plane) form(ctx context.Context, c *channel, k familyKey, st *state, path string) (document, error) {
	if d, ok := st.Documents[path]; ok {
		return d, nil
	}
	b, err := p.make(ctx, c, k, st, path)
	if err != nil {
		return document{}, err
	}
	timer := time.NewTimer(buildWait)
	defer timer.Stop()
	select {
	case <-b.done:
		return b.doc, b.err
	case <-timer.C:
		return document{}, fault.New(fault.NotFound, "%s is still being made", path)
	case <-ctx.Done():
		return document{}, context.Cause(ctx)
	}
}

// make makes a form, or joins those who do.
func (p *Plane) make(ctx context.Context, c *channel, k familyKey, st *state, path string) (*building, error) {
	name := c.key(st.Generation + path)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.builds[name]; b != nil {
		return b, nil
	}
	b := &building{done: make(chan struct{})}
	ok := p.backgroundLocked(ctx, func(ctx context.Context) {
		b.err = p.packed(ctx, func() (err error) {
			b.doc, err = p.derive(ctx, st, path)
			return err
		})
		if b.err == nil {
			if err := p.addForm(ctx, c, k, st, path, b.doc); err != nil {
				p.log.WarnContext(ctx, "a form of a proxied index cannot be recorded", "channel", c.GetChannel().GetName(), "path", path, "error", err)
			}
		}
		p.mu.Lock()
		delete(p.builds, name)
		p.mu.Unlock()
		close(b.done)
	})
	if !ok {
		return nil, errStopped
	}
	p.builds[name] = b
	return b, nil
}

// derive makes one form from the body.
func (p *Plane) derive(ctx context.Context, st *state, path string) (document, error) {
	_, name := split(path)
	enc := repodata.EncodingOf(name)
	if strings.HasPrefix(name, nameCurrent) {
		return p.build(ctx, enc, func(w io.Writer) error { return p.writeCurrent(ctx, w, st) })
	}
	return p.build(ctx, enc, func(w io.Writer) error {
		r, err := p.openBody(ctx, st.Body)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(w, r)
		return err
	})
}

// writeCurrent makes current_repodata.json. Upstream's own would be of another moment than the rest of the family.
func (p *Plane) writeCurrent(ctx context.Context, w io.Writer, st *state) error {
	doc, err := p.readBody(ctx, st.Body, repodata.ReadOptions{Trusted: true})
	if err != nil {
		return err
	}
	info := doc.Info
	info.BaseURL = ""
	out := repodata.NewWriter(w, info)
	if err := repodata.WriteCurrent(out, p.entries(ctx, st.Body), repodata.CurrentOptions{}); err != nil {
		return fmt.Errorf("make %s: %w", nameCurrent, err)
	}
	return out.Close()
}

// entries walks the records of a document.
func (p *Plane) entries(ctx context.Context, b body) iter.Seq2[repodata.Entry, error] {
	return func(yield func(repodata.Entry, error) bool) {
		r, err := p.openBody(ctx, b)
		if err != nil {
			yield(repodata.Entry{}, err)
			return
		}
		defer r.Close()
		repodata.Records(r, repodata.ReadOptions{Problem: func(*repodata.Error) error { return nil }})(yield)
	}
}

// addForm records a form, if the family is still of the generation that it was made from.
func (p *Plane) addForm(ctx context.Context, c *channel, k familyKey, st *state, path string, d document) error {
	return p.leases.with(ctx, c.id, "index:"+k.String(), func(context.Context) (bool, error) { return false, nil }, func(ctx context.Context) error {
		added, err := p.store.addDocument(ctx, c.id, k, st.Generation, path, d)
		if err != nil || !added {
			return err
		}
		now, err := p.held(ctx, c, k)
		if err != nil || now == nil || now.Generation != st.Generation {
			return err
		}
		_, err = p.deps.Channels.RecordProxied(ctx, &channelsv1.RecordProxiedRequest{
			ChannelId: c.id.String(), Settings: c.settings, Family: k.String(), Generation: now.Generation,
			FreshFor: durationpb.New(max(0, p.ttl(c, k)-now.age())),
			Files:    files(k, &state{Documents: map[string]document{path: d}, ModifiedAt: now.ModifiedAt}),
		})
		return err
	})
}

// oneFrame reports whether a document can be handed out as it is: not a .zst of several frames (RFC 8878, section 3.1),
// of which some clients read only the first. It walks over the blocks without unpacking them.
func (p *Plane) oneFrame(ctx context.Context, b body) (bool, error) {
	if repodata.Encoding(b.Encoding) != repodata.Zstd {
		return true, nil
	}
	f, err := p.deps.Blobs.Open(ctx, b.Digest)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 256<<10)
	head, err := r.Peek(zstd.HeaderMaxSize)
	if err != nil && err != io.EOF {
		return false, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil || h.Skippable {
		return false, nil
	}
	if _, err := r.Discard(h.HeaderSize); err != nil {
		return false, nil
	}
	for last := false; !last; {
		var block [3]byte
		if _, err := io.ReadFull(r, block[:]); err != nil {
			return false, nil
		}
		v := uint32(block[0]) | uint32(block[1])<<8 | uint32(block[2])<<16
		size := int(v >> 3)
		if v>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if _, err := r.Discard(size); err != nil {
			return false, nil
		}
		last = v&1 == 1
	}
	if h.HasCheckSum {
		if _, err := r.Discard(4); err != nil {
			return false, nil
		}
	}
	_, err = r.ReadByte()
	return err == io.EOF, nil
}
