// Package plane is the fetch plane: it brings the files of proxy channels into the house when they are first asked for,
// and lets their readers have the bytes while they come.
//
// # What it is asked
//
// A gateway that finds a path of a proxy channel not stored, or no longer fresh, asks one plane (package fetchplane)
// after it has decided that its client may read the channel. What kind of file it is follows from the path alone:
//
//	<dir>/<name>-<version>-<build>.conda, .tar.bz2   a package: its index says what it must be
//	<dir>/shards/<sha256>.msgpack.zst                a shard: its name says what it must be
//	<dir>/repodata_shards.msgpack.zst                the family of shards
//	<dir>/repodata.json*, current_repodata.json*     the family of the full index
//	anything else                                    a document that stands alone
//
// # Flights
//
// A package or shard is fetched by one flight, however many want it. Its bytes go to a temporary file, which all readers
// follow from its beginning, and to the blob store, which hashes them:
//
//	upstream ──▶ flight ──┬──▶ temporary file ──▶ readers, up to 64 KiB behind the writer
//	                      └──▶ blob store: SHA-256, MD5 and size must be those of the record
//
// The last 64 KiB are withheld until the blob is stored and is what the index announces. Otherwise the readers' connections
// are cut, so that nobody takes the file for complete, and nothing is stored. Who asks for a part, or has a condition, waits
// until then. The index is then read once more: if it
// announces another file now, readers that have not seen a byte get that one; if not, the file is refused for a while.
// Should upstream break off, the download goes on where it was; bytes that come a second time are compared with those
// that readers have, who are cut if they differ. A flight outlives its readers by Config.Linger. Memory does not grow with the
// file. One channel has a quarter of the flights at most.
//
// While there is no answer the gateway is sent 102 Processing, so that it can tell a plane that waits from one that hangs.
//
// Between processes a lease in PostgreSQL decides who asks upstream. The others wait until the file is stored, or until
// the lease ends or expires, and then look again: a holder that was killed costs a few seconds.
//
// # Families
//
// Index files of one directory that say the same are a family, and come from one read of upstream: `.json`, `.zst`,
// `.bz2`, `.gz` and current_repodata.json are made from the one form that was fetched, and switch together. Shards are
// another: their index is rewritten, so that base_url and shards_base_url lead to us.
//
// A family is fresh for Config.IndexTTL, and then asked for with its ETag. If upstream takes longer than
// Config.RevalidateWait readers get the copy meanwhile; if it fails they get it too, with its age and a warning, for as
// long as Config.MaxStale.
//
// When an index changes, stored packages that it now announces otherwise are put in doubt: the plane is asked before they
// are served again. Channels is told so until it has taken note (the column told), and puts in doubt by itself what was
// looked up in a generation that is no longer the family's: a flight may take longer than an index stays.
//
// includelist and excludelist narrow the index, and what they leave out is not there. What proxylist names is listed, but
// its readers are sent upstream.
//
// # Facts
//
// What a file must be is looked up in a blob that is made when the index is read: one fixed-size entry for each file,
// sorted by the hash of its name, so that one read of the blob finds it in a channel of any size.
package plane
