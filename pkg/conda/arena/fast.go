package arena

import (
	"bytes"
	"math"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Keys of a record that have a field; a bit for each, to notice one that is there twice.
const (
	keyName = 1 << iota
	keyVersion
	keyBuild
	keyNumber
	keyDepends
	keyConstrains
	keySubdir
	keyTimestamp
	keyIndexed
	keyLicense
	keyMD5
	keySHA256
	keySize
	keyNoArch
)

// secondsBelow is that of repodata.Record.Timestamp: a smaller number counts seconds.
const secondsBelow = 1e11

// fast reads the record at the beginning of raw, behind which anything may follow, if it looks as nearly all do: an object
// without objects in it, strings without escapes, whole numbers, and a file name that says what the record says. It returns
// where the record ends. ok is false for everything else, sound or not, and then nothing was added.
//
// It looks at each byte about three times: vector instructions find the ends of strings, strings are hashed or compared,
// and at the end the whole record is searched for what strings must not have.
func (b *Builder) fast(where bucket, key, raw []byte) (end int, ok bool) {
	if len(raw) == 0 || raw[0] != '{' {
		return 0, false
	}
	r := Rec{deps: uint32(len(b.deps))}
	var previous Rec
	var before []uint32 // the previous record's dependencies and constraints
	if n := len(b.recs); n > 0 {
		previous = b.recs[n-1]
		before = b.deps[previous.deps : int(previous.deps)+int(previous.nDepends)+int(previous.nConstrains)]
	}
	undo := func() (int, bool) {
		b.deps = b.deps[:r.deps]
		return 0, false
	}
	var constrains [2]int // in raw, where they come before the dependencies
	seen, dependsDone := 0, false
	b.rest, b.keys = b.rest[:0], b.keys[:0]
	i := space(raw, 1)
	if i >= len(raw) || raw[i] != '"' {
		return 0, false
	}
	for {
		if i >= len(raw) || raw[i] != '"' {
			return undo()
		}
		n := bytes.IndexByte(raw[i+1:], '"')
		if n < 0 {
			return undo()
		}
		name := raw[i+1 : i+1+n]
		quoted := raw[i : i+n+2]
		i = space(raw, i+n+2)
		if i >= len(raw) || raw[i] != ':' {
			return undo()
		}
		from := space(raw, i+1)
		to, kind := value(raw, from)
		if kind == 0 {
			return undo()
		}
		v := raw[from:to]
		field := fieldOf(name)
		if field != 0 {
			if seen&field != 0 {
				return undo()
			}
			seen |= field
		}
		good := true
		switch field {
		case keyName:
			r.Name, good = b.same(previous.Name, v, kind)
		case keyVersion:
			r.Version, good = b.same(previous.Version, v, kind)
		case keyBuild:
			r.Build, good = b.same(previous.Build, v, kind)
		case keyLicense:
			if kind != 'n' {
				r.License, good = b.same(previous.License, v, kind)
			}
		case keyNumber:
			var n uint64
			n, good = number(v, kind, math.MaxUint32)
			r.BuildNumber = uint32(n)
		case keyDepends:
			var count int
			count, good = b.list(v, kind, before)
			r.nDepends, dependsDone = uint16(count), true
			if good && constrains != [2]int{} {
				count, good = b.list(raw[constrains[0]:constrains[1]], '[', before[min(int(previous.nDepends), len(before)):])
				r.nConstrains = uint16(count)
			}
		case keyConstrains:
			if !dependsDone {
				if kind == '[' {
					constrains = [2]int{from, to}
				} else {
					good = kind == 'n'
				}
				break
			}
			var count int
			count, good = b.list(v, kind, before[min(int(previous.nDepends), len(before)):])
			r.nConstrains = uint16(count)
		case keySubdir:
			good = kind == '"' && string(v[1:len(v)-1]) == b.subdir
		case keyTimestamp:
			r.Timestamp, good = millis(v, kind)
		case keyIndexed:
			r.Indexed, good = millis(v, kind)
		case keySize:
			r.Size, good = number(v, kind, math.MaxInt64)
		case keySHA256:
			good = b.digest(r.SHA256[:], v, kind, &r.Flags, HasSHA256)
		case keyMD5:
			good = b.digest(r.MD5[:], v, kind, &r.Flags, HasMD5)
		case keyNoArch:
			switch string(v) {
			case `"python"`:
				r.Flags |= NoArchPython
			case `"generic"`, "true":
				r.Flags |= NoArchGeneric
			case "null", "false", `""`:
			default:
				good = false
			}
		default:
			good = b.other(&r, quoted, v, kind)
		}
		if !good {
			return undo()
		}
		i = space(raw, to)
		if i >= len(raw) {
			return undo()
		}
		if raw[i] == '}' {
			break
		}
		if raw[i] != ',' {
			return undo()
		}
		i = space(raw, i+1)
	}
	end = i + 1
	if const3 := keyName | keyVersion | keyBuild; seen&const3 != const3 || r.Name == 0 || r.Version == 0 || !plain(raw[:end]) {
		return undo()
	}
	if !dependsDone && constrains != [2]int{} {
		count, good := b.list(raw[constrains[0]:constrains[1]], '[', nil)
		if r.nConstrains = uint16(count); !good {
			return undo()
		}
	}
	if !b.named(key, where, &r) {
		return undo()
	}
	if len(b.rest) > 0 {
		if old := b.str(previous.Rest); bytes.Equal(old, b.rest) {
			r.Rest = previous.Rest
		} else {
			r.Rest = b.intern(b.rest)
		}
	}
	b.commit(where, key, r)
	return end, true
}

func fieldOf(name []byte) int {
	switch string(name) {
	case "name":
		return keyName
	case "version":
		return keyVersion
	case "build":
		return keyBuild
	case "build_number":
		return keyNumber
	case "depends":
		return keyDepends
	case "constrains":
		return keyConstrains
	case "subdir":
		return keySubdir
	case "timestamp":
		return keyTimestamp
	case "indexed_timestamp":
		return keyIndexed
	case "license":
		return keyLicense
	case "md5":
		return keyMD5
	case "sha256":
		return keySHA256
	case "size":
		return keySize
	case "noarch":
		return keyNoArch
	}
	return 0
}

// named reports whether a file name is that of its record and made of sound parts.
func (b *Builder) named(key []byte, where bucket, r *Rec) bool {
	name, version, build := b.str(r.Name), b.str(r.Version), b.str(r.Build)
	ext := extensions[where.kind]
	if where.rank > 1 {
		ext = "" // keys of v3 have none
	}
	n := len(name) + len(version) + len(build) + 2
	return extensions[where.kind] != "" && len(key) == n+len(ext) && n+len(extensions[where.kind]) <= dist.MaxFilename &&
		bytes.HasPrefix(key, name) && key[len(name)] == '-' &&
		bytes.HasPrefix(key[len(name)+1:], version) && key[len(name)+1+len(version)] == '-' &&
		bytes.HasPrefix(key[len(name)+len(version)+2:], build) && string(key[n:]) == ext &&
		b.good(r.Name, goodName) && b.good(r.Version, goodVersion) && b.good(r.Build, goodBuild)
}
