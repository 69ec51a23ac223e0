// Package refs knows who refers to which blob. It is a library over one PostgreSQL schema that every service writes in its
// own transactions: the row that names a digest and the reference to that digest commit together, so a blob that is
// listed anywhere has a reference, and garbage collection needs to ask nobody else.
//
//	put the blob          durable, unreferenced: garbage collection waits for the grace period
//	begin
//	  insert the row      channels.files, an artifact, a registry layer …
//	  refs.Add            the same transaction
//	commit
//
// # Life of a blob
//
//	         Record, Adopt, Add            Mark: unreferenced and unseen for the grace period
//	(none) ───────────────────▶ kept ─────────────────────────────────────────────▶ marked
//	                             ▲ ▲ Add, Record                                      │
//	                             │ └──────────────────────────────────────────────────┤
//	                             │ Record                                             │ Sweep: still unreferenced after
//	                             └──────────────────────── condemned ◀────────────────┘ the grace period, under lock
//	                                                           │ Sweep: bytes deleted, under lock
//	                                                           ▼
//	                                                        (tombstone, then none)
//
// Add takes a shared lock on the blob's row and Sweep an exclusive one, and Sweep asks for references again once it has
// the lock. So either the reference is seen and the blob stays, or the blob is condemned and Add fails with *GoneError,
// a lost race: the caller puts the bytes again, calls Record, and retries.
//
// The case that needs this is a put that found the blob there already, of bytes that nobody had referred to for long.
// Record closes it: it takes the blob out of the collector's hands and names those that may be gone already.
package refs
