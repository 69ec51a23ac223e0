// Package sample makes conda channels out of nothing, and serves them: an upstream to mirror where there is no network,
// with contents that are known to the byte.
//
// [Build] writes a channel of small but complete packages. They depend on each other, and every one of them can be
// solved for and installed by any client:
//
//	linux-64   libraries  (a binary file with a prefix to replace, symbolic links, run exports)
//	           tools      (text and binary prefixes)
//	           python     (a shell script: enough for noarch python packages to be linked, not to be run)
//	           modules    (built for python 3.12)
//	noarch     python packages with entry points, and plain data
//
// Some come in several versions and builds, some as .conda, some as .tar.bz2, some as both; one has an epoch and a local
// version, whose `!` and `+` clients percent-encode in URLs.
//
// Equal options make equal bytes, and another [Options.Seed] makes other bytes in every package: a server that has stored
// one sample has stored nothing of the next. With [Options.Tiny] the packages are alike and very small, and come by the
// thousand per second: material for benchmarks.
//
// [Serve] puts a channel on a loopback port as a static web server would, and [Upstream.Corrupt] spoils files behind the
// index's back, which no correct mirror may hand on.
package sample
