package arena

import (
	"encoding/hex"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Rec is a record as it lies in memory and in snapshots. Strings are ids; 0 is the empty string.
type Rec struct {
	Size        uint64 // bytes; 0 if unknown
	Timestamp   int64  // milliseconds; 0 if unknown
	Indexed     int64  // milliseconds; 0 if unknown (CEP 47)
	SHA256      [32]byte
	MD5         [16]byte
	BuildNumber uint32 // see Arena.BuildNumber
	Name        uint32
	Version     uint32
	Build       uint32
	License     uint32
	Rest        uint32 // members of the record that have no field here, as JSON without braces
	File        uint32 // file name, 0 if it follows from name, version, build and kind
	deps        uint32 // begin in Arena.deps
	nDepends    uint16
	nConstrains uint16
	Flags       Flags
	kind        uint16 // extension, and while building the rank of the bucket
}

// Flags say what else a record has.
type Flags uint16

// Flags of a record.
const (
	HasSHA256     Flags = 1 << iota
	HasMD5              //
	TrackFeatures       // it has track_features
	ExtraDepends        // it has groups of optional dependencies (CEP 44)
	Revoked             // its channel took it back
	HasURL              // it says itself where it is
	LargeNumber         // its build number is in the rest
	NoArchGeneric
	NoArchPython
	OtherSubdir // its subdir is not the arena's and is in the rest
	dropped     // listed as removed, or twice
)

const recSize = int(unsafe.Sizeof(Rec{}))

// extensions by kind; the last is a file whose name is kept whole.
var extensions = [...]string{".tar.bz2", ".conda", ".whl", ""}

const (
	kindMask  = 3
	rankShift = 2
)

type group struct{ name, start, count uint32 }

// Arena holds the records of a subdir. It is immutable and safe for concurrent use.
type Arena struct {
	// Subdir is the one it was read for; records may name another.
	Subdir string
	// Info is that of the document.
	Info repodata.Info
	// Problems are the first defects of records that were left out; see MaxProblems.
	Problems []string

	recs   []Rec
	deps   []uint32
	offs   []uint32
	slab   []byte
	order  []uint32
	groups []group

	mapped *mapping // nil if the slices are the collector's
}

// MaxProblems is how many problems an arena remembers.
const MaxProblems = 100

// Len is how many records there are.
func (a *Arena) Len() int { return len(a.order) }

// Strings is how many distinct strings there are; ids are below it.
func (a *Arena) Strings() int { return len(a.offs) - 1 }

// Bytes is what the arena occupies, in memory or in its snapshot.
func (a *Arena) Bytes() int {
	return len(a.recs)*recSize + 4*len(a.deps) + 4*len(a.offs) + len(a.slab) + 4*len(a.order) + 12*len(a.groups)
}

// Str returns the string of an id. It aliases the arena.
func (a *Arena) Str(id uint32) string {
	if uint64(id)+1 >= uint64(len(a.offs)) {
		return ""
	}
	from, to := a.offs[id], a.offs[id+1]
	if from >= to || uint64(to) > uint64(len(a.slab)) {
		return ""
	}
	return unsafe.String(&a.slab[from], int(to-from))
}

// Names calls yield for each package name, ascending, until it returns false. The strings alias the arena.
func (a *Arena) Names(yield func(string) bool) {
	for _, g := range a.groups {
		if !yield(a.Str(g.name)) {
			break
		}
	}
	runtime.KeepAlive(a)
}

// Find returns the numbers of a name's records in the order of the index. The slice is the arena's.
func (a *Arena) Find(name string) []uint32 {
	i := sort.Search(len(a.groups), func(i int) bool { return a.Str(a.groups[i].name) >= name })
	if i == len(a.groups) || a.Str(a.groups[i].name) != name {
		return nil
	}
	return a.run(a.groups[i])
}

func (a *Arena) run(g group) []uint32 {
	if end := uint64(g.start) + uint64(g.count); end <= uint64(len(a.order)) {
		return a.order[g.start:end]
	}
	return nil
}

// All calls yield for the number of each record, by name and in the order of the index, until it returns false.
func (a *Arena) All(yield func(uint32) bool) {
	for _, g := range a.groups {
		for _, i := range a.run(g) {
			if !yield(i) {
				return
			}
		}
	}
}

var nothing Rec

// Rec returns the record of a number.
func (a *Arena) Rec(i uint32) *Rec {
	if uint64(i) >= uint64(len(a.recs)) {
		return &nothing
	}
	return &a.recs[i]
}

// Depends returns the ids of a record's dependencies, and Constrains those of its constraints.
func (a *Arena) Depends(r *Rec) []uint32 { return a.list(r, 0, int(r.nDepends)) }

// Constrains returns the ids of a record's constraints.
func (a *Arena) Constrains(r *Rec) []uint32 { return a.list(r, int(r.nDepends), int(r.nConstrains)) }

func (a *Arena) list(r *Rec, skip, n int) []uint32 {
	from := int(r.deps) + skip
	if from+n > len(a.deps) {
		return nil
	}
	return a.deps[from : from+n]
}

// BuildNumber returns the build number of a record.
func (a *Arena) BuildNumber(r *Rec) uint64 {
	if r.Flags&LargeNumber == 0 {
		return uint64(r.BuildNumber)
	}
	rec, _ := a.Record(r)
	return rec.BuildNumber
}

// FileName returns the name of a record's file.
func (a *Arena) FileName(r *Rec) string {
	if r.File != 0 {
		return strings.Clone(a.Str(r.File))
	}
	return a.Str(r.Name) + "-" + a.Str(r.Version) + "-" + a.Str(r.Build) + extensions[r.kind&kindMask]
}

// Extension returns how a record's file name ends, if that is an extension of packages.
func (a *Arena) Extension(r *Rec) string {
	if r.File == 0 {
		return extensions[r.kind&kindMask]
	}
	return extensionOf(a.Str(r.File))
}

func extensionOf(file string) string {
	for _, ext := range extensions {
		if strings.HasSuffix(file, ext) {
			return ext
		}
	}
	return ""
}

// Record puts a record together again. Its Raw is JSON of the same meaning with sorted keys, not the bytes it was read
// from: keys whose value means nothing (null, a size of 0) are gone.
func (a *Arena) Record(r *Rec) (repodata.Record, error) {
	raw := a.appendJSON(nil, r)
	runtime.KeepAlive(a)
	rec, err := repodata.ParseRecord(raw)
	if err == nil {
		rec.Timestamp, rec.IndexedTimestamp = r.Timestamp, r.Indexed // before 1973 the text is rounded to seconds
	}
	return rec, err
}

func (a *Arena) appendJSON(dst []byte, r *Rec) []byte {
	type member struct {
		key   string
		value []byte
	}
	var all []member
	add := func(key string, value []byte) { all = append(all, member{key, value}) }
	text := func(id uint32) []byte { return appendQuoted(nil, a.Str(id)) }
	list := func(ids []uint32) []byte {
		out := []byte{'['}
		for i, id := range ids {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendQuoted(out, a.Str(id))
		}
		return append(out, ']')
	}
	add("name", text(r.Name))
	add("version", text(r.Version))
	add("build", text(r.Build))
	if r.Flags&LargeNumber == 0 {
		add("build_number", strconv.AppendUint(nil, uint64(r.BuildNumber), 10))
	}
	add("depends", list(a.Depends(r)))
	if r.nConstrains > 0 {
		add("constrains", list(a.Constrains(r)))
	}
	if r.Flags&OtherSubdir == 0 {
		add("subdir", appendQuoted(nil, a.Subdir))
	}
	for _, n := range []struct {
		key   string
		value uint64
	}{{"size", r.Size}, {"timestamp", spelled(r.Timestamp)}, {"indexed_timestamp", spelled(r.Indexed)}} {
		if n.value != 0 {
			add(n.key, strconv.AppendUint(nil, n.value, 10))
		}
	}
	if r.Flags&HasSHA256 != 0 {
		add("sha256", quoteHex(r.SHA256[:]))
	}
	if r.Flags&HasMD5 != 0 {
		add("md5", quoteHex(r.MD5[:]))
	}
	if r.License != 0 {
		add("license", text(r.License))
	}
	switch {
	case r.Flags&NoArchPython != 0:
		add("noarch", []byte(`"python"`))
	case r.Flags&NoArchGeneric != 0:
		add("noarch", []byte(`"generic"`))
	}
	for key, value := range members([]byte("{" + a.Str(r.Rest) + "}")) {
		add(key, value)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].key < all[j].key })
	dst = append(dst, '{')
	for i, m := range all {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, m.key)
		dst = append(append(dst, ':'), m.value...)
	}
	return append(dst, '}')
}

// spelled is a time as records have it: milliseconds, unless that would be taken for seconds.
func spelled(ms int64) uint64 {
	if ms < secondsBelow {
		ms /= 1000
	}
	return uint64(ms)
}

func quoteHex(b []byte) []byte {
	out := append(make([]byte, 0, 2*len(b)+2), '"')
	return append(hex.AppendEncode(out, b), '"')
}

// SHA256 returns a record's digest in hex, or "".
func (r *Rec) SHA256Hex() string {
	if r.Flags&HasSHA256 == 0 {
		return ""
	}
	return hex.EncodeToString(r.SHA256[:])
}

// MD5Hex returns a record's digest in hex, or "".
func (r *Rec) MD5Hex() string {
	if r.Flags&HasMD5 == 0 {
		return ""
	}
	return hex.EncodeToString(r.MD5[:])
}
