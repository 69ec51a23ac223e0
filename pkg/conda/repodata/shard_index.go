package repodata

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ShardIndex is repodata_shards.msgpack.zst: which shard holds which package name of one subdir (CEP 16).
type ShardIndex struct {
	Subdir string
	// BaseURL is put before file names, ShardsBaseURL before the hex digest of a shard; both relative to the index's own
	// URL, or absolute. They are always written, even empty: rattler refuses an index without.
	BaseURL       string
	ShardsBaseURL string
	CreatedAt     time.Time // zero: not written

	RepodataRevisions jsontext.Value // CEP 48; raw, nil if absent
	ChannelRelations  jsontext.Value // CEP 42; raw, nil if absent
	Extra             []Member       // other keys of info

	Shards map[string][32]byte // package name → SHA-256 of the compressed shard
	// Names are the keys of Shards in order, of one who has them so: to sort them is the longer part of the work. Nil: they
	// are sorted.
	Names []string
}

// ShardPath is the file name of a shard behind ShardsBaseURL.
func ShardPath(digest [32]byte) string { return hex.EncodeToString(digest[:]) + ".msgpack.zst" }

// BuildIndex serialises an index, compressed. Equal indexes give equal bytes.
func BuildIndex(ix ShardIndex) ([]byte, error) {
	if err := ix.info().check(); err != nil {
		return nil, err
	}
	info := slices.Clone(ix.Extra)
	info = append(info,
		Member{"subdir", appendQuoted(nil, ix.Subdir)},
		Member{"base_url", appendQuoted(nil, ix.BaseURL)},
		Member{"shards_base_url", appendQuoted(nil, ix.ShardsBaseURL)})
	if !ix.CreatedAt.IsZero() {
		info = append(info, Member{"created_at", appendQuoted(nil, ix.CreatedAt.UTC().Format(time.RFC3339))})
	}
	if ix.RepodataRevisions != nil {
		info = append(info, Member{"repodata_revisions", ix.RepodataRevisions})
	}
	if ix.ChannelRelations != nil {
		info = append(info, Member{"channel_relations", ix.ChannelRelations})
	}
	p := &packer{out: make([]byte, 0, 512+64*len(ix.Shards))}
	p.out = appendMapHeader(p.out, 3)
	p.out = appendText(p.out, "info")
	if err := p.value(appendObject(nil, info), 2); err != nil {
		return nil, &Error{Path: "/info", Msg: err.Error(), Err: err}
	}
	p.out = appendText(p.out, "shards")
	p.out = appendMapHeader(p.out, len(ix.Shards))
	names := ix.Names
	if names == nil {
		names = slices.Sorted(maps.Keys(ix.Shards))
	}
	if len(names) != len(ix.Shards) {
		return nil, &Error{Path: "/shards", Msg: "the names are not those of the shards"}
	}
	for i, name := range names {
		if _, ok := ix.Shards[name]; !ok || i > 0 && names[i-1] >= name {
			return nil, &Error{Path: pointer("shards", name), Msg: "the names are not those of the shards, in order"}
		}
		if msg := checkPathComponent(name); msg != "" {
			return nil, &Error{Path: pointer("shards", name), Msg: msg}
		}
		digest := ix.Shards[name]
		p.out = appendDigest(appendText(p.out, name), digest[:])
	}
	p.out = appendUint(appendText(p.out, "version"), 1)
	if len(p.out) > MaxShardIndex {
		limit := &LimitError{What: "index of shards", Limit: MaxShardIndex}
		return nil, &Error{Msg: limit.Error(), Err: limit}
	}
	return compressIndex(p.out), nil
}

// info is what Info can check of an index.
func (ix ShardIndex) info() Info {
	return Info{
		RepodataRevisions: ix.RepodataRevisions, ChannelRelations: ix.ChannelRelations,
		Extra: append([]Member{{"shards_base_url", []byte("null")}, {"created_at", []byte("null")}}, ix.Extra...),
	}
}

// ParseIndex reads a compressed index. It accepts digests as hex text, and what older writers did: repodata_version, or
// a version inside info, instead of version.
func ParseIndex(data []byte, opts ParseOptions) (*ShardIndex, error) {
	plain, err := decompressAll(data, cmp.Or(opts.Size, MaxShardIndex))
	if err != nil {
		return nil, err
	}
	p := &shardParser{u: unpacker{data: plain}, opts: opts}
	ix := &ShardIndex{Shards: map[string][32]byte{}}
	if err := p.index(ix); err != nil {
		return nil, p.locate(err)
	}
	return ix, nil
}

func (p *shardParser) index(ix *ShardIndex) error {
	hasInfo := false
	err := p.each(func(key string) error {
		p.path = pointer(key)
		switch key {
		case "shards":
			return p.each(func(name string) error { return p.indexEntry(ix, name) })
		case "info":
			hasInfo = true
			raw, err := p.u.json(nil, 1)
			if err != nil {
				return err
			}
			return ix.readInfo(raw)
		case "version", "repodata_version":
			raw, err := p.u.json(nil, 1)
			if err != nil {
				return err
			}
			return checkIndexVersion(raw)
		}
		_, err := p.u.json(nil, 1) // unknown
		return err
	})
	if err != nil {
		return err
	}
	p.path = ""
	switch {
	case !hasInfo:
		return errors.New("index has no info")
	case p.u.pos != len(p.u.data):
		return errors.New("data after the index")
	}
	return nil
}

func (p *shardParser) indexEntry(ix *ShardIndex, name string) error {
	it, err := p.u.next()
	if err != nil {
		return err
	}
	path := pointer("shards", name)
	if msg := checkPathComponent(name); msg != "" {
		return p.opts.problem(path, msg)
	}
	var digest [32]byte
	switch {
	case it.kind == kindBin && len(it.b) == 32:
		copy(digest[:], it.b)
	case it.kind == kindText && len(it.b) == 64:
		if _, err := hex.Decode(digest[:], it.b); err != nil {
			return p.opts.problem(path, "digest is not hex")
		}
	case it.kind == kindArray, it.kind == kindMap:
		p.path = path
		return errors.New("digest is not a byte string") // and what follows cannot be told from the next name
	default:
		return p.opts.problem(path, "digest is not 32 bytes")
	}
	ix.Shards[name] = digest
	return nil
}

func (ix *ShardIndex) readInfo(raw []byte) error {
	o := scanObject(raw)
	for o.next() {
		v := bytes.Clone(o.value())
		switch string(o.key) {
		case "subdir":
			ix.Subdir = maybeString(v)
		case "base_url":
			ix.BaseURL = maybeString(v)
		case "shards_base_url":
			ix.ShardsBaseURL = maybeString(v)
		case "created_at":
			// Informational only; one that cannot be read is as good as none.
			ix.CreatedAt, _ = time.Parse(time.RFC3339, maybeString(v))
		case "repodata_revisions":
			ix.RepodataRevisions = v
		case "channel_relations":
			ix.ChannelRelations = v
		case "version":
			if err := checkIndexVersion(v); err != nil {
				return err
			}
		default:
			ix.Extra = append(ix.Extra, Member{string(o.key), v})
		}
	}
	return o.err
}

func checkIndexVersion(raw []byte) error {
	if v, ok := parseVersion(raw); !ok || v != 1 {
		return fmt.Errorf("version %.20s of shards is not known", raw)
	}
	return nil
}
