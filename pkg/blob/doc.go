// Package blob stores bytes under the name they cannot lie about: their SHA-256.
//
// Every file of the platform is a blob: a package archive, an index rendition, an artifact of an
// environment, a sync plan on its way from one service to another. The same bytes exist once, whoever
// refers to them; package refs knows who does, and garbage collection deletes what nobody does.
//
// # What a store promises
//
//   - Verified in. The digest is computed once, while the bytes stream in. What the caller expected
//     (digest, MD5, size) is compared before anything becomes visible; a mismatch stores nothing and is
//     a *MismatchError.
//   - Atomic. A blob is either not there or there in full. A client that goes away half-way, a full
//     disk, a kill -9 leave at most a temporary file, which nobody can read and CleanTemp removes.
//   - Durable. When Put or Batch.Commit returns nil the blob survives a power cut, so a database row
//     may name it from then on and not a moment earlier. This holds for "it was already there" too.
//   - Immutable. A blob never changes. Its digest is a strong entity tag that holds for ever.
//
// # The stores
//
//	OpenDir  a directory: tmp/ and sha256/ab/abcd…; files are served with sendfile
//	OpenS3   a bucket of any S3 service: small blobs in one conditional PUT, larger ones by multipart
//	         upload to a temporary key that is copied to its final one when the digest is known
//	Cache    a decorator that keeps small hot blobs in memory
//
// blobtest.Memory is the fake for tests, and blobtest.Run the one suite that all of them pass.
// What only some stores can do is an optional interface: Batcher, Presigner, TempCleaner. Ask with As, which
// looks through decorators.
//
// # Batches
//
// Making one file durable costs one flush of the disk; making 256 files durable need not cost 256. A Batch
// takes many blobs, shows none of them, and at Commit makes them durable together and visible one after
// the other. Importers of small files use it: thousands of files a second instead of hundreds.
//
// # Knowing a digest gives nothing
//
// This package does not ask who is calling. The HTTP side, package dataplane, does: it wants a signed grant.
package blob
