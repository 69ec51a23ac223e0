// Package pkgcache keeps conda packages on this machine, downloaded once, checked once and unpacked once.
//
//	<cache>/
//	├ zlib-1.3.1-h4ab18f5_1/           an unpacked package, complete and checked
//	│ ├ info/repodata_record.json      what the lock or the channel said of it; its presence means "complete"
//	│ ├ lib/libz.so.1.3.1              …
//	├ zlib-1.3.1-h4ab18f5_1-0a1b…/     another package of the same name, version and build, by its SHA-256
//	└ .work/
//	  ├ zlib-1.3.1-h4ab18f5_1.lock     held while somebody works on that package
//	  └ zlib-1.3.1-h4ab18f5_1.3f9c…/   what is not finished
//
// # What is promised
//
// A directory outside of .work has exactly the content of an archive that had the size and the digests which the caller
// demanded: all are taken while the bytes come in, and an archive that differs is never unpacked. By the digests that were
// computed then an entry is found again; what a channel or a lock claims counts for nothing else, and a package of which
// nobody knows a digest is fetched every time. What is unpacked is held against the package's own list of paths as well. Unpacking follows the rules of package archive, so nothing is
// written outside, whatever the archive holds.
//
// Directories appear by one rename, after their bytes are durable, and are never changed afterwards. Environments link
// to their files; who writes into such a file changes it here too, which [Cache.Check] finds.
//
// # When things fail
//
// Any number of processes may use a cache at the same time. For each package they agree by a lock on a file, which the
// kernel releases when a process dies; whoever gets it next finds what the dead one left in .work, removes it, and does
// the work itself. Nothing is decided by age or by process number. A cache may be deleted while nobody uses it;
// environments keep their files.
package pkgcache
