// Package plan reads and writes plan blobs: the list of all files that a channel shall have.
//
// A sync of a large channel decides about hundreds of thousands of files. They do not travel as messages between
// services; they are written once as a blob, and calls carry its digest. The blob is zstd of length-delimited
// protobuf messages (a varint with the length, then the message):
//
//	PlanHeader
//	PlanEntry   noarch/a-1-0.conda
//	PlanEntry   noarch/b-1-0.conda
//	…           sorted by path, byte by byte, each path once
//
// What reads a plan may rely on this much, because Writer does not write and Reader does not read anything else:
// paths passed names.CleanPath, ascend and do not repeat; digests have their length or are absent; an entry is kept or
// redirected but not both; the number of entries is the one the header promised. Whether an entry makes sense in its
// content format is for the format to say.
//
// Both sides hold one entry at a time. A reader takes limits, since a few kilobytes of zstd can unfold to terabytes,
// and Open checks the blob's digest while it reads: io.EOF comes only after bytes that were those of the digest.
package plan
