package arena

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Options of a builder and of Read.
type Options struct {
	// Subdir that the index is for.
	Subdir string
	// Problem is told of each record that is left out; may be nil.
	Problem func(error)
	// Size is a guess at the bytes of the document, to make room for once; 0 if there is none.
	Size int64
	// MaxRecord bounds the bytes of one record, MaxExtra those of info and of all that is no record, each; 0 means 4 and
	// 64 MiB.
	MaxRecord, MaxExtra int
}

// Builder makes an arena of single records. It is used from one goroutine.
type Builder struct {
	interner
	subdir  string
	info    repodata.Info
	problem func(error)
	defects []string

	recs    []Rec
	deps    []uint32
	removed map[string]bool

	// While file names ascend within a bucket, and the buckets follow each other, no file is there twice.
	ascending bool
	lastKey   []byte
	lastOrder uint16

	of    map[uint32][]uint32 // records by name, as far as filed, for Specs
	filed int

	vetted []uint8 // by string id: as what it was found to be good
	rest   []byte  // scratch
	keys   [][2]int
}

// What a string was checked to be good as.
const (
	goodName uint8 = 1 << iota
	goodVersion
	goodBuild
)

// NewBuilder returns a builder without records.
func NewBuilder(opts Options) *Builder {
	b := &Builder{subdir: opts.Subdir, problem: opts.Problem, removed: map[string]bool{}, ascending: true}
	b.init()
	if opts.Size > 0 {
		// Room that is not used is never touched, and so costs addresses only. A record has some 500 bytes and 8 dependencies.
		n := min(opts.Size, 4<<30) / 380
		b.recs = make([]Rec, 0, n)
		b.deps = make([]uint32, 0, 9*n)
		b.slab = make([]byte, 0, 24*n)
		b.offs = append(make([]uint32, 0, 3*n/2), b.offs...)
	}
	return b
}

// Removed notes a file that the index lists as removed: its record, whether it came before or comes later, is dropped.
func (b *Builder) Removed(file string) { b.removed[file] = true }

// SetInfo notes what the document says of itself.
func (b *Builder) SetInfo(info repodata.Info) { b.info = info }

func (b *Builder) defect(err error) {
	if len(b.defects) < MaxProblems {
		b.defects = append(b.defects, err.Error())
	}
	if b.problem != nil {
		b.problem(err)
	}
}

// Add takes a record with the key it has in its bucket. A record that is broken, or says that it has another name than its
// file, is left out and told to Options.Problem.
func (b *Builder) Add(bucket repodata.Bucket, key string, raw []byte) {
	if end, ok := b.fast(place(bucket), []byte(key), raw); ok && end == len(raw) {
		return
	}
	b.slow(place(bucket), key, raw)
}

// bucket is what a builder has to know of a repodata.Bucket.
type bucket struct {
	repodata.Bucket
	kind uint16 // of files whose name follows from the rest
	rank uint16
}

func place(b repodata.Bucket) bucket {
	switch b {
	case repodata.TarBz2:
		return bucket{b, 0, 0}
	case repodata.Conda:
		return bucket{b, 1, 1}
	case repodata.V3Conda:
		return bucket{b, 1, 2}
	case repodata.V3TarBz2:
		return bucket{b, 0, 2}
	}
	return bucket{b, uint16(len(extensions) - 1), 2}
}

// slow takes any record that is sound, by way of the typed reader.
func (b *Builder) slow(where bucket, key string, raw []byte) {
	if err := repodata.CheckRecord(where.Bucket, key, raw); err != nil {
		b.defect(err)
		return
	}
	rec, err := repodata.ParseRecord(raw)
	if err != nil {
		b.defect(fmt.Errorf("%s: %w", where.Filename(key), err))
		return
	}
	if name := repodata.NameOfKey(where.Bucket, key); name != rec.Name {
		b.defect(fmt.Errorf("%s/%s says that it is %s", b.subdir, where.Filename(key), rec.Name))
		return
	}
	if len(rec.Depends) > math.MaxUint16 || len(rec.Constrains) > math.MaxUint16 {
		b.defect(fmt.Errorf("%s has too many dependencies", where.Filename(key)))
		return
	}
	r := Rec{
		Size: rec.Size, Timestamp: rec.Timestamp, Indexed: rec.IndexedTimestamp, deps: uint32(len(b.deps)),
		nDepends: uint16(len(rec.Depends)), nConstrains: uint16(len(rec.Constrains)),
		Name: b.text(rec.Name), Version: b.text(rec.Version), Build: b.text(rec.Build), License: b.text(rec.License),
	}
	for _, list := range [][]string{rec.Depends, rec.Constrains} {
		for _, spec := range list {
			b.deps = append(b.deps, b.text(spec))
		}
	}
	if rec.SHA256 != "" {
		r.Flags |= HasSHA256
		decodeHex(r.SHA256[:], []byte(rec.SHA256))
	}
	if rec.MD5 != "" {
		r.Flags |= HasMD5
		decodeHex(r.MD5[:], []byte(rec.MD5))
	}
	switch rec.NoArch {
	case repodata.NoArchGeneric:
		r.Flags |= NoArchGeneric
	case repodata.NoArchPython:
		r.Flags |= NoArchPython
	}
	for flag, is := range map[Flags]bool{
		TrackFeatures: len(rec.TrackFeatures) > 0, ExtraDepends: len(rec.ExtraDepends) > 0, Revoked: rec.Revoked, HasURL: rec.URL != "",
		LargeNumber: rec.BuildNumber > math.MaxUint32, OtherSubdir: rec.Subdir != "" && rec.Subdir != b.subdir,
	} {
		if is {
			r.Flags |= flag
		}
	}
	if r.Flags&LargeNumber == 0 {
		r.BuildNumber = uint32(rec.BuildNumber)
	}
	b.rest = b.rest[:0]
	for key, value := range members(raw) {
		switch key {
		case "name", "version", "build", "depends", "constrains", "timestamp", "indexed_timestamp", "md5", "sha256", "size", "noarch":
			continue
		case "build_number":
			if r.Flags&LargeNumber == 0 {
				continue
			}
		case "subdir":
			if r.Flags&OtherSubdir == 0 {
				continue
			}
		case "license":
			if rec.License != "" || string(value) == "null" {
				continue
			}
		}
		b.addRest(appendQuoted(nil, key), value)
	}
	r.Rest = b.intern(b.rest)
	if stem := rec.Name + "-" + rec.Version + "-" + rec.Build; where.Filename(key) != stem+extensions[where.kind] || extensions[where.kind] == "" {
		r.File = b.text(where.Filename(key))
	}
	b.commit(where, []byte(key), r)
}

func (b *Builder) text(s string) uint32 { return b.intern([]byte(s)) }

func (b *Builder) addRest(quoted, value []byte) {
	if len(b.rest) > 0 {
		b.rest = append(b.rest, ',')
	}
	b.rest = append(append(append(b.rest, quoted...), ':'), value...)
}

func (b *Builder) commit(where bucket, key []byte, r Rec) {
	at := where.rank
	if at > 1 || at == b.lastOrder && bytes.Compare(b.lastKey, key) >= 0 || at < b.lastOrder || !bytes.HasSuffix(key, []byte(extensions[where.kind])) {
		b.ascending = false
	}
	b.lastKey, b.lastOrder = append(b.lastKey[:0], key...), at
	r.kind = where.kind | where.rank<<rankShift
	b.recs = append(b.recs, r)
}

// good reports whether a string may be the part of a file name that it is to be; each string is looked at once.
func (b *Builder) good(id uint32, as uint8) bool {
	if int(id) >= len(b.vetted) {
		grown := make([]uint8, max(1<<12, 2*len(b.offs)))
		copy(grown, b.vetted)
		b.vetted = grown
	}
	if b.vetted[id]&as != 0 {
		return true
	}
	ok := false
	switch as {
	case goodName:
		ok = dist.ValidName(string(b.str(id)))
	case goodVersion:
		ok = plainVersion(b.str(id)) || dist.ValidVersionString(string(b.str(id)))
	case goodBuild:
		ok = dist.ValidBuild(string(b.str(id)))
	}
	if ok {
		b.vetted[id] |= as
	}
	return ok
}

// plainVersion reports whether a version is numbers with dots between them, which needs no parser to be sound.
func plainVersion(s []byte) bool {
	digits := 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c != '.' || digits == 0:
			return false
		default:
			digits = 0
		}
	}
	return digits > 0 && len(s) <= dist.MaxVersion
}

// Finish returns the arena. The builder is of no use any more.
func (b *Builder) Finish() (*Arena, error) {
	if b.full() || len(b.deps) > math.MaxUint32 || len(b.recs) > math.MaxInt32 {
		return nil, errFull
	}
	b.table, b.vetted = nil, nil
	a := &Arena{
		Subdir: b.subdir, Info: b.info, recs: b.recs, deps: b.deps, offs: b.offs, slab: b.slab,
	}
	b.drop(a)
	a.Problems = b.defects
	a.arrange()
	return a, nil
}

// drop leaves out what the index calls removed, and each file but the first of its name.
func (b *Builder) drop(a *Arena) {
	if b.ascending && len(b.removed) == 0 {
		return
	}
	seen := map[string]bool{}
	for i := range a.recs {
		file := a.FileName(&a.recs[i])
		switch {
		case b.removed[file]:
			a.recs[i].Flags |= dropped
		case b.ascending:
		case seen[file]:
			a.recs[i].Flags |= dropped
			b.defect(fmt.Errorf("%s/%s is listed twice", b.subdir, file))
		default:
			seen[file] = true
		}
	}
}

// arrange sorts records by name, then by bucket, then as they came.
func (a *Arena) arrange() {
	counts := make([]uint32, len(a.offs))
	n := 0
	for i := range a.recs {
		if r := &a.recs[i]; r.Flags&dropped == 0 {
			counts[r.Name]++
			n++
		}
	}
	for id, count := range counts {
		if count > 0 {
			a.groups = append(a.groups, group{name: uint32(id), count: count})
		}
	}
	slices.SortFunc(a.groups, func(x, y group) int { return strings.Compare(a.Str(x.name), a.Str(y.name)) })
	at := uint32(0)
	for i := range a.groups {
		g := &a.groups[i]
		g.start = at
		counts[g.name] = at // from now on: where the name's next record goes
		at += g.count
	}
	a.order = make([]uint32, n)
	for rank := range uint16(3) {
		for i := range a.recs {
			if r := &a.recs[i]; r.kind>>rankShift == rank && r.Flags&dropped == 0 {
				a.order[counts[r.Name]] = uint32(i)
				counts[r.Name]++
			}
		}
	}
}

// Specs calls yield for each dependency of a name's records so far, those in groups included. A spec may come twice; the
// strings are valid until the next record is added.
func (b *Builder) Specs(name string, yield func(string)) {
	a := Arena{recs: b.recs, deps: b.deps, offs: b.offs, slab: b.slab}
	if b.of == nil {
		b.of = map[uint32][]uint32{}
	}
	for ; b.filed < len(b.recs); b.filed++ {
		id := b.recs[b.filed].Name
		b.of[id] = append(b.of[id], uint32(b.filed))
	}
	a.specs(b.of[b.intern([]byte(name))], yield)
}

// Specs calls yield for each dependency of a name's records, those in groups included. A spec may come twice; the strings
// alias the arena.
func (a *Arena) Specs(name string, yield func(string)) {
	a.specs(a.Find(name), yield)
	runtime.KeepAlive(a)
}

func (a *Arena) specs(records []uint32, yield func(string)) {
	last := uint32(0)
	for _, i := range records {
		r := a.Rec(i)
		for _, id := range a.Depends(r) {
			if id != last {
				yield(a.Str(id))
			}
			last = id
		}
		if r.Flags&ExtraDepends == 0 {
			continue
		}
		if rec, err := a.Record(r); err == nil {
			for _, group := range rec.ExtraDepends {
				for _, spec := range group {
					yield(spec)
				}
			}
		}
	}
}
