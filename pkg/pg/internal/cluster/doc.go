// Package cluster lays out and prepares a private PostgreSQL cluster on this machine: it finds the server's
// binaries, chooses the account they run as, makes the cluster once, and clears away what a crash left.
//
// Under its root directory it keeps
//
//	<root>/data       the cluster (PGDATA), owned by the server's account, 0700
//	<root>/data.tmp   a cluster that initdb has not finished; removed at the next start
//	<root>/run        the unix socket, 0700; a short-named directory under /tmp stands in when the path is too long
//
// Running the server is left to the callers, because they differ in one thing: package pg keeps the postmaster as
// a supervised child, package pgtest hands it to a shell that outlives a killed test binary.
package cluster
