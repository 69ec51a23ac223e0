package link

import (
	"bytes"
	"errors"
	"io"
)

// stream replaces in files that are too long to be held, and in which the placeholder stands in plain bytes only.
type stream struct {
	w        io.Writer
	r        io.Reader
	old, new []byte
	n        int // placeholders of a text so far
}

const window = 1 << 20

// text replaces every occurrence.
func (s *stream) text(t *Target) error {
	first := !t.windows()
	return s.windows(func(data []byte, last bool) (int, error) {
		from := 0
		if first {
			first = false
			if end := shebangEnd(data); end > 0 {
				// Longer than a window it is no shebang; its beginning decides all the same.
				if err := replaceText(s.w, data[:end], encodings(string(s.old), string(s.new))[:1], t); err != nil {
					return 0, err
				}
				from = end
			}
		}
		return s.replace(data, from, last, func() error {
			if s.n++; s.n > maxReplaced {
				return tooMany()
			}
			return nil
		})
	})
}

// binary replaces in strings and pads them.
func (s *stream) binary() error {
	if len(s.new) > len(s.old) {
		return tooLong(len(s.new), len(s.old))
	}
	gap := 0 // zeros that the string we are in owes
	owe := func() error { gap += len(s.old) - len(s.new); return nil }
	err := s.windows(func(data []byte, last bool) (int, error) {
		from := 0
		for {
			if gap > 0 {
				end := bytes.IndexByte(data[from:], 0)
				if end < 0 {
					return s.replace(data, from, last, owe)
				}
				end += from
				// What stands behind the zero is another string.
				if _, err := s.replace(data[:end], from, true, owe); err != nil {
					return 0, err
				}
				if err := zeros(s.w, gap); err != nil {
					return 0, err
				}
				from, gap = end, 0
			}
			n := bytes.Index(data[from:], s.old)
			if n < 0 {
				return s.keep(data, from, last)
			}
			if _, err := s.w.Write(data[from : from+n]); err != nil {
				return 0, err
			}
			if _, err := s.w.Write(s.new); err != nil {
				return 0, err
			}
			from += n + len(s.old)
			if gap = len(s.old) - len(s.new); gap == 0 {
				continue // nothing to pad, so the string's end does not matter
			}
		}
	})
	if err != nil {
		return err
	}
	return zeros(s.w, gap)
}

// replace writes data from an offset with placeholders replaced, and returns how much of data is done with.
func (s *stream) replace(data []byte, from int, last bool, each func() error) (int, error) {
	for {
		n := bytes.Index(data[from:], s.old)
		if n < 0 {
			return s.keep(data, from, last)
		}
		if err := each(); err != nil {
			return 0, err
		}
		if _, err := s.w.Write(data[from : from+n]); err != nil {
			return 0, err
		}
		if _, err := s.w.Write(s.new); err != nil {
			return 0, err
		}
		from += n + len(s.old)
	}
}

// keep writes what cannot be the beginning of a placeholder.
func (s *stream) keep(data []byte, from int, last bool) (int, error) {
	to := len(data)
	if !last {
		to = max(from, to-len(s.old)+1)
	}
	_, err := s.w.Write(data[from:to])
	return to, err
}

// windows reads on and gives fn what it left and what follows; fn returns how much of it is done with.
func (s *stream) windows(fn func(data []byte, last bool) (int, error)) error {
	buf := make([]byte, 0, window+len(s.old))
	for {
		n, err := io.ReadFull(s.r, buf[len(buf):cap(buf)])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		buf = buf[:len(buf)+n]
		done, err := fn(buf, last)
		if err != nil || last {
			return err
		}
		buf = buf[:copy(buf, buf[done:])]
	}
}
