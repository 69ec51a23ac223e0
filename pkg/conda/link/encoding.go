package link

import (
	"encoding/binary"
	"unicode/utf16"
)

var (
	littleEndian binary.AppendByteOrder = binary.LittleEndian
	bigEndian    binary.AppendByteOrder = binary.BigEndian
)

// encoding is the placeholder and what replaces it, as a file may spell them.
type encoding struct {
	unit     int // bytes of a code unit, and of the zero that ends a string
	old, new []byte
}

// encodings are the ways to spell a path, plain first.
func encodings(old, new string) []encoding {
	wide := func(unit int, encode func(string) []byte) encoding {
		return encoding{unit, encode(old), encode(new)}
	}
	return []encoding{
		{1, []byte(old), []byte(new)},
		wide(2, func(s string) []byte { return utf16Bytes(littleEndian, s) }),
		wide(2, func(s string) []byte { return utf16Bytes(bigEndian, s) }),
		wide(4, func(s string) []byte { return utf32Bytes(littleEndian, s) }),
		wide(4, func(s string) []byte { return utf32Bytes(bigEndian, s) }),
	}
}

func utf16Bytes(order binary.AppendByteOrder, s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, u)
	}
	return out
}

func utf32Bytes(order binary.AppendByteOrder, s string) []byte {
	var out []byte
	for _, r := range s {
		out = order.AppendUint32(out, uint32(r))
	}
	return out
}
