// Package migrationlint holds migrations to the upgrade rule: versions N and N−1 of the platform run together on one
// database, so a migration only expands. What N−1 still reads or writes goes one release later.
//
// In a migration that comes after the last release, a statement may not
//
//   - take something away or give it another name: DROP TABLE, DROP COLUMN, DROP DEFAULT, RENAME, TRUNCATE;
//   - narrow what may be written: SET NOT NULL, ADD COLUMN … NOT NULL without a default, a column's new TYPE;
//   - hold a lock for as long as the table is big: CREATE or DROP INDEX without CONCURRENTLY (which needs the file to say
//     `-- +goose NO TRANSACTION`), a new constraint without NOT VALID, UPDATE and DELETE (a backfill is a job).
//
// A table that the same file creates is nobody's yet, and anything may be done to it. A contraction whose time has come
// says so in a comment on the line above the statement, which reviewers then judge. What takes away or narrows also says
// from which version of the schema on programs can bear it, which refuses older ones (package pg). That must be one that
// the last release knows, since it runs beside the next:
//
//	-- entrepot:min-version 7
//	-- contract: nothing has read origin since v0.4.0
//	ALTER TABLE channels.files DROP COLUMN origin;
//
// The rules read SQL as text, not as PostgreSQL does. They are a net under reviews, not a proof.
package migrationlint
