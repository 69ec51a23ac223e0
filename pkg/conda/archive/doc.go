// Package archive reads and writes conda packages, trusting neither.
//
// A package file comes in two formats (CEP 35) with one content (CEP 34):
//
//	name-1.0-0.tar.bz2             name-1.0-0.conda
//	└ tar, bzip2                   └ ZIP, members stored uncompressed
//	  ├ info/index.json              ├ metadata.json   {"conda_pkg_format_version": 2}
//	  ├ info/…                       ├ pkg-name-1.0-0.tar.zst    bin/tool, …
//	  └ bin/tool, …                  └ info-name-1.0-0.tar.zst   info/index.json, info/…
//
// [Inspect] reads the metadata, [Walk] hands over every file, [Extract] writes
// them below an [os.Root], [Create] makes new packages and [Transmute] turns
// one format into the other. All readers share one set of rules.
//
// # One archive, one meaning
//
// Two programs that read one archive differently are a hole: one scans, the
// other installs. A file is therefore refused unless every reader must see the
// same tree in it. A ZIP has exactly the members above, each stored, once, in
// gapless order from byte 0 to the central directory, with equal local and
// central headers, a fitting checksum and nothing behind the end record. A zst
// member is one frame, because some readers stop after the first. Tars have no
// duplicate names, sparse files, global headers or superfluous PAX sizes, and
// nothing but zeros behind their end. info/ lives in the info member only.
// JSON has no duplicate keys and bounded depth; name, version and build agree
// with the file name.
//
// # Nothing outside
//
// Paths are relative and clean, links stay inside the package, nothing is
// written through a link or over another entry, devices, FIFOs and setuid bits
// are refused. Names that differ only by case are refused where the package
// may be unpacked on a case-insensitive file system; linux packages such as
// ncurses need them, so there they pass (see [CasePolicy]).
//
// # Bounded work
//
// [Limits] bounds entries, names, decompressed bytes (absolutely and by ratio)
// and what is kept in memory. Memory use does not depend on a package's size.
//
// Every refusal is an *[Error] that names the member and, for metadata, the
// field. An error of the underlying reader or of the context is wrapped, so
// errors.Is still finds it.
package archive
