// Package pg is how Entrepot works with PostgreSQL: it runs a private server, opens pools, migrates schemas, gives
// errors their kinds, retries lost serialisation races and listens to notifications.
//
// # The private server
//
// [StartEmbedded] runs the machine's own PostgreSQL on a cluster of ours, reachable by unix socket only. It promises
//
//   - a half-made cluster is never used: initdb works beside its place, and the result is renamed;
//   - no server outlives its program: the kernel sends it a fast shutdown when we die, by kill -9 too;
//   - a server that was left behind nevertheless is stopped before ours starts;
//   - run by root it changes to user postgres, else nobody, and says which parent directory stands in their way.
//
// It does not lock the directory: the caller holds the lock of the data directory (package lifecycle).
//
// # Schemas
//
// All services share one database and each owns one schema (no foreign keys or joins across), as do the libraries that
// every service writes in its own transaction. A [Schema] is a name and the SQL files that make it; its version stands
// in <name>.schema_version. Replicas that start together migrate one after the other, and a migration that cannot get
// its lock within two seconds fails rather than let traffic queue up behind it.
//
// Versions N and N−1 of a program run together, so one may start on a schema that the next has migrated. Which ones do
// stands in <name>.schema_range: an upgrade records the version that it found (the release before, which goes on
// working), or a newer one if a migration names it ([MinVersion]). [CheckAll] refuses a database that is older than the
// program needs, or that works with newer programs only.
//
// # Errors
//
// [Classify] turns what the driver returns into the kinds of package fault, by SQLSTATE. The driver's error stays
// reachable by errors.As, its text (which may hold row values) does not reach the caller.
package pg
