// Package gateway reads channels as a conda client does: it brings what channels say about packages to a solver, and no
// more of it than a question needs.
//
// A channel's subdir describes its packages in several files. The gateway takes the first of them that the channel has:
//
//	repodata_shards.msgpack.zst   one small file per package name (CEP 16): only the names that matter are fetched
//	repodata.json.zst             all records; only the names that matter are read (repodata.Sparse)
//	repodata.json.bz2, .json      the same, larger
//
// Which names matter is found out step by step: those of the question, then those that their records depend on, and so
// on. Without names, or where a name is a pattern, everything is read.
//
// # Files
//
// Where files come from is the caller's: a Source opens a file by its path below the channel. Dir is a channel in a
// directory. A Cache keeps what came, and asks sources only whether it changed; shards are named by their digest and are
// never asked for twice. Offline, the cache is all there is.
//
// # What a channel is
//
// A channel has a noarch subdir; a platform that it lacks is empty. A channel of which no subdir can be found is an error,
// as is a file that is broken: a solve over half of a channel would be an answer to another question.
package gateway
