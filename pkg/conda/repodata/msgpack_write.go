package repodata

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// A msgpack writer for what shards need: JSON values, and byte strings. Every length and every integer takes the
// shortest form that holds it, as the msgpack specification recommends and Python's writer does; so the bytes depend on
// the value alone.

func appendMapHeader(dst []byte, n int) []byte {
	switch {
	case n < 1<<4:
		return append(dst, 0x80|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xde), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdf), uint32(n))
}

func appendArrayHeader(dst []byte, n int) []byte {
	switch {
	case n < 1<<4:
		return append(dst, 0x90|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xdc), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdd), uint32(n))
}

func appendText[T []byte | string](dst []byte, s T) []byte {
	switch n := len(s); {
	case n < 1<<5:
		dst = append(dst, 0xa0|byte(n))
	case n < 1<<8:
		dst = append(dst, 0xd9, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

// appendDigest writes a byte string of less than 256 bytes.
func appendDigest(dst, b []byte) []byte {
	return append(append(dst, 0xc4, byte(len(b))), b...)
}

func appendUint(dst []byte, n uint64) []byte {
	switch {
	case n < 1<<7:
		return append(dst, byte(n))
	case n < 1<<8:
		return append(dst, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xcf), n)
}

func appendInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(dst, uint64(n))
	case n >= -32:
		return append(dst, byte(n))
	case n >= math.MinInt8:
		return append(dst, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(dst, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(dst, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xd3), uint64(n))
}

// packer converts JSON text, whose syntax is known to be right, to msgpack. It keeps its stacks between records.
type packer struct {
	out     []byte
	members []packed
	plain   bool
}

// packed is a member of an object on the packer's stack; key and value alias the JSON text.
type packed struct {
	key, value []byte
}

// record appends a record: as value does, but md5 and sha256 become byte strings, and runExports, unless nil, takes the
// place of a run_exports in the text.
func (p *packer) record(raw, runExports []byte) error {
	p.plain = bytes.IndexByte(raw, '\\') < 0 && bytes.IndexByte(runExports, '\\') < 0
	return p.object(raw, 1, runExports)
}

func (p *packer) value(v []byte, depth int) error {
	if depth > maxRecordDepth {
		return fmt.Errorf("nested deeper than %d levels", maxRecordDepth)
	}
	if len(v) == 0 {
		return errBroken
	}
	switch v[0] {
	case '{':
		return p.object(v, depth, nil)
	case '[':
		return p.array(v, depth)
	case '"':
		return p.text(v)
	case 'n':
		p.out = append(p.out, 0xc0)
	case 'f':
		p.out = append(p.out, 0xc2)
	case 't':
		p.out = append(p.out, 0xc3)
	default:
		return p.number(v)
	}
	return nil
}

// object writes members sorted by key. Depth 1 is the record itself, where digests and runExports have their place.
func (p *packer) object(raw []byte, depth int, runExports []byte) error {
	base := len(p.members)
	defer func() { p.members = p.members[:base] }()
	o := object{buf: raw, plain: p.plain}
	for o.next() {
		if runExports != nil && string(o.key) == "run_exports" {
			continue
		}
		p.members = append(p.members, packed{o.key, o.value()})
	}
	if o.err != nil {
		return o.err
	}
	if runExports != nil {
		p.members = append(p.members, packed{[]byte("run_exports"), runExports})
	}
	members := p.members[base:]
	byKey := func(a, b packed) int { return bytes.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(members, byKey) {
		slices.SortFunc(members, byKey)
	}
	p.out = appendMapHeader(p.out, len(members))
	for i := range members {
		m := p.members[base+i]
		if i > 0 && bytes.Equal(p.members[base+i-1].key, m.key) {
			return fmt.Errorf("key %.80q is there twice", m.key)
		}
		p.out = appendText(p.out, m.key)
		if depth == 1 && p.digest(m.key, m.value) {
			continue
		}
		if err := p.value(m.value, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) array(raw []byte, depth int) error {
	n := 0
	for a := (array{buf: raw, plain: p.plain}); a.next(); {
		n++
	}
	p.out = appendArrayHeader(p.out, n)
	a := array{buf: raw, plain: p.plain}
	for a.next() {
		if err := p.value(a.elem, depth+1); err != nil {
			return err
		}
	}
	return a.err
}

func (p *packer) text(v []byte) error {
	if len(v) < 2 {
		return errBroken
	}
	if inner := v[1 : len(v)-1]; p.plain || bytes.IndexByte(inner, '\\') < 0 {
		p.out = appendText(p.out, inner)
		return nil
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return err
	}
	p.out = appendText(p.out, s)
	return nil
}

// digest writes md5 and sha256 as byte strings (CEP 16). A value that is no digest, null among them, is left to value.
func (p *packer) digest(key, v []byte) bool {
	var size int
	switch string(key) {
	case "md5":
		size = 16
	case "sha256":
		size = 32
	default:
		return false
	}
	if len(v) != 2*size+2 || v[0] != '"' {
		return false
	}
	var b [32]byte
	if _, err := hex.Decode(b[:], v[1:len(v)-1]); err != nil {
		return false
	}
	p.out = appendDigest(p.out, b[:size])
	return true
}

// number keeps integers of up to 64 bits exact. All else becomes a double, which is what every JSON reader takes it for.
func (p *packer) number(v []byte) error {
	s := string(v)
	if !bytes.ContainsAny(v, ".eE") {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			p.out = appendInt(p.out, n)
			return nil
		}
		if n, err := strconv.ParseUint(s, 10, 64); err == nil {
			p.out = appendUint(p.out, n)
			return nil
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("number %.40s does not fit a double", s)
	}
	p.out = binary.BigEndian.AppendUint64(append(p.out, 0xcb), math.Float64bits(f))
	return nil
}
