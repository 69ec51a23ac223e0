package link

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// The kernels' limits on the first line of a script, in bytes.
const (
	maxShebangLinux = 127
	maxShebangMacOS = 512
)

var (
	// #!, spaces, a path in which spaces are escaped, arguments.
	shebangLine = regexp.MustCompile(`^(#!(?:[ ]*)(/(?:\\ |[^ \n\r\t])*)(.*))$`)
	pythonName  = regexp.MustCompile(`^python(?:[0-9]+(?:\.[0-9]+)?)?$`)
)

// span is an occurrence of a placeholder.
type span struct {
	at   int
	code *encoding
}

// replaceText replaces every occurrence, and mends the first line if it is a shebang.
func replaceText(w io.Writer, data []byte, codes []encoding, t *Target) error {
	region := 0 // the first line with its end, if it is a shebang that must work
	if !t.windows() {
		region = shebangEnd(data)
	}
	if region > 0 {
		line, end := data[:region], []byte(nil)
		if line[region-1] == '\n' {
			line, end = line[:region-1], line[region-1:]
		}
		if bytes.Count(line, codes[0].old) > maxReplaced>>4 { // it is made in memory
			return tooMany()
		}
		if _, err := w.Write(append([]byte(replaceShebang(lossy(line), codes[0], t)), end...)); err != nil {
			return err
		}
	}
	found, err := occurrences(data, codes)
	if err != nil {
		return err
	}
	last := region
	for _, s := range found {
		if s.at < region {
			continue
		}
		if _, err := w.Write(data[last:s.at]); err != nil {
			return err
		}
		if _, err := w.Write(s.code.new); err != nil {
			return err
		}
		last = s.at + len(s.code.old)
	}
	_, err = w.Write(data[last:])
	return err
}

// shebangEnd is the length of the first line with its end, or 0 if it is no shebang.
func shebangEnd(data []byte) int {
	if !bytes.HasPrefix(data, []byte("#!")) {
		return 0
	}
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1
	}
	return len(data)
}

// occurrences finds placeholders in all encodings, in order and without overlaps.
func occurrences(data []byte, codes []encoding) ([]span, error) {
	var found []span
	for i := range codes {
		c := &codes[i]
		for from := 0; ; {
			n := bytes.Index(data[from:], c.old)
			if n < 0 {
				break
			}
			if len(found) == maxReplaced {
				return nil, tooMany()
			}
			found = append(found, span{from + n, c})
			from += n + len(c.old)
		}
	}
	slices.SortStableFunc(found, func(a, b span) int { return a.at - b.at })
	end := 0
	return slices.DeleteFunc(found, func(s span) bool {
		if s.at < end {
			return true
		}
		end = s.at + len(s.code.old)
		return false
	}), nil
}

// replaceShebang replaces the placeholder in a first line and makes sure that the kernel can read it.
func replaceShebang(line string, c encoding, t *Target) string {
	old, prefix := string(c.old), string(c.new)
	if strings.Contains(prefix, " ") {
		if !strings.Contains(line, old) {
			return line
		}
		// The line is taken apart before the space gets in.
		return strings.ReplaceAll(mendShebang(line), old, prefix)
	}
	line = strings.ReplaceAll(line, old, prefix)
	switch {
	case !strings.HasPrefix(line, "#!"),
		strings.HasPrefix(t.Platform, "osx-") && len(line) <= maxShebangMacOS,
		strings.HasPrefix(t.Platform, "linux-") && len(line) <= maxShebangLinux,
		!strings.HasPrefix(t.Platform, "osx-") && !strings.HasPrefix(t.Platform, "linux-"):
		return line
	}
	return mendShebang(line)
}

// mendShebang turns a first line that the kernel would not understand into one that it does.
func mendShebang(line string) string {
	m := shebangLine.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	program, args := m[2], m[3]
	name := program[strings.LastIndexByte(program, '/')+1:]
	if pythonName.MatchString(name) {
		return viaShell(program, args)
	}
	return "#!/usr/bin/env " + name + args
}

// viaShell is a beginning that is right for the shell, which runs the program, and for Python, which sees a string.
func viaShell(program, args string) string {
	return "#!/bin/sh\n'''exec' \"" + program + "\"" + args + " \"$0\" \"$@\" #'''"
}

// lossy replaces what is no UTF-8 by U+FFFD: one for each longest beginning of a character (Unicode, section 3.9).
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out []byte
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = broken(b)
		}
		out = utf8.AppendRune(out, r)
		b = b[n:]
	}
	return string(out)
}

// broken is the length of the beginning of a character that does not go on.
func broken(b []byte) int {
	low, high, want := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		want = 1
	case c >= 0xe0 && c <= 0xef:
		want = 2
		if c == 0xe0 {
			low = 0xa0
		} else if c == 0xed {
			high = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		want = 3
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	}
	n := 1
	for ; n <= want && n < len(b) && b[n] >= low && b[n] <= high; n++ {
		low, high = 0x80, 0xbf
	}
	return n
}
