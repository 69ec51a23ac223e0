package arena

import (
	"bytes"
	"iter"

	"github.com/go-json-experiment/json/jsontext"
)

// members yields the members of an object whose syntax is known to be right.
func members(raw []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		dec := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true))
		if _, err := dec.ReadToken(); err != nil {
			return
		}
		for dec.PeekKind() == '"' {
			key, err := dec.ReadToken()
			if err != nil {
				return
			}
			name := key.String()
			value, err := dec.ReadValue()
			if err != nil {
				return
			}
			v := value.Clone()
			if v.Compact() != nil || !yield(name, v) {
				return
			}
		}
	}
}

func appendQuoted(dst []byte, s string) []byte {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil { // not UTF-8: only in a snapshot that was tampered with
		return append(dst, '"', '"')
	}
	return out
}

const notHex = 0xff

var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = notHex
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()

// decodeHex fills dst with the bytes that src spells.
func decodeHex(dst, src []byte) bool {
	if len(src) != 2*len(dst) {
		return false
	}
	bad := byte(0)
	for i := range dst {
		hi, lo := hexValue[src[2*i]], hexValue[src[2*i+1]]
		bad |= hi | lo
		dst[i] = hi<<4 | lo&15
	}
	return bad&0x80 == 0
}
