package repodata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

var errTruncated = errors.New("msgpack ends in the middle of a value")

// unpacker reads msgpack of any writer. Lengths it meets are claims: nothing is allocated for them.
type unpacker struct {
	data []byte
	pos  int
}

// kind is a msgpack type, as far as shards tell them apart.
type kind byte

const (
	kindNil kind = iota
	kindBool
	kindInt
	kindUint
	kindFloat
	kindText
	kindBin
	kindArray
	kindMap
	kindExt
)

// item is one token: a scalar, or the header of a container.
type item struct {
	kind kind
	n    uint64 // unsigned integer, number of elements or pairs; 1 for true
	i    int64  // negative integer
	f    float64
	b    []byte // text, bin, payload of an extension
	ext  int8
}

func (u *unpacker) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.data)-u.pos) {
		return nil, errTruncated
	}
	b := u.data[u.pos : u.pos+int(n)]
	u.pos += int(n)
	return b, nil
}

// bigEndian reads an unsigned integer of size bytes.
func (u *unpacker) bigEndian(size int) (uint64, error) {
	b, err := u.take(uint64(size))
	if err != nil {
		return 0, err
	}
	var wide [8]byte
	copy(wide[8-size:], b)
	return binary.BigEndian.Uint64(wide[:]), nil
}

func (u *unpacker) next() (it item, err error) {
	head, err := u.take(1)
	if err != nil {
		return it, err
	}
	c := head[0]
	sized := func(k kind, width int) (item, error) { // a length, then as many bytes
		n, err := u.bigEndian(width)
		if err != nil {
			return item{}, err
		}
		b, err := u.take(n)
		return item{kind: k, b: b}, err
	}
	switch {
	case c < 0x80:
		return item{kind: kindUint, n: uint64(c)}, nil
	case c < 0x90:
		return item{kind: kindMap, n: uint64(c & 0x0f)}, nil
	case c < 0xa0:
		return item{kind: kindArray, n: uint64(c & 0x0f)}, nil
	case c < 0xc0:
		b, err := u.take(uint64(c & 0x1f))
		return item{kind: kindText, b: b}, err
	case c >= 0xe0:
		return item{kind: kindInt, i: int64(int8(c))}, nil
	}
	switch c {
	case 0xc0:
		return item{kind: kindNil}, nil
	case 0xc2, 0xc3:
		return item{kind: kindBool, n: uint64(c & 1)}, nil
	case 0xc4, 0xc5, 0xc6:
		return sized(kindBin, 1<<(c-0xc4))
	case 0xc7, 0xc8, 0xc9:
		n, err := u.bigEndian(1 << (c - 0xc7))
		if err != nil {
			return it, err
		}
		return u.extension(n)
	case 0xca:
		n, err := u.bigEndian(4)
		return item{kind: kindFloat, f: float64(math.Float32frombits(uint32(n)))}, err
	case 0xcb:
		n, err := u.bigEndian(8)
		return item{kind: kindFloat, f: math.Float64frombits(n)}, err
	case 0xcc, 0xcd, 0xce, 0xcf:
		n, err := u.bigEndian(1 << (c - 0xcc))
		return item{kind: kindUint, n: n}, err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		width := 1 << (c - 0xd0)
		n, err := u.bigEndian(width)
		shift := 64 - 8*width
		return item{kind: kindInt, i: int64(n<<shift) >> shift}, err
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return u.extension(1 << (c - 0xd4))
	case 0xd9, 0xda, 0xdb:
		return sized(kindText, 1<<(c-0xd9))
	case 0xdc, 0xdd:
		n, err := u.bigEndian(2 << (c - 0xdc))
		return item{kind: kindArray, n: n}, err
	case 0xde, 0xdf:
		n, err := u.bigEndian(2 << (c - 0xde))
		return item{kind: kindMap, n: n}, err
	}
	return it, fmt.Errorf("msgpack has no type %#02x", c) // 0xc1
}

func (u *unpacker) extension(n uint64) (item, error) {
	b, err := u.take(n + 1)
	if err != nil {
		return item{}, err
	}
	return item{kind: kindExt, ext: int8(b[0]), b: b[1:]}, nil
}

// mapHeader expects a map; nil is one without entries.
func (u *unpacker) mapHeader() (int, error) {
	it, err := u.next()
	switch {
	case err != nil:
		return 0, err
	case it.kind == kindNil:
		return 0, nil
	case it.kind != kindMap:
		return 0, errors.New("not a map")
	}
	return int(it.n), nil
}

// key reads a map's key, which must be text; old writers wrote it as bin.
func (u *unpacker) key() (string, error) {
	it, err := u.next()
	if err != nil {
		return "", err
	}
	if it.kind != kindText && it.kind != kindBin || !utf8.Valid(it.b) {
		return "", errors.New("key of a map is not text")
	}
	return string(it.b), nil
}

// json appends the next value as compact JSON. Byte strings become lower-case hex, time stamps RFC 3339.
func (u *unpacker) json(dst []byte, depth int) ([]byte, error) {
	if depth > maxRecordDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxRecordDepth)
	}
	it, err := u.next()
	if err != nil {
		return nil, err
	}
	switch it.kind {
	case kindNil:
		return append(dst, "null"...), nil
	case kindBool:
		return strconv.AppendBool(dst, it.n == 1), nil
	case kindUint:
		return strconv.AppendUint(dst, it.n, 10), nil
	case kindInt:
		return strconv.AppendInt(dst, it.i, 10), nil
	case kindFloat:
		return appendFloat(dst, it.f)
	case kindText:
		return jsontext.AppendQuote(dst, it.b)
	case kindBin:
		return appendHexString(dst, it.b), nil
	case kindArray:
		return u.jsonArray(dst, it.n, depth)
	case kindMap:
		return u.jsonObject(dst, it.n, depth)
	}
	t, err := timestamp(it)
	if err != nil {
		return nil, err
	}
	return appendQuoted(dst, t.UTC().Format(time.RFC3339Nano)), nil
}

func (u *unpacker) jsonArray(dst []byte, n uint64, depth int) ([]byte, error) {
	var err error
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = u.json(dst, depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func (u *unpacker) jsonObject(dst []byte, n uint64, depth int) ([]byte, error) {
	var few [24]string
	keys := few[:0]
	dst = append(dst, '{')
	sorted := true
	for i := range n {
		key, err := u.key()
		if err != nil {
			return nil, err
		}
		sorted = sorted && (i == 0 || keys[i-1] < key)
		keys = append(keys, key)
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendQuoted(dst, key), ':')
		if dst, err = u.json(dst, depth+1); err != nil {
			return nil, err
		}
	}
	if !sorted {
		seen := make(map[string]bool, len(keys))
		for _, k := range keys {
			if seen[k] {
				return nil, fmt.Errorf("key %.80q is there twice", k)
			}
			seen[k] = true
		}
	}
	return append(dst, '}'), nil
}

// appendFloat writes the shortest text that reads back as f, and keeps it apart from an integer: 1.0, not 1.
func appendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("number is not finite")
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'g', -1, 64)
	if !bytes.ContainsAny(dst[start:], ".e") {
		dst = append(dst, ".0"...)
	}
	return dst, nil
}

// timestamp reads msgpack's one predefined extension, -1.
func timestamp(it item) (time.Time, error) {
	if it.kind == kindExt && it.ext == -1 {
		switch len(it.b) {
		case 4:
			return time.Unix(int64(binary.BigEndian.Uint32(it.b)), 0), nil
		case 8:
			n := binary.BigEndian.Uint64(it.b)
			return time.Unix(int64(n&(1<<34-1)), int64(n>>34)), nil
		case 12:
			sec := int64(binary.BigEndian.Uint64(it.b[4:]))
			if sec > -1<<40 && sec < 1<<40 { // beyond, the calendar has no year for it
				return time.Unix(sec, int64(binary.BigEndian.Uint32(it.b))), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("msgpack extension %d is not known", it.ext)
}
