// Package fetchplane is the way from the edge to the fetch plane of sync: how a gateway asks for a file of a proxy
// channel that is not stored yet, and which of several sync processes it asks.
//
//	gateway ── GET /fetch?channel=…&path=… ──▶ sync    (internal token, audience sync-fetch)
//	        ◀── resolved: it is in storage now ──
//	        ◀── stream: here are the bytes, while they come in ──
//	        ◀── an error, as a fault ──
//
// Files of one channel are spread over the processes by rendezvous hashing, so that all gateways ask the same process
// for the same file, and readers share its one request upstream; when a process goes, only its files move. A process
// that does not answer is passed over. That two gateways see different sets of processes for a moment does no harm but
// a wait: a lease in PostgreSQL settles which of them asks upstream.
//
// A plane runs in the gateway's own process too, behind an in-memory connection: the path is the same.
package fetchplane
