package repodata

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

const (
	// MaxShard is what a shard may measure decompressed: conda refuses more.
	MaxShard = 16 << 20
	// MaxShardIndex is the same for an index of shards.
	MaxShardIndex = 128 << 20
	// maxShardRead is generous with other servers' shards; later clients take as much.
	maxShardRead = 64 << 20
)

// Shard is all that one subdir has of one package name (CEP 16).
type Shard struct {
	Records []ShardRecord // in any order; a parsed shard has them as it listed them
	Removed []string
	Extra   []Member // unknown top-level keys
}

// ShardRecord is a record in a shard.
type ShardRecord struct {
	Bucket Bucket
	Key    string // file name, in v3 buckets without extension
	Raw    []byte // JSON; a parsed record has its run_exports in here
	// RunExports, if not nil, is JSON that takes the place of run_exports in Raw (CEP 21): {} says that the package has
	// none. Without the key nothing is known, and clients open the package to see. Parsing leaves it nil.
	RunExports []byte
}

// packers are reused: their stacks and buffers reach the size of the largest shard soon.
var packers = sync.Pool{New: func() any { return new(packer) }}

// keptBuffer is the largest buffer that goes back to the pool.
const keptBuffer = 1 << 20

// BuildShard serialises a shard and returns it compressed, with the digest that is its address. Equal shards give equal
// bytes, whatever the order of records and keys. Raw and RunExports must be JSON whose syntax is known to be right.
//
// It fails with an *Error that names the record if one is there twice, has a key twice, or has a number beyond doubles;
// with a *LimitError inside if the shard exceeds MaxShard.
func BuildShard(s Shard) (compressed []byte, digest [32]byte, err error) {
	p := packers.Get().(*packer)
	defer func() {
		if cap(p.out) <= keptBuffer {
			p.out, p.members = p.out[:0], p.members[:0]
			packers.Put(p)
		}
	}()
	p.out = p.out[:0]
	if err := p.shard(s); err != nil {
		return nil, digest, err
	}
	if len(p.out) > MaxShard {
		limit := &LimitError{What: "shard", Limit: MaxShard}
		return nil, digest, &Error{Msg: limit.Error(), Err: limit}
	}
	compressed = compressFrame(make([]byte, 0, len(p.out)/3+128), p.out)
	return compressed, sha256.Sum256(compressed), nil
}

func (p *packer) shard(s Shard) error {
	records := s.Records
	order := func(a, b ShardRecord) int {
		return cmp.Or(a.Bucket.rank()-b.Bucket.rank(), strings.Compare(string(a.Bucket), string(b.Bucket)),
			strings.Compare(a.Key, b.Key))
	}
	if !slices.IsSortedFunc(records, order) {
		records = slices.SortedFunc(slices.Values(records), order)
	}
	if len(records) > 0 && records[0].Bucket.rank() < 0 {
		return &Error{Path: records[0].Bucket.path(records[0].Key), Msg: "unknown bucket"}
	}
	take := func(b Bucket) []ShardRecord { // records of b are next
		n := 0
		for n < len(records) && records[n].Bucket == b {
			n++
		}
		taken := records[:n]
		records = records[n:]
		return taken
	}
	// "packages" must be there even when empty: rattler has no default for it.
	sections := []section{
		{string(TarBz2), bucketSection(TarBz2, take(TarBz2))},
		{string(Conda), bucketSection(Conda, take(Conda))},
		{"removed", removedSection(s.Removed)},
	}
	var v3 []section
	for len(records) > 0 {
		b := records[0].Bucket
		v3 = append(v3, section{b.V3Name(), bucketSection(b, take(b))})
	}
	if v3 != nil {
		sections = append(sections, section{"v3", mapSection(v3)})
	}
	for _, m := range s.Extra {
		sections = append(sections, section{m.Key, func(p *packer) error {
			p.plain = false
			if err := p.value(m.Raw, 2); err != nil {
				return &Error{Path: pointer(m.Key), Msg: err.Error(), Err: err}
			}
			return nil
		}})
	}
	return mapSection(sections)(p)
}

// section is an entry of one of the outer maps, written when its turn in the order of keys has come.
type section struct {
	key   string
	write func(*packer) error
}

func mapSection(sections []section) func(*packer) error {
	return func(p *packer) error {
		slices.SortFunc(sections, func(a, b section) int { return strings.Compare(a.key, b.key) })
		p.out = appendMapHeader(p.out, len(sections))
		for i, s := range sections {
			if i > 0 && sections[i-1].key == s.key {
				return &Error{Path: pointer(s.key), Msg: "key is there twice"}
			}
			p.out = appendText(p.out, s.key)
			if err := s.write(p); err != nil {
				return err
			}
		}
		return nil
	}
}

func bucketSection(b Bucket, records []ShardRecord) func(*packer) error {
	return func(p *packer) error {
		p.out = appendMapHeader(p.out, len(records))
		for i, r := range records {
			if i > 0 && records[i-1].Key == r.Key {
				return &Error{Path: b.path(r.Key), Msg: "file name is there twice"}
			}
			p.out = appendText(p.out, r.Key)
			if err := p.record(r.Raw, r.RunExports); err != nil {
				return &Error{Path: b.path(r.Key), Msg: err.Error(), Err: err}
			}
		}
		return nil
	}
}

func removedSection(names []string) func(*packer) error {
	return func(p *packer) error {
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		p.out = appendArrayHeader(p.out, len(names))
		for _, n := range names {
			p.out = appendText(p.out, n)
		}
		return nil
	}
}

// ParseOptions guide the reading of shards and their index.
type ParseOptions struct {
	// Size is the most decompressed bytes; 0 means 64 MiB for a shard, 128 MiB for an index.
	Size int64
	// Problem gets each defect that concerns one record or name only; see ReadOptions.
	Problem func(*Error) error
}

func (o ParseOptions) problem(path, msg string) error {
	e := &Error{Path: path, Msg: msg}
	if o.Problem == nil {
		return e
	}
	return o.Problem(e)
}

// ParseShard reads a compressed shard. Digests may be byte strings or hex text; an empty input is an error. The caller
// has compared the digest of data with the index.
func ParseShard(data []byte, opts ParseOptions) (*Shard, error) {
	plain, err := decompressAll(data, cmp.Or(opts.Size, maxShardRead))
	if err != nil {
		return nil, err
	}
	p := &shardParser{u: unpacker{data: plain}, opts: opts, shard: &Shard{}}
	if err := p.top(); err != nil {
		return nil, p.locate(err)
	}
	return p.shard, nil
}

type shardParser struct {
	u     unpacker
	opts  ParseOptions
	shard *Shard
	check checker
	path  string // of the value being read
}

// locate makes an *Error of what the unpacker says.
func (p *shardParser) locate(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Path: p.path, Offset: int64(p.u.pos), Msg: err.Error(), Err: err}
}

// each calls f for every key of the map that comes next; keys must be unique.
func (p *shardParser) each(f func(key string) error) error {
	n, err := p.u.mapHeader()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for range n {
		key, err := p.u.key()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("key %.80q is there twice", key)
		}
		seen[key] = true
		if err := f(key); err != nil {
			return err
		}
	}
	return nil
}

func (p *shardParser) top() error {
	err := p.each(func(key string) error {
		p.path = pointer(key)
		switch key {
		case string(TarBz2), string(Conda):
			return p.bucket(Bucket(key))
		case "v3":
			return p.each(func(name string) error {
				p.path = pointer("v3", name)
				return p.bucket(Bucket(v3Prefix + name))
			})
		case "removed":
			return p.removed()
		}
		raw, err := p.u.json(nil, 1)
		p.shard.Extra = append(p.shard.Extra, Member{key, raw})
		return err
	})
	if err != nil {
		return err
	}
	p.path = ""
	if p.u.pos != len(p.u.data) {
		return errors.New("data after the shard")
	}
	return nil
}

func (p *shardParser) bucket(b Bucket) error {
	return p.each(func(key string) error {
		p.path = b.path(key)
		raw, err := p.u.json(nil, 1)
		if err != nil {
			return err
		}
		if msg := checkFilename(b, key); msg != "" {
			return p.opts.problem(p.path, msg)
		}
		if path, msg, ok := p.check.record(raw, b.Extension() != "" && b != V3Whl); !ok {
			return p.opts.problem(p.path+path, msg)
		}
		p.shard.Records = append(p.shard.Records, ShardRecord{Bucket: b, Key: key, Raw: raw})
		return nil
	})
}

func (p *shardParser) removed() error {
	it, err := p.u.next()
	switch {
	case err != nil:
		return err
	case it.kind == kindNil:
		return nil
	case it.kind != kindArray:
		return errors.New("not a list")
	}
	for i := range it.n {
		it, err := p.u.next()
		if err != nil {
			return err
		}
		if it.kind != kindText {
			return errors.New("removed name is not text")
		}
		name := string(it.b)
		if msg := checkPathComponent(name); msg != "" {
			if err := p.opts.problem(fmt.Sprintf("/removed/%d", i), msg); err != nil {
				return err
			}
			continue
		}
		p.shard.Removed = append(p.shard.Removed, name)
	}
	return nil
}
