// Package link says what a conda package becomes in a prefix, byte for byte, without touching one.
//
// A prefix is the directory of an environment. A package is built for a prefix that nobody has, a placeholder of up to
// 255 bytes, and most of its files do not care. Those that do are listed in info/paths.json. What has to happen to each
// path depends on nothing but the package and the [Target]:
//
//	info/paths.json        hardlink    the file as it is: linked, or copied
//	                       + placeholder, text     every occurrence replaced; the first line may need more (see below)
//	                       + placeholder, binary   C strings replaced and padded with zeros, the length stays
//	                       softlink    the same link text
//	                       directory   made
//	noarch: python         site-packages/X goes to python's own site-packages, python-scripts/X to bin
//	info/link.json         entry points become scripts in bin
//
// [Plan] makes that list, [Rewrite] does the replacing, [Order] is the order in which packages are linked, and [Clobbers]
// decides who gets a path that several packages have. An installer carries the plan out in a directory; a packer writes it
// into an archive; both leave the same bytes.
//
// # Text
//
// The placeholder is replaced wherever it stands, in UTF-8, UTF-16 and UTF-32 of both byte orders. The kernel reads no
// more than 127 bytes of a first line that names an interpreter (512 on macOS) and splits it at spaces, so a line that
// becomes too long, or gets a space, is turned into one that works: python by way of /bin/sh, everything else by way of
// /usr/bin/env.
//
// # Binary
//
// The string that holds the placeholder ends at a zero, or at the end of the file. All occurrences in it are replaced,
// what follows moves up, and the gap before its end is filled with zeros, so that no offset in the file changes. A prefix
// longer than the placeholder cannot be written; Plan refuses it before anything is linked. On Windows binaries are left
// alone.
//
// # Who wins
//
// Where two packages have a path, the one linked later has it: what depends beats what is depended on. The others' files
// lie below __clobbers__/<package>/ until the winner goes. A file where another package has a directory is decided the
// same way.
//
// All of this follows rattler, whose results tests compare with.
package link
