package link

import (
	"bytes"
	"cmp"
	"io"
	"slices"
)

// cstring is a string of a binary file that holds placeholders.
type cstring struct {
	at   []int // where they begin
	end  int   // of the string: its zero, or the end of the file
	code *encoding
	rank int
}

// replaceBinary replaces placeholders inside of strings, whose bytes behind them move up; zeros fill what gets free.
func replaceBinary(w io.Writer, data []byte, codes []encoding) error {
	found, err := cstrings(data, codes)
	if err != nil {
		return err
	}
	for _, s := range found {
		if len(s.code.new) > len(s.code.old) {
			return tooLong(len(s.code.new), len(s.code.old))
		}
	}
	last := 0
	for _, s := range found {
		for _, at := range s.at {
			if _, err := w.Write(data[last:at]); err != nil {
				return err
			}
			if _, err := w.Write(s.code.new); err != nil {
				return err
			}
			last = at + len(s.code.old)
		}
		if _, err := w.Write(data[last:s.end]); err != nil {
			return err
		}
		if err := zeros(w, len(s.at)*(len(s.code.old)-len(s.code.new))); err != nil {
			return err
		}
		last = s.end
	}
	_, err = w.Write(data[last:])
	return err
}

var zeroBlock [4096]byte

func zeros(w io.Writer, n int) error {
	for n > 0 {
		m, err := w.Write(zeroBlock[:min(n, len(zeroBlock))])
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// cstrings finds the strings with placeholders, in order and without overlaps.
//
// The wide spellings of a path are each other's shifted by a byte, so one real string gives several candidates. The best
// wins: plain before wide, at an offset that is a multiple of the code unit, with a zero at its end, and the earlier.
func cstrings(data []byte, codes []encoding) ([]cstring, error) {
	var found []cstring
	total := 0
	for i := range codes {
		c := &codes[i]
		covered := make([]int, c.unit) // by offset modulo the unit: where the last candidate ends
		for from := 0; ; {
			n := bytes.Index(data[from:], c.old)
			if n < 0 {
				break
			}
			first := from + n
			from = first + len(c.old)
			if first < covered[first%c.unit] {
				continue
			}
			end, ended := stringEnd(data, from, c.unit)
			s := cstring{at: []int{first}, end: end, code: c}
			for next := from; ; {
				if total++; total > maxReplaced {
					return nil, tooMany()
				}
				m := bytes.Index(data[next:end], c.old)
				if m < 0 {
					break
				}
				s.at = append(s.at, next+m)
				next += m + len(c.old)
			}
			covered[first%c.unit] = end
			if c.unit > 1 {
				s.rank = 1
				if first%c.unit != 0 {
					s.rank += 2
				}
				if !ended {
					s.rank++
				}
			}
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b cstring) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.at[0], b.at[0]))
	})
	var kept []cstring
	for len(found) > 0 {
		n := 1
		for n < len(found) && found[n].rank == found[0].rank {
			n++
		}
		kept, found = admit(kept, found[:n]), found[n:]
	}
	return kept, nil
}

// admit adds the strings of one rank to those of better ones, where there is room. All are in order of where they begin.
func admit(kept, rank []cstring) []cstring {
	out := make([]cstring, 0, len(kept)+len(rank))
	for _, s := range rank {
		for len(kept) > 0 && kept[0].at[0] < s.at[0] {
			out, kept = append(out, kept[0]), kept[1:]
		}
		if n := len(out); n > 0 && s.at[0] < out[n-1].end || len(kept) > 0 && (kept[0].at[0] < s.end || kept[0].at[0] == s.at[0]) {
			continue
		}
		out = append(out, s)
	}
	return append(out, kept...)
}

// stringEnd is where the string ends that goes on at an offset: at its zero, or else at the end of the data.
func stringEnd(data []byte, from, unit int) (end int, ended bool) {
	if unit == 1 {
		if n := bytes.IndexByte(data[from:], 0); n >= 0 {
			return from + n, true
		}
		return len(data), false
	}
	for at := from; at+unit <= len(data); at += unit {
		if bytes.Equal(data[at:at+unit], zeroBlock[:unit]) {
			return at, true
		}
	}
	return len(data), false
}
