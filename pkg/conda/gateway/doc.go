// Package gateway reads channels as a conda client does: it brings what channels say about packages to a solver, and no
// more of it than a question needs.
//
// A channel's subdir describes its packages in several files. The gateway takes the first of them that the channel has:
//
//	repodata_shards.msgpack.zst   one small file per package name (CEP 16): only the names that matter are fetched
//	repodata.json.zst             all records, read as a stream into an arena (package arena)
//	repodata.json.bz2, .json      the same, larger
//
// Where all names are asked for, one file comes before thousands of shards. Which names matter is found out step by step:
// those of the question, then those that their records depend on, and so on. A repo that was read in part says so
// (solve.Repo.Partial) and lists the names there are, so that nobody takes what was not read for what does not exist.
//
// # Files
//
// Where files come from is the caller's: a Source opens a file by its path below the channel. Dir is a channel in a
// directory. A Cache keeps what came, and asks sources only whether it changed; shards are named by their digest and are
// never asked for twice. Offline, the cache is all there is.
//
// Downloading, decompressing and parsing go on at the same time, and of an index of any size no more than a few megabytes are
// in memory beside what is made of it. That is kept beside the cache's copy as a snapshot, and mapped into memory the next
// time, as long as the copy has the same digest. A snapshot or a copy that is damaged is made or fetched anew. A directory has
// no snapshots: nothing but reading its files says that they are what they were.
//
// # Related channels
//
// A channel may name others that belong to it (CEP 42): see Relations. Whoever calls Load decides whether they are followed,
// how far, and which are allowed.
//
// # What a channel is
//
// A channel has a noarch subdir; a platform that it lacks is empty. A channel of which no subdir can be found is an error,
// as is a file that is broken: a solve over half of a channel would be an answer to another question.
package gateway
