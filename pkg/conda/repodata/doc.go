// Package repodata reads, edits and writes the index of a conda channel: repodata.json, its records, and shards.
//
// # Raw records
//
// The unit is the record as it was received: a span of JSON bytes. A channel that is mirrored, patched and served again
// must give back keys nobody here has heard of, with numbers and escapes spelled as they were. So the raw bytes are the
// truth, and everything else is a view or an edit of them:
//
//	ParseRecord    a typed, tolerant view (Record) that keeps the raw bytes
//	SetKey         one key replaced or added, every other byte untouched
//	DeleteKey      one key removed, every other byte untouched
//	HostedRecord   the record of a package we hold, from its info/index.json
//
// # Streams
//
// A repodata.json has up to a few hundred megabytes and half a million records. Read walks it in one pass with memory
// bounded by the largest record, and Writer splices raw records back without parsing them:
//
//	upstream ──NewDecoder──▶ Read ──(bucket, file name, raw)──▶ … rows … ──▶ Writer ──▶ repodata.json
//	                                                              │
//	                                                              └──▶ BuildShard ──▶ <sha256>.msgpack.zst
//
// WriteCurrent, RunExportsWriter and ChannelData make the files that lie beside it: current_repodata.json,
// run_exports.json (CEP 12) and channeldata.json (CEP 38). NewEncoder packs any of them as clients ask for them.
//
// A bucket is one of the maps a record can stand in: "packages" (.tar.bz2), "packages.conda", and the buckets of
// CEP 48, spelled here "v3/conda", "v3/tar.bz2", "v3/whl", whose keys have no extension.
//
// # Strangers' bytes
//
// Two kinds of defect are told apart. What breaks the file (syntax, NaN, a string without end, a limit) ends the read.
// What breaks one record (not an object, no name, a key twice, bad UTF-8, an unsafe or repeated file name) is a problem
// of that record: with ReadOptions.Problem set it is reported there and its neighbours are read on. Both are *Error and
// name the place by JSON pointer and byte offset; a limit that was hit can be found in them as *LimitError.
//
// # Shards
//
// A shard (CEP 16, 21, 48) holds all records of one package name of one subdir, as zstd-compressed msgpack addressed by
// the SHA-256 of the compressed bytes. Content addressing needs equal input to give equal bytes, so BuildShard sorts
// keys, lets the value alone choose the width of an integer (the shortest that holds it), and uses one zstd level.
//
// Numbers keep their value as JSON readers know it (RFC 8259, section 6): integers of up to 64 bits exactly, all others
// as the nearest IEEE 754 double. The rest of a record survives JSON → shard → JSON unchanged but for key order,
// escapes and white space.
package repodata
