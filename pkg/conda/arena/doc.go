// Package arena holds the records of one subdir's repodata in little memory: half a million of them in some 80 MB, read in
// half a second, and read again from a file in no time.
//
// # Shape
//
// An [Arena] is a handful of flat slices without a single Go pointer, so the collector has nothing to walk:
//
//	records  112 bytes each: numbers, digests, and ids of strings
//	deps     ids of the dependencies and constraints of all records, one run per record
//	offsets  id → where the string begins in the slab
//	slab     every distinct string once, end to end
//	order    record numbers by package name, and of a name in the order of the index
//	groups   package names, sorted, each with its part of order
//
// A string is an id, and equal strings are one id, so whoever parses versions or match specs does it once for each. What
// few records have (license_family, track_features, keys that nobody knows) is one string, the "rest": the members as JSON.
// [Arena.Record] puts a whole record together again.
//
// # Reading
//
// [Read] takes a document of any size as a stream: what it holds of it is a window of some records. A record that looks as
// nearly all do (flat, no escapes) is read in one pass over its bytes; any other goes through repodata.CheckRecord and
// repodata.ParseRecord. Both roads refuse the same records, and give the same for those they take. A [Builder] takes single
// records, for shards.
//
// # Snapshots
//
// [Arena.WriteSnapshot] writes the slices as they are, [OpenSnapshot] maps them into memory again: that costs a system call
// and the check of a header. A snapshot is a cache. It names the digest of what it was made from, and one of another
// source, version or byte order is [ErrStale]: build anew.
//
// A header with a wrong checksum or a wrong length of the file is refused when it is opened; the body has a checksum of its
// own, which [Arena.Verify] computes: some 15 ms for half a million records, without keeping the file in memory. The gateway
// always asks for it, since a flipped bit would be a wrong answer. Even a body that was made to deceive, with all
// checksums right, cannot crash a reader: every id and every range is checked where it is used, and one that leads nowhere
// is empty. What checks cannot catch is a file that is cut short while it is mapped. Nobody here does that: snapshots are
// only ever replaced by renaming, which leaves the old file to those who have it open.
//
// # Strings and their end
//
// Strings of an arena alias its slab, which may be a mapped file: they are valid as long as the arena is reachable. Clone
// what outlives it. Records from [Arena.Record] are clones.
package arena
