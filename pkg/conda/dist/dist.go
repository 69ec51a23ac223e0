// Package dist holds the identifiers of conda: package names, version and
// build strings, subdirs, labels and the file names that are made of them
// (CEP 26).
//
// It is the one place that decides which of a stranger's words may become part
// of a path. Every name that passes a validator of this package is a single,
// plain path component: it has no slash, no backslash, no NUL, no white space,
// is not "." or ".." and has a bounded length. ([ValidLabel] is the exception
// by standard: a label may hold slashes, but no empty, "." or ".." component.)
//
// Names arrive in URLs percent-encoded: the epoch and local separators of
// "x264-1%21164.3095-h0_0.conda" are what clients really send. Nothing in this
// package decodes. The caller decodes exactly once, at the edge, and passes the
// result here; a '%' that is still there is refused, so a name that was encoded
// twice cannot slip through.
package dist

import (
	"fmt"
	"strings"
)

// Format is the kind of archive that a file name announces.
type Format uint8

const (
	// Conda is the format of CEP 35 version 2: a ZIP of zstd-compressed tars.
	Conda Format = iota + 1
	// TarBz2 is version 1: one bzip2-compressed tar.
	TarBz2
)

// Formats are all known formats, the preferred one first.
var Formats = []Format{Conda, TarBz2}

// Extension returns the format's file name extension with its dot, or "" for
// an unknown format.
func (f Format) Extension() string {
	switch f {
	case Conda:
		return ".conda"
	case TarBz2:
		return ".tar.bz2"
	}
	return ""
}

// String returns the extension without its dot: "conda" or "tar.bz2".
func (f Format) String() string {
	if e := f.Extension(); e != "" {
		return e[1:]
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// SplitExtension cuts the extension off a file name. ok is false if it is none
// of a package's.
func SplitExtension(filename string) (stem string, f Format, ok bool) {
	for _, f := range Formats {
		if stem, ok := strings.CutSuffix(filename, f.Extension()); ok {
			return stem, f, true
		}
	}
	return "", 0, false
}

// Error says which identifier breaks which rule.
type Error struct {
	Field  string // "filename", "name", "version", "build", "subdir", "label", "channel"
	Value  string // as given
	Reason string // in words
}

// Error implements error.
func (e *Error) Error() string {
	v := e.Value
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Sprintf("invalid %s %q: %s", e.Field, v, e.Reason)
}

// Dist identifies one package file within a subdir.
type Dist struct {
	Name    string
	Version string // the literal, not normalised; see package version for its order
	Build   string // the build string, such as "py312h1234567_0"
	Format  Format
}

// ParseFilename splits a package's file name. A name may hold dashes, a
// version and a build string may not, so the last two dashes separate them.
// All parts are validated, lengths included; the error is an *[Error] that
// names the part. The name must not be percent-encoded.
func ParseFilename(filename string) (Dist, error) {
	fail := func(reason string) (Dist, error) {
		return Dist{}, &Error{"filename", filename, reason}
	}
	if len(filename) > MaxFilename {
		return fail(fmt.Sprintf("it is longer than %d bytes", MaxFilename))
	}
	stem, format, ok := SplitExtension(filename)
	if !ok {
		return fail("it ends in neither .conda nor .tar.bz2")
	}
	d, err := ParseStem(stem)
	if err != nil {
		if e, ok := err.(*Error); ok && e.Field == "filename" {
			e.Value = filename
		}
		return Dist{}, err
	}
	d.Format = format
	return d, nil
}

// ParseStem is ParseFilename for a name without extension, as the keys of
// repodata v3 are. The result has no format.
func ParseStem(stem string) (Dist, error) {
	b := strings.LastIndexByte(stem, '-')
	v := -1
	if b > 0 {
		v = strings.LastIndexByte(stem[:b], '-')
	}
	if v <= 0 {
		return Dist{}, &Error{"filename", stem, "it is not of the form name-version-build"}
	}
	d := Dist{Name: stem[:v], Version: stem[v+1 : b], Build: stem[b+1:]}
	return d, d.Validate()
}

// New makes a Dist from parts that came from elsewhere, validated.
func New(name, version, build string, f Format) (Dist, error) {
	d := Dist{name, version, build, f}
	return d, d.Validate()
}

// Validate checks name, version and build.
func (d Dist) Validate() error {
	if err := CheckName(d.Name); err != nil {
		return err
	}
	if err := CheckVersionString(d.Version); err != nil {
		return err
	}
	return CheckBuild(d.Build)
}

// Stem returns name-version-build.
func (d Dist) Stem() string { return d.Name + "-" + d.Version + "-" + d.Build }

// Filename returns the file name, not percent-encoded.
func (d Dist) Filename() string { return d.Stem() + d.Format.Extension() }

// String returns the file name.
func (d Dist) String() string { return d.Filename() }

// Twin returns the same package in the other format: tools that patch or
// remove a .tar.bz2 mean its .conda, too.
func (d Dist) Twin() Dist {
	switch d.Format {
	case Conda:
		d.Format = TarBz2
	case TarBz2:
		d.Format = Conda
	}
	return d
}
