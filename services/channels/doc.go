// Package channels keeps channels: their settings and members, their files and packages, the revisions that these went
// through, and the index files by which conda clients find them.
//
// # Revisions
//
// A channel is at a revision, its head. The content of revision n is the rows of files with added_rev ≤ n < removed_rev,
// so a publication writes only what differs, the past stays readable, and readers never wait. The head moves by
// compare-and-set in the same transaction that writes the rows.
//
// There is one publisher. An upload, a deletion and a sync are the same thing with one or two hundred thousand rows:
//
//	stage ─▶ diff against head ─▶ build the touched shards ─▶ store them ─▶ lock, compare head, write, move head ─▶ announce
//	COPY     set-wise SQL          nothing else is rebuilt     durable      one transaction                         bus
//
// Whoever finds another head under the lock than the one it began with has lost a race: uploads and deletions begin
// anew, a sync is told (it must compare its plan again). Uploads to a channel that come together share a revision;
// each is still accepted or refused by itself.
//
// # Index files
//
// A package name's records in a subdir are a shard, named by its digest; the subdir's shard index names the shards. Both
// become visible with the revision: a client that reads shards sees an upload at once. The other files are built by jobs:
//
//	with the revision   shards, repodata_shards.msgpack.zst
//	KindIndex           repodata.json .zst .gz, of the newest head from one snapshot of the rows; they lag by one build
//	KindExtras          repodata.json.bz2, current_repodata.json, run_exports.json, of the revision of that repodata.json;
//	                    channeldata.json, of the head; each also as .zst .gz .bz2
//
// What a job builds switches together. Every index file is a rendition: a path serves its newest rendition that is not
// newer than the head, so a file is never a mix of two revisions. The .zst and .gz of a document are also what the edge
// sends, with a Content-Encoding, to those who ask for the plain name; Resolve names them if they are of its revision.
// A large repodata.json gets its .gz and .bz2 late, so that nobody waits for what few clients read. It is made from the one
// before (splice.go): spans of records that have not changed are copied, and only the rows that differ are read. Extras are
// built at once after a rest, and under a stream of publications every so many seconds, by the size of the index, and after
// the last; while a repodata.json is being built in the same process their packing pauses.
//
// run_exports.json lists a package that was looked into and exports nothing with {}, and leaves out one of which nobody
// knows (of a mirror whose upstream does not say). channeldata.json has texts and flags of uploads only.
//
// # Imports
//
// The plan that a mirror's head was made of is remembered (applied.go). The next plan is compared with it as both lie in
// storage, and only what differs is staged; all of it is compared with the rows if the former plan does not say enough.
//
// # The past
//
// Who asks for a revision, by number or by date, gets exactly that one. Package files follow from the rows. An index file
// of revision r shows revision n if its subdir did not change in (r, n], which channels.conda_changes knows; if retention
// has taken it, repodata.json and the shards are built anew from the rows, once for all who ask: at once in a small
// subdir, else by a job (KindPast) while the reader is told to come again. Two things are not kept for former revisions:
// the list of removed files, which is empty in what is built anew, and the extras, for which there is "not found" unless
// one is still there; clients fall back to repodata.json.
//
// Retention (retention.go) keeps a few former versions of each index file, shards for KeepShards after the last index that
// named them, and the rows of removed files for KeepHistory. Revisions of which rows are gone lie below the channel's
// floor and are "no longer kept".
//
// # What holds
//
//   - Nothing is listed that is not stored with that digest and size, or else marked as redirected to the upstream.
//   - A failed or killed publication leaves nothing visible; at most blobs that no row names, which storage collects.
//   - A job's writes carry its claim and are refused once another attempt has begun.
//   - size + growth ≤ size_limit, checked under the lock, for all writers together; the same for what all channels of a
//     namespace hold together, where that has a limit.
//   - Mirrors and proxies take no uploads and deletions; hosted channels take no plans.
package channels
