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
// anew, a sync is told (it must compare its plan again). Uploads to a channel that come within 20 ms share a revision;
// each is still accepted or refused by itself.
//
// # Index files
//
// A package name's records in a subdir are a shard, named by its digest; the subdir's shard index names the shards. Both
// become visible with the revision: a client that reads shards sees an upload at once. repodata.json and its .zst are
// built by jobs (KindIndex) of the newest head from one snapshot of the rows, and switch together; they lag by one build.
// Every index file is a rendition: a path serves its newest rendition that is not newer than the revision asked for, so
// a file is never a mix of two revisions.
//
// # What holds
//
//   - Nothing is listed that is not stored with that digest and size, or else marked as redirected to the upstream.
//   - A failed or killed publication leaves nothing visible; at most blobs that no row names, which storage collects.
//   - A job's writes carry its claim and are refused once another attempt has begun.
//   - size + growth ≤ size_limit, checked under the lock, for all writers together.
//   - Mirrors and proxies take no uploads and deletions; hosted channels take no plans.
package channels
