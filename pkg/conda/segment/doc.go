// Package segment makes what a package becomes in an environment once, and keeps it: packs and images are put together
// from such pieces.
//
// A segment is a piece of a tar. Tars that end without the two blocks of zeros can be joined, and so can gzip members
// (RFC 1952, section 2.2) and zstd frames (RFC 8878, section 3):
//
//	archive, or layer of an image
//	├ segment of python     one gzip member, cached
//	├ segment of numpy      one gzip member, cached
//	├ conda-meta, history   made each time; small
//	└ closing member        1,024 zeros, always the same bytes
//
// # The key
//
// What is in a segment follows from its key and nothing else: the digest of the package's archive, the prefix and the
// platform that it is linked for, python's version and site-packages if the package is noarch python, the paths that are
// left out because another package has them or the caller does not want them, how it is compressed, and with which versions
// of the compiler and the library. So that the digest is true of what lies unpacked, files are compared with the digests
// that the package lists while they are read; see ChangedError. Whoever makes it, wherever and with however many workers, makes the same bytes: entries are sorted, they
// belong to nobody (0:0), and have one time.
//
// The one exception to one time: python checks bytecode against the time of its source, so a source whose bytecode is in
// the same package gets the time that the bytecode expects. Else every import in a read-only image would compile again.
//
// # The cache
//
//	<cache>/
//	├ gz/ab/ab12….tar.gz      the segment with its closing member: a layer as it is
//	├ gz/ab/ab12….json        sizes, digests and what conda-meta has to say; written last, its presence means "complete"
//	└ tmp/                    what is not finished
//
// Files are written beside their place and renamed. They are checked against their digest whenever they are read; one that
// is broken is removed and made again. Above its limit the cache drops what was not used for the longest time. It may be
// deleted at any time.
package segment
