package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A strict reader for the ZIPs that .conda files are. It takes the few shapes
// that writers of packages produce and refuses all others, instead of guessing
// what another reader would make of them.

// member is one stored member of the ZIP.
type member struct {
	name   string
	offset int64 // of its local header
	data   int64 // of its first byte
	size   int64
	crc    uint32

	version, flags, method, time, date uint16
	zip64                              bool // sizes came from the zip64 extra field
}

const (
	sigLocal    = 0x04034b50
	sigCentral  = 0x02014b50
	sigEnd      = 0x06054b50
	sigEnd64    = 0x06064b50
	sigLocate64 = 0x07064b50

	lenLocal    = 30
	lenCentral  = 46
	lenEnd      = 22
	lenEnd64    = 56
	lenLocate64 = 20

	flagUTF8  = 1 << 11
	max32     = 1<<32 - 1
	max16     = 1<<16 - 1
	zip64Kind = 0x0001

	// Three members with names of at most 216 bytes each need less.
	maxCentral = 4096
	maxMembers = 3
)

var le = binary.LittleEndian

// source is a ReaderAt with the tail of the file in memory: for a small
// package that is the whole file, read once.
type source struct {
	r        io.ReaderAt
	size     int64
	tail     []byte
	tailFrom int64
}

const tailSize = 64 << 10 // what clients fetch in one range request, too

func newSource(r io.ReaderAt, size int64) (*source, error) {
	if size < 0 {
		return nil, refuse("", "", "negative size")
	}
	s := &source{r: r, size: size, tail: make([]byte, min(size, tailSize))}
	s.tailFrom = size - int64(len(s.tail))
	if n, err := r.ReadAt(s.tail, s.tailFrom); n < len(s.tail) {
		return nil, broken("", "cannot read the package", err)
	}
	return s, nil
}

// ReadAt implements io.ReaderAt.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if off < s.tailFrom {
		return s.r.ReadAt(p, off)
	}
	if off > s.size {
		return 0, io.EOF
	}
	n := copy(p, s.tail[off-s.tailFrom:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *source) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > s.size || n > s.size-off {
		return nil, refuse("", "", "the ZIP is truncated or points outside itself")
	}
	if off >= s.tailFrom {
		return s.tail[off-s.tailFrom:][:n:n], nil
	}
	b := make([]byte, n)
	if got, err := s.r.ReadAt(b, off); int64(got) < n {
		return nil, broken("", "cannot read the package", err)
	}
	return b, nil
}

// readZip returns the members in file order.
func readZip(s *source) ([]member, error) {
	start, count, end, err := readEnd(s)
	if err != nil {
		return nil, err
	}
	dir, err := s.bytes(start, end-start)
	if err != nil {
		return nil, err
	}
	var members []member
	for range count {
		var m member
		if m, dir, err = readCentral(dir); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(members, func(o member) bool { return o.name == m.name }) {
			return nil, refuse(m.name, "", "the ZIP holds this member twice")
		}
		members = append(members, m)
	}
	if len(dir) > 0 {
		return nil, refuse("", "", "the ZIP's central directory holds more than it counts")
	}
	// Local headers and data must tile the file: no overlap that makes a bomb,
	// no gap that hides a second archive.
	slices.SortFunc(members, func(a, b member) int { return int(min(1, max(-1, a.offset-b.offset))) })
	next := int64(0)
	for i := range members {
		m := &members[i]
		if m.offset != next {
			return nil, refuse(m.name, "", "the ZIP has a gap or an overlap before this member")
		}
		if err := readLocal(s, m); err != nil {
			return nil, err
		}
		if m.size > start-m.data {
			return nil, refuse(m.name, "", "the member overlaps the ZIP's central directory")
		}
		next = m.data + m.size
	}
	if next != start {
		return nil, refuse("", "", "the ZIP has data between its last member and its central directory")
	}
	return members, nil
}

// readEnd finds the central directory. The end record must close the file: a
// ZIP with a comment or trailing data has no unique end.
func readEnd(s *source) (start int64, count int, end int64, err error) {
	if s.size < lenEnd {
		return 0, 0, 0, refuse("", "", "too short for a ZIP")
	}
	at := s.size - lenEnd
	e, err := s.bytes(at, lenEnd)
	if err != nil {
		return 0, 0, 0, err
	}
	if le.Uint32(e) != sigEnd || le.Uint16(e[20:]) != 0 {
		return 0, 0, 0, refuse("", "", "not a ZIP, or one with a comment or trailing data")
	}
	disk, dirDisk := le.Uint16(e[4:]), le.Uint16(e[6:])
	here, total := uint64(le.Uint16(e[8:])), uint64(le.Uint16(e[10:]))
	length, offset := uint64(le.Uint32(e[12:])), uint64(le.Uint32(e[16:]))
	end = at

	locator := []byte(nil)
	if at >= lenLocate64 {
		if locator, err = s.bytes(at-lenLocate64, lenLocate64); err != nil {
			return 0, 0, 0, err
		}
	}
	if locator != nil && le.Uint32(locator) == sigLocate64 {
		at64 := at - lenLocate64 - lenEnd64
		if at64 < 0 || le.Uint64(locator[8:]) != uint64(at64) || le.Uint32(locator[4:]) != 0 || le.Uint32(locator[16:]) != 1 {
			return 0, 0, 0, refuse("", "", "the ZIP64 locator does not point to the record before it")
		}
		e64, err := s.bytes(at64, lenEnd64)
		if err != nil {
			return 0, 0, 0, err
		}
		if le.Uint32(e64) != sigEnd64 || le.Uint64(e64[4:]) != lenEnd64-12 || le.Uint32(e64[16:]) != 0 || le.Uint32(e64[20:]) != 0 {
			return 0, 0, 0, refuse("", "", "the ZIP64 end record is malformed")
		}
		h64, t64, l64, o64 := le.Uint64(e64[24:]), le.Uint64(e64[32:]), le.Uint64(e64[40:]), le.Uint64(e64[48:])
		if here != max16 && here != h64 || total != max16 && total != t64 || length != max32 && length != l64 || offset != max32 && offset != o64 {
			return 0, 0, 0, refuse("", "", "the ZIP's two end records disagree")
		}
		here, total, length, offset, end = h64, t64, l64, o64, at64
	}
	switch {
	case disk != 0 || dirDisk != 0 || here != total:
		return 0, 0, 0, refuse("", "", "the ZIP has several volumes")
	case total == 0 || total > maxMembers:
		return 0, 0, 0, refuse("", "", "the ZIP has %d members; a package has metadata.json, info-….tar.zst and pkg-….tar.zst", total)
	case length > maxCentral || offset > uint64(end) || uint64(end)-offset != length:
		return 0, 0, 0, refuse("", "", "the ZIP's central directory does not end where the end record begins")
	}
	return int64(offset), int(total), end, nil
}

func readCentral(b []byte) (member, []byte, error) {
	var m member
	if len(b) < lenCentral || le.Uint32(b) != sigCentral {
		return m, nil, refuse("", "", "the ZIP's central directory is malformed")
	}
	m.version = le.Uint16(b[6:])
	m.flags, m.method = le.Uint16(b[8:]), le.Uint16(b[10:])
	m.time, m.date = le.Uint16(b[12:]), le.Uint16(b[14:])
	m.crc = le.Uint32(b[16:])
	packed, size := uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:]))
	nameLen, extraLen, commentLen := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int(le.Uint16(b[32:]))
	disk, offset := le.Uint16(b[34:]), uint64(le.Uint32(b[42:]))
	rest := b[lenCentral:]
	if len(rest) < nameLen+extraLen+commentLen {
		return m, nil, refuse("", "", "the ZIP's central directory is malformed")
	}
	m.name = string(rest[:nameLen])
	extra := rest[nameLen : nameLen+extraLen]
	rest = rest[nameLen+extraLen+commentLen:]
	switch {
	case commentLen > 0:
		return m, nil, refuse(m.name, "", "the member has a comment")
	case m.method != 0:
		return m, nil, refuse(m.name, "", "the member is compressed (method %d); members of a .conda are stored", m.method)
	case m.flags&^flagUTF8 != 0:
		return m, nil, refuse(m.name, "", "the member is encrypted or has its sizes elsewhere (flags %#x)", m.flags)
	case disk != 0:
		return m, nil, refuse(m.name, "", "the member is on another volume")
	}
	if err := wide(m.name, extra, &m.zip64, &size, &packed, &offset); err != nil {
		return m, nil, err
	}
	if packed != size {
		return m, nil, refuse(m.name, "", "the member is stored, but its two sizes differ")
	}
	if size > 1<<62 || offset > 1<<62 {
		return m, nil, refuse(m.name, "", "the member's size or offset is absurd")
	}
	m.size, m.offset = int64(size), int64(offset)
	return m, rest, nil
}

// wide replaces saturated 32-bit fields by those of the zip64 extra field,
// which holds just these, in this order. Other extra fields are refused: they
// can carry a second name or permissions that only some readers honour.
func wide(name string, extra []byte, is64 *bool, fields ...*uint64) error {
	var body []byte
	for len(extra) > 0 {
		if len(extra) < 4 || len(extra)-4 < int(le.Uint16(extra[2:])) {
			return refuse(name, "", "the member's extra field is malformed")
		}
		kind, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if kind != zip64Kind || *is64 {
			return refuse(name, "", "the member has an extra field of kind %#04x", kind)
		}
		*is64, body, extra = true, extra[4:4+n], extra[4+n:]
	}
	for _, f := range fields {
		if *f != max32 {
			continue
		}
		if len(body) < 8 {
			if *is64 {
				return refuse(name, "", "the member's zip64 field is too short")
			}
			continue // exactly 4 GiB − 1 without zip64; the bounds catch a lie
		}
		*f, body = le.Uint64(body), body[8:]
	}
	// An early rattler-build reserved both sizes and left them zero where the
	// 32-bit fields sufficed. No reader looks at them.
	if len(body) > 16 || len(bytes.Trim(body, "\x00")) > 0 {
		return refuse(name, "", "the member's zip64 field holds values that nothing refers to")
	}
	return nil
}

// readLocal compares the local header with the central one and sets m.data.
func readLocal(s *source, m *member) error {
	b, err := s.bytes(m.offset, lenLocal)
	if err != nil {
		return err
	}
	if le.Uint32(b) != sigLocal {
		return refuse(m.name, "", "the member has no local header")
	}
	nameLen, extraLen := int64(le.Uint16(b[26:])), int64(le.Uint16(b[28:]))
	rest, err := s.bytes(m.offset+lenLocal, nameLen+extraLen)
	if err != nil {
		return err
	}
	packed, size := uint64(le.Uint32(b[18:])), uint64(le.Uint32(b[22:]))
	differs := func(what string) error {
		return refuse(m.name, "", "the member's local and central headers differ in their %s", what)
	}
	var is64 bool
	if err := wide(m.name, rest[nameLen:], &is64, &size, &packed); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(rest[:nameLen], []byte(m.name)):
		return differs("name")
	case le.Uint16(b[6:]) != m.flags:
		return differs("flags")
	case le.Uint16(b[8:]) != m.method:
		return differs("method")
	case le.Uint16(b[10:]) != m.time || le.Uint16(b[12:]) != m.date:
		return differs("time")
	case le.Uint32(b[14:]) != m.crc:
		return differs("checksum")
	case size != uint64(m.size) || packed != uint64(m.size):
		return differs("size")
	}
	m.data = m.offset + lenLocal + nameLen + extraLen
	return nil
}

// conda holds the members of a .conda by their role; pkg and meta may be nil.
type conda struct {
	meta, info, pkg *member
}

// openConda reads the ZIP and checks that its members are those of the stem.
func openConda(s *source, stem string) (conda, error) {
	var c conda
	members, err := readZip(s)
	if err != nil {
		return c, err
	}
	for i := range members {
		switch m := &members[i]; m.name {
		case metadataJSON:
			c.meta = m
		case infoMember(stem):
			c.info = m
		case pkgMember(stem):
			c.pkg = m
		default:
			field := ""
			if strings.HasPrefix(m.name, "info-") || strings.HasPrefix(m.name, "pkg-") {
				field = "stem" // another package's member: the file was renamed
			}
			return c, refuse(m.name, field, "this member does not belong into a .conda whose name is %s", stem)
		}
	}
	if c.info == nil {
		return c, refuse(infoMember(stem), "", "the member is missing")
	}
	return c, nil
}

const metadataJSON = "metadata.json"

func infoMember(stem string) string { return fmt.Sprintf("info-%s.tar.zst", stem) }
func pkgMember(stem string) string  { return fmt.Sprintf("pkg-%s.tar.zst", stem) }
